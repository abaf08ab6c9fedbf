"""Moments carried to another frozen factor, against the gradients of a whole weight in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rolora.client.moments import maps, transported, with_bases
from rolora.core.types import Adapter

D_OUT, D_IN, R = 9, 11, 3
FIRST = ("exp_avg", "momentum_buffer")
both_factors = pytest.mark.parametrize("factor", ["A", "B"])
seeds = st.integers(0, 2**32)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(seed, r=R):
    """A random orthogonal matrix ``[r, r]``."""
    return torch.linalg.qr(draw(seed, r, r))[0]


def start_of(A, B):
    return Adapter.of({("m", "A"): A, ("m", "B"): B})


def gradient(G, factor, A, B):
    """Of the factor, for the whole weight's gradient ``G [d_out, d_in]``."""
    return G @ A.T if factor == "B" else B.T @ G


def kept_at(G, factor, A, B):
    """First moments of a gradient G of the whole weight, a second moment, and where they are."""
    g = gradient(G, factor, A, B).float()
    state = {f"{factor}.{name}": g.flatten() for name in FIRST}
    state |= {f"{factor}.exp_avg_sq": g.square().flatten(), f"{factor}.step": torch.tensor(7.0)}
    start = start_of(A, B)
    return with_bases(state, start, start.select({factor}))


def shape_of(factor):
    return (D_OUT, R) if factor == "B" else (R, D_IN)


@both_factors
@given(seeds)
def test_the_first_moment_follows_every_invertible_change_of_basis(factor, seed):
    A, B, G = draw(seed, R, D_IN), draw(seed + 1, D_OUT, R), draw(seed + 2, D_OUT, D_IN)
    L = turned(seed + 3) + 0.5 * turned(seed + 4).tril()
    if torch.linalg.cond(L) > 30:
        return
    A2, B2 = torch.linalg.inv(L) @ A, B @ L
    carried = transported(kept_at(G, factor, A, B), start_of(A2, B2), {factor})
    expected = gradient(G, factor, A2, B2).float()
    for name in FIRST:
        ours = carried[f"{factor}.{name}"].view(shape_of(factor))
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)
    assert carried[f"{factor}.step"] == 7


@both_factors
@given(seeds)
def test_of_a_gradient_only_what_the_old_factor_saw_is_carried(factor, seed):
    """The least gradient that fits the old moment, seen through the new factor."""
    A, B, G = draw(seed, R, D_IN), draw(seed + 1, D_OUT, R), draw(seed + 2, D_OUT, D_IN)
    A2, B2 = draw(seed + 5, R, D_IN), draw(seed + 6, D_OUT, R)
    seen = G @ torch.linalg.pinv(A) @ A if factor == "B" else B @ torch.linalg.pinv(B) @ G
    carried = transported(kept_at(G, factor, A, B), start_of(A2, B2), {factor})
    ours = carried[f"{factor}.exp_avg"].view(shape_of(factor))
    expected = gradient(seen, factor, A2, B2).float()
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-2)


@given(seeds, st.integers(1, 5))
def test_the_second_moment_is_exact_where_columns_are_scaled_exchanged_or_turned_round(seed, r):
    X, V = draw(seed, 12, r), draw(seed + 1, 4, r).square()
    order = torch.randperm(r, generator=torch.Generator().manual_seed(seed))
    scale = draw(seed + 2, r)
    _, P = maps(X, X[:, order] * scale)
    torch.testing.assert_close(V @ P, V[:, order] * scale.square())


@given(seeds)
def test_the_second_moment_seen_from_orthogonal_columns_is_that_of_uncorrelated_ones(seed):
    """``v (T * T)``; between orthonormal bases every row's sum, ``E |g_i|^2``, stays as it was."""
    Q, V = torch.linalg.qr(draw(seed, 12, R))[0], draw(seed + 1, 4, R).square()
    X, change = Q * (0.1 + draw(seed + 3, R).abs()), draw(seed + 4, R, R)
    T, P = maps(X, X @ change)
    torch.testing.assert_close(T, change)
    torch.testing.assert_close(P, T.square())
    _, P = maps(Q, Q @ turned(seed + 2))
    torch.testing.assert_close((V @ P).sum(1), V.sum(1))


@given(seeds, st.floats(1e-9, 1.0))
def test_the_second_moment_stays_within_the_old_scales_for_columns_next_to_each_other(seed, apart):
    """As those of B after a first round are; the moments come from one gradient, so they fit."""
    X = draw(seed, 12, 1) + apart * draw(seed + 1, 12, R)
    X_new, G = X + 0.1 * draw(seed + 2, 12, R), draw(seed + 3, 5, 12)
    V = (G @ X).square()
    _, P = maps(X.float(), X_new.float())
    carried = (V @ P) / X_new.square().sum(0)
    scales = V / X.square().sum(0)
    assert (carried >= 0).all()
    assert (carried <= 1.001 * scales.amax(1, keepdim=True)).all()
    assert (carried >= 0.999 * scales.amin(1, keepdim=True)).all()


@both_factors
def test_nothing_is_seen_from_a_factor_of_zeros_and_nothing_breaks(factor):
    A, B, G = draw(0, R, D_IN), draw(1, D_OUT, R), draw(2, D_OUT, D_IN)
    kept = kept_at(G, factor, 0 * A, 0 * B)
    carried = transported(kept, start_of(A, B), {factor})
    assert not carried[f"{factor}.exp_avg"].any()
    assert not carried[f"{factor}.exp_avg_sq"].any()


@both_factors
def test_without_a_change_of_the_other_factor_every_bit_stays(factor):
    A, B, G = draw(0, R, D_IN), draw(1, D_OUT, R), draw(2, D_OUT, D_IN)
    if factor == "A":
        B[:, 1] = B[:, 0]  # also where the frozen factor lacks full rank
    kept = kept_at(G, factor, A, B)
    kept[f"{factor}.exp_avg_sq"] = draw(3, *shape_of(factor)).square().flatten().float()
    moved = start_of(A + (factor == "A"), B + (factor == "B"))
    carried = transported(kept, moved, {factor})
    assert carried.keys() == kept.keys() - {f"{factor}.basis"}
    assert all(torch.equal(carried[name], kept[name]) for name in carried)


def test_what_does_not_train_waits_with_its_basis_and_nothing_is_written_over():
    A, B, G = draw(0, R, D_IN), draw(1, D_OUT, R), draw(2, D_OUT, D_IN)
    kept = kept_at(G, "A", A, B) | kept_at(G, "B", A, B)
    before = {name: value.clone() for name, value in kept.items()}
    carried = transported(kept, start_of(A + 1, B + 1), {"B", "head"})
    assert all(torch.equal(kept[name], value) for name, value in before.items())
    for name in kept:
        if name.startswith("A."):
            assert torch.equal(carried[name], kept[name])
    assert "B.basis" not in carried
    assert not torch.equal(carried["B.exp_avg"], kept["B.exp_avg"])
    assert transported({}, start_of(A, B), {"A", "B"}) == {}


def test_the_basis_is_the_factor_beside_as_the_last_step_saw_it():
    start, after = (
        start_of(draw(0, R, D_IN), draw(1, D_OUT, R)),
        start_of(draw(2, R, D_IN), draw(3, D_OUT, R)),
    )
    alone = with_bases({}, start, after.select({"B"}))
    assert alone.keys() == {"B.basis"}
    assert torch.equal(alone["B.basis"], start.select({"A"}).flat)
    both = with_bases({}, start, after)
    assert torch.equal(both["B.basis"], after.select({"A"}).flat)
    assert torch.equal(both["A.basis"], after.select({"B"}).flat)
