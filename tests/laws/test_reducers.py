"""Laws of every reducer, and what each claims for itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rolora.core.errors import BadInput
from rolora.core.types import Adapter, Update
from rolora.reducers import REDUCERS, make_reducer

every_reducer = pytest.mark.parametrize("name", REDUCERS)


def updates(n, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        Update(
            client=i,
            num_examples=3 + 5 * i,
            parts=Adapter.of(
                {
                    ("m", "B"): scale * torch.randn(4, 2, generator=generator),
                    ("n", "B"): scale * torch.randn(3, 2, generator=generator),
                }
            ),
        )
        for i in range(n)
    ]


def reduced(name, given):
    return make_reducer(name).reduce(given)


@every_reducer
@given(st.integers(1, 9), st.integers(0, 2**32))
def test_identical_updates_reduce_to_themselves(name, n, seed):
    (one,) = updates(1, seed)
    result = reduced(name, [replace(one, client=i, num_examples=1 + i) for i in range(n)])
    assert result.clients == n
    torch.testing.assert_close(result.parts.flat, one.parts.flat, rtol=1e-6, atol=1e-6)


@every_reducer
@given(st.permutations(range(6)))
def test_the_order_does_not_matter(name, order):
    given = updates(6)
    one, other = reduced(name, given), reduced(name, [given[i] for i in order])
    torch.testing.assert_close(one.parts.flat, other.parts.flat, rtol=0, atol=1e-5)


@every_reducer
def test_updates_are_not_changed_and_layouts_must_agree(name):
    given = updates(3)
    before = [update.parts.flat.clone() for update in given]
    reduced(name, given)
    assert all(torch.equal(u.parts.flat, b) for u, b in zip(given, before, strict=True))
    with pytest.raises(ValueError, match="different layouts"):
        reduced(name, [given[0], replace(given[1], parts=given[1].parts.select(set()))])
    with pytest.raises(ValueError, match="no updates"):
        make_reducer(name).result()


def test_the_mean_is_numpys_and_takes_constant_memory():
    given = updates(7)
    rows = np.stack([update.parts.flat.double().numpy() for update in given])
    weights = [update.num_examples for update in given]
    expected = np.average(rows, axis=0, weights=weights)
    np.testing.assert_allclose(reduced("mean", given).parts.flat, expected, atol=1e-6)
    even = reduced("mean", [replace(update, weight=1.0) for update in given])
    np.testing.assert_allclose(even.parts.flat, rows.mean(0), atol=1e-6)
    reducer = make_reducer("mean")
    for update in given:
        reducer.add(update)
    held = [value for value in vars(reducer).values() if isinstance(value, torch.Tensor)]
    assert [tensor.numel() for tensor in held] == [given[0].parts.layout.size]


@given(st.integers(1, 8), st.integers(0, 2**32))
def test_the_median_is_numpys(n, seed):
    given = updates(n, seed)
    rows = np.stack([update.parts.flat.numpy() for update in given])
    np.testing.assert_array_equal(reduced("median", given).parts.flat, np.median(rows, axis=0))


@given(st.integers(1, 4), st.sampled_from([-3e38, -1e4, 0.0, 1e4, 3e38]), st.integers(0, 2**32))
def test_no_minority_moves_the_median_out_of_the_others_range(liars, value, seed):
    honest = updates(liars + 1, seed)
    lies = [
        replace(
            honest[0],
            client=100 + i,
            num_examples=10**9,
            parts=Adapter(honest[0].parts.layout, torch.full_like(honest[0].parts.flat, value)),
        )
        for i in range(liars)
    ]
    median = reduced("median", [*lies, *honest]).parts.flat
    rows = torch.stack([update.parts.flat for update in honest])
    assert (median >= rows.amin(0)).all()
    assert (median <= rows.amax(0)).all()


def test_an_unknown_reducer_lists_the_known():
    with pytest.raises(BadInput, match=r"server.reducer = 'meadian'.*did you mean median"):
        make_reducer("meadian")
