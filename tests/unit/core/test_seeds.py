"""Named seeds: one seed a tuple of names, the same as ever."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rolora.core.seeds import derive, numpy_generator, torch_generator

pieces = st.lists(st.text(alphabet='ab\\"[], 1', max_size=3), min_size=1, max_size=4)


@st.composite
def joined(draw, parts):
    """Names of which some hold several of the parts, with slashes between."""
    names = [parts[0]]
    for part in parts[1:]:
        if draw(st.booleans()):
            names[-1] += "/" + part
        else:
            names.append(part)
    return names


@hypothesis_settings(max_examples=300)
@given(pieces.flatmap(lambda parts: st.tuples(joined(parts), joined(parts))))
def test_other_names_have_other_seeds(pair):
    first, second = pair
    assert (derive(1, *first) == derive(1, *second)) == (first == second)


@pytest.mark.parametrize(
    ("first", "second"), [(("a/b",), ("a", "b")), (("a/", "b"), ("a", "/b")), (("/",), ("", ""))]
)
def test_a_slash_in_a_name_does_not_part_it(first, second):
    assert derive(1, *first) != derive(1, *second)
    assert derive(1, "[2/3") != derive(1, "[2", "3")


@given(st.integers(0, 2**63), st.lists(st.text(max_size=3).filter(lambda t: "/" not in t)))
def test_names_without_a_slash_keep_the_seeds_that_they_always_had(seed, given_names):
    text = "/".join([str(seed), *given_names])
    expected = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    assert derive(seed, *given_names) == expected


def test_generators_are_drawn_from_the_names():
    assert derive(0, "batches", 3, 1) == 6161227316424785357
    assert torch_generator(0, "a").initial_seed() == derive(0, "a")
    assert numpy_generator(0, "a").random() == numpy_generator(0, "a").random()
    assert numpy_generator(0, "a").random() != numpy_generator(0, "b").random()
