"""Adapters in one flat vector."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rolora.core.types import EMPTY, PARTS, Adapter, Layout

keys = st.tuples(st.sampled_from(["a", "b", "c.d"]), st.sampled_from(PARTS))
sizes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
layouts = st.dictionaries(keys, sizes, max_size=8)


def fill(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@given(layouts)
def test_an_adapter_is_the_mapping_that_it_was_made_of(shapes):
    tensors = fill(shapes)
    adapter = Adapter.of(tensors)
    assert set(adapter) == set(tensors)
    assert len(adapter) == len(tensors)
    assert all(torch.equal(adapter[key], tensor) for key, tensor in tensors.items())
    assert adapter.layout.size == adapter.flat.numel() == sum(t.numel() for t in tensors.values())


@given(layouts, st.randoms())
def test_the_order_of_tensors_does_not_matter(shapes, random):
    tensors = fill(shapes)
    shuffled = list(tensors.items())
    random.shuffle(shuffled)
    first, second = Adapter.of(tensors), Adapter.of(dict(shuffled))
    assert first.layout == second.layout
    assert torch.equal(first.flat, second.flat)


@given(layouts, st.sets(st.sampled_from(PARTS)))
def test_selecting_parts(shapes, parts):
    adapter = Adapter.of(fill(shapes))
    chosen, rest = adapter.select(parts), adapter.without(parts)
    assert set(chosen) == {key for key in adapter if key[1] in parts}
    assert set(chosen) | set(rest) == set(adapter)
    assert not set(chosen) & set(rest)
    for key in chosen:
        assert torch.equal(chosen[key], adapter[key])
    assert chosen.layout == adapter.layout.select(parts)


@given(layouts)
def test_a_part_is_one_piece(shapes):
    adapter = Adapter.of(fill(shapes))
    for part in adapter.parts:
        start, end = adapter.layout.extent(part)
        piece = adapter.select({part}).flat
        assert torch.equal(adapter.flat[start:end], piece)
        assert piece.data_ptr() == adapter.flat[start:end].data_ptr()


@given(layouts, layouts)
def test_overwriting_copies(shapes, others):
    adapter, other = Adapter.of(fill(shapes)), Adapter.of(fill(others, seed=1))
    kept, kept_other = adapter.flat.clone(), other.flat.clone()
    both = adapter.overwrite(other)
    for key in both:
        assert torch.equal(both[key], other[key] if key in other else adapter[key])
    both.flat.zero_()
    assert torch.equal(adapter.flat, kept)
    assert torch.equal(other.flat, kept_other)


def test_a_clone_shares_no_memory():
    adapter = Adapter.of({("a", "A"): torch.ones(2)})
    adapter.clone().flat.zero_()
    assert adapter["a", "A"].tolist() == [1, 1]


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"\(3,\).*needs \(4,\)"):
        Adapter(Layout.of({("a", "A"): (2, 2)}), torch.zeros(3))


def test_nothing_is_an_adapter_too():
    assert len(EMPTY) == 0
    assert EMPTY.modules == []
    assert EMPTY.overwrite({("a", "B"): torch.ones(1)}).parts == {"B"}
