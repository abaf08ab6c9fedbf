"""Means, products, the SVD through QR, and the gauge, against dense float64 arithmetic."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rolora.core.algebra import (
    aligned,
    compress,
    low_rank_svd,
    orthonormalise,
    stacked_factors,
)
from rolora.core.errors import RunFailed
from rolora.core.types import Adapter, Update
from rolora.reducers import Mean
from rolora.reducers.products import WeightedProducts

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
seeds = st.integers(0, 2**32)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(seed, d_out, d_in, r, module="m"):
    return Adapter.of({(module, "A"): draw(seed, r, d_in), (module, "B"): draw(seed + 1, d_out, r)})


def product(adapter, module="m"):
    return adapter[module, "B"].double() @ adapter[module, "A"].double()


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=20), seeds)
def test_the_streaming_mean_is_the_stacked_mean(weights, seed):
    updates = [Update(i, w, factors(seed + 9 * i, 4, 3, 2)) for i, w in enumerate(weights)]
    flat = torch.stack([u.parts.flat for u in updates]).double()
    w = torch.tensor(weights).double()[:, None]
    mean = Mean().reduce(iter(updates)).parts
    torch.testing.assert_close(
        mean.flat.double(), (w * flat).sum(0) / w.sum(), rtol=1e-5, atol=1e-5
    )


def test_the_mean_of_a_thousand_clients_keeps_its_precision():
    parts = [factors(i, 4, 3, 2) for i in range(1000)]
    mean = Mean().reduce(Update(i, 500 + i, p) for i, p in enumerate(parts)).parts
    weights = torch.arange(500.0, 1500.0).double()[:, None]
    exact = (weights * torch.stack([p.flat for p in parts]).double()).sum(0) / weights.sum()
    torch.testing.assert_close(mean.flat.double(), exact, rtol=0, atol=1e-5)


def test_a_mean_needs_something_to_average_of_one_layout():
    with pytest.raises(ValueError, match="no updates"):
        Mean().result()
    with pytest.raises(ValueError, match="no updates"):
        WeightedProducts().result()
    mean = Mean()
    mean.add_parts(factors(0, 4, 3, 2), 1)
    with pytest.raises(ValueError, match="different layouts"):
        mean.add_parts(factors(0, 4, 3, 1), 1)


@given(
    shapes,
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 100), st.floats(0.25, 16)),
        min_size=1,
        max_size=15,
    ),
    seeds,
)
def test_products_of_any_ranks_are_averaged_exactly_in_bounded_width(shape, clients, seed):
    d_out, d_in = shape
    products, exact = WeightedProducts(), torch.zeros(d_out, d_in).double()
    for i, (r, weight, s) in enumerate(clients):
        parts = factors(seed + 5 * i, d_out, d_in, r)
        products.add(parts, weight, s)
        exact += weight * s * product(parts)
        width = sum(item[1].shape[1] for item in products.stacks["m"])
        assert width <= max(r, 2 * min(shape))
    U, V = products.result()["m"]
    exact /= sum(weight for _, weight, _ in clients)
    scale = exact.abs().max().clamp(min=1.0) * 10
    torch.testing.assert_close((U @ V).double() / scale, exact / scale, rtol=0, atol=2e-6)


@given(shapes, st.integers(1, 30), seeds)
def test_compression_changes_nothing_but_the_width(shape, q, seed):
    U, V = draw(seed, shape[0], q), draw(seed + 1, q, shape[1])
    small_u, small_v = compress(U, V)
    assert small_u.shape[1] == small_v.shape[0] <= min(q, max(shape))
    assert small_u.shape[1] <= max(min(shape), 1) or q <= min(shape)
    torch.testing.assert_close(small_u @ small_v, U @ V)


def test_stacked_factors_are_the_weighted_sum():
    pairs = [(0.5, draw(1, 4, 2), draw(2, 2, 3)), (2.0, draw(3, 4, 1), draw(4, 1, 3))]
    U, V = stacked_factors(pairs)
    assert U.shape == (4, 3)
    torch.testing.assert_close(U @ V, sum(w * B @ A for w, B, A in pairs))


@given(shapes, st.integers(1, 20), st.integers(1, 14), seeds)
def test_the_svd_reaches_the_eckart_young_error(shape, q, rank, seed):
    d_out, d_in = shape
    U, V = draw(seed, d_out, q), draw(seed + 1, q, d_in)
    left, values, right = low_rank_svd(U, V, rank)
    assert left.shape == (d_out, rank)
    assert values.shape == (rank,)
    assert right.shape == (rank, d_in)
    dense = U.double() @ V.double()
    singular = torch.linalg.svdvals(dense)
    best = singular[rank:].square().sum().sqrt()
    error = (dense - (left * values @ right).double()).norm()
    assert error <= best + 1e-4 * singular[0]
    kept = min(rank, d_out, d_in, q)
    torch.testing.assert_close(values[:kept].double(), singular[:kept], rtol=1e-3, atol=1e-3)
    assert (values.diff() <= 0).all()
    eye = torch.eye(kept)
    torch.testing.assert_close(left[:, :kept].T @ left[:, :kept], eye, rtol=0, atol=1e-4)
    torch.testing.assert_close(right[:kept] @ right[:kept].T, eye, rtol=0, atol=1e-4)
    assert not values[kept:].any()


@given(st.integers(1, 6), st.integers(0, 8), seeds)
def test_signs_follow_the_previous_factor(r, previous_rows, seed):
    A, B, previous = draw(seed, r, 5), draw(seed + 1, 4, r), draw(seed + 2, previous_rows, 5)
    flipped_a, flipped_b = aligned(A, B, previous)
    torch.testing.assert_close(flipped_b @ flipped_a, B @ A)
    rows = min(r, previous_rows)
    assert ((flipped_a[:rows] * previous[:rows]).sum(1) >= 0).all()


# The gauge ---------------------------------------------------------------------------------


@given(shapes, st.integers(1, 12), st.sampled_from("AB"), seeds)
def test_the_gauge_leaves_the_product_alone_and_the_frozen_factor_orthonormal(
    shape, r, frozen, seed
):
    before = factors(seed, *shape, r)
    kept = before.clone()
    after = orthonormalise(before, frozen)
    assert torch.equal(before.flat, kept.flat)
    scale = product(before).abs().max()
    torch.testing.assert_close(product(after) / scale, product(before) / scale, rtol=0, atol=1e-5)
    basis = after["m", "A"].T if frozen == "A" else after["m", "B"]
    if r > basis.shape[0] or torch.equal(after.flat, before.flat):
        return  # no orthonormal basis of r vectors, or a rank-deficient draw
    torch.testing.assert_close(basis.T @ basis, torch.eye(r), rtol=0, atol=1e-5)


@given(shapes, st.sampled_from("AB"), seeds)
def test_the_gauge_is_idempotent_and_unique(shape, frozen, seed):
    r = min(*shape, 3)
    before = factors(seed, *shape, r)
    once = orthonormalise(before, frozen)
    twice = orthonormalise(once, frozen)
    torch.testing.assert_close(twice.flat, once.flat, rtol=1e-5, atol=1e-5)
    # The triangle's diagonal is positive: <Q_i, frozen_i> > 0 for every basis vector.
    new, old = once["m", frozen], before["m", frozen]
    axis = 1 if frozen == "A" else 0
    assert ((new * old).sum(axis) > 0).all()


@pytest.mark.parametrize("frozen", ["A", "B"])
def test_the_gauge_leaves_a_factor_without_full_rank_as_it_is(frozen):
    zero = factors(0, 5, 4, 2).overwrite({("m", "B"): torch.zeros(5, 2)})
    if frozen == "B":
        assert torch.equal(orthonormalise(zero, "B").flat, zero.flat)
    for module in ("A", "B"):
        twin = factors(0, 5, 4, 2)
        same = twin["m", module].clone()
        if module == "A":
            same[1] = 2 * same[0]
        else:
            same[:, 1] = 2 * same[:, 0]
        deficient = twin.overwrite({("m", module): same})
        if module == frozen:
            assert torch.equal(orthonormalise(deficient, frozen).flat, deficient.flat)


def test_the_gauge_guards_each_module_by_itself():
    both = factors(0, 5, 4, 2, "a").overwrite(dict(factors(1, 5, 4, 2, "b")))
    both = both.overwrite({("a", "B"): torch.zeros(5, 2)})
    after = orthonormalise(both, "B")
    assert torch.equal(after["a", "A"], both["a", "A"])
    gram = after["b", "B"].T @ after["b", "B"]
    torch.testing.assert_close(gram, torch.eye(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_the_svd_of_factors_that_have_run_away_says_that_the_run_diverges(value):
    U, V = torch.full((5, 2), value), torch.full((2, 4), value)
    with pytest.raises(RunFailed, match="diverges"):
        low_rank_svd(U, V, 2)
