"""Algorithm 2 on the linear regressor against plain loops, its theorem and what is derived."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.linear.theory import (
    Regression,
    Setting,
    alt_min_gd,
    contraction,
    draw_problems,
    fedavg_lora,
    ffa,
    ffa_floor,
    orthonormal,
    population_bound,
    restarted_bound,
    share_above_bound,
    sine,
    step_size,
    theorem_bound,
)
from experiments.linear.theory.algorithms import gradients
from experiments.linear.theory.problem import rotate_rows

ROUNDING = 1e-12


def above(sines, factor):
    """Problem x round: the sine shrank by less than `factor`, where float64 can tell."""
    return (sines[:, 1:] > sines[:, :-1] * factor[:, None] * (1 + ROUNDING)) & (
        sines[:, :-1] > ROUNDING
    )


def infinitely_many_samples(seed, d, k, r, problems=20):
    """Problems whose ``X^T X / m`` is the identity exactly, from random starts."""
    rng = np.random.default_rng(seed)
    A_star, A0 = orthonormal(rng.normal(size=(2, problems, d, r)))
    B = orthonormal(rng.normal(size=(problems, k, r))) * rng.uniform(1, 2, (problems, 1, r))
    X = np.broadcast_to(np.sqrt(d) * np.eye(d), (problems, 1, d, d))
    Y = X @ (A_star @ B.swapaxes(-1, -2))[:, None]
    return Regression(X, Y, A_star, B[:, None], A0, m=d)


def one(problems, p):
    """Problem p alone, without the leading axis."""
    return Regression(
        problems.X[p],
        problems.Y[p],
        problems.A_star[p],
        problems.B_star[p],
        problems.A0[p],
        problems.m,
    )


# -- the algorithm ------------------------------------------------------------------------------


def test_rank_one_is_algorithm_2_written_out():
    problem = one(draw_problems(3, 1, Setting(d=7, k=4, clients=3, m=30, noise=0.1)), 0)
    eta, m = 0.05, problem.m
    a_star, b_star = problem.A_star[:, 0], problem.B_star[0, :, 0]
    a, b = problem.A0[:, 0], np.zeros(4)
    sines, losses = [], []
    for _ in range(12):
        b = np.mean(
            [Y.T @ X @ a / np.sum((X @ a) ** 2) for X, Y in zip(problem.X, problem.Y, strict=True)],
            axis=0,
        )
        gradient = np.mean(
            [
                2 / m * X.T @ (np.outer(X @ a, b) - Y) @ b
                for X, Y in zip(problem.X, problem.Y, strict=True)
            ],
            axis=0,
        )
        a = a - eta * gradient
        a = a / np.linalg.norm(a)
        sines.append(np.sqrt(1 - (a @ a_star) ** 2))
        losses.append(
            np.mean(
                [
                    np.sum((Y - np.outer(X @ a, b)) ** 2) / m
                    for X, Y in zip(problem.X, problem.Y, strict=True)
                ]
            )
        )
    run = alt_min_gd(problem, eta, 12)
    np.testing.assert_allclose(run.sine[1:], sines, rtol=1e-9)
    np.testing.assert_allclose(run.loss[1:], losses, rtol=1e-12)
    np.testing.assert_allclose(run.A[:, 0], a, rtol=1e-9)
    np.testing.assert_allclose(run.B[:, 0], b, rtol=1e-9)
    np.testing.assert_allclose(
        run.error[-1], np.sum((np.outer(a, b) - np.outer(a_star, b_star)) ** 2), rtol=1e-9
    )


def test_the_start_is_recorded_with_b_zero():
    problem = draw_problems(0, 3, Setting())
    run = alt_min_gd(problem, 0.01, 2)
    np.testing.assert_allclose(run.sine[:, 0], problem.delta0, rtol=1e-12)
    expected = (problem.Y**2).sum(axis=(1, 2, 3)) / (5 * problem.m)
    np.testing.assert_allclose(run.loss[:, 0], expected)


@pytest.mark.parametrize("r", [1, 3])
def test_gradients_are_the_loss_s(r):
    problem = one(draw_problems(1, 1, Setting(d=5, k=4, r=r, clients=2, m=12)), 0)
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(1, 5, r)), rng.normal(size=(1, 4, r))

    def losses(A, B):
        gap = problem.Y - problem.X @ A @ B.swapaxes(-1, -2)
        return (gap**2).sum(axis=(-2, -1)) / problem.m

    in_A, in_B = gradients(problem, A, B)
    dA, dB = rng.normal(size=A.shape), rng.normal(size=B.shape)
    h = 1e-5
    slope_A = (losses(A + h * dA, B) - losses(A - h * dA, B)) / (2 * h)
    slope_B = (losses(A, B + h * dB) - losses(A, B - h * dB)) / (2 * h)
    np.testing.assert_allclose((in_A * dA).sum(axis=(-2, -1)), slope_A, rtol=1e-6)
    np.testing.assert_allclose((in_B * dB).sum(axis=(-2, -1)), slope_B, rtol=1e-6)


def test_a_batch_is_its_problems_one_by_one():
    problems = draw_problems(2, 3, Setting(d=8, k=5, r=2, m=40, spread=0.3, noise=0.1))
    eta = step_size(problems, 0.2)
    for run in (
        lambda p, e: alt_min_gd(p, e, 10),
        lambda p, e: ffa(p, 2),
        lambda p, e: fedavg_lora(p, e, 0.2, 10, 3),
    ):
        batch = run(problems, eta)
        for p in range(3):
            alone = run(one(problems, p), eta[p])
            np.testing.assert_allclose(batch.sine[p], alone.sine, rtol=1e-9, atol=1e-14)
            np.testing.assert_allclose(batch.loss[p], alone.loss, rtol=1e-9, atol=1e-14)


def test_rotated_rows_keep_every_loss():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(3, 50, 6)), rng.normal(size=(3, 50, 4))
    X_short, Y_short = rotate_rows(X, Y)
    assert X_short.shape == (3, 10, 6)
    for _ in range(3):
        W = rng.normal(size=(6, 4))
        np.testing.assert_allclose(
            ((Y_short - X_short @ W) ** 2).sum(axis=(1, 2)), ((Y - X @ W) ** 2).sum(axis=(1, 2))
        )


def test_fedavg_with_one_step_is_gradient_descent_on_the_pooled_data():
    setting = Setting(d=6, k=3, clients=4, m=20, spread=0.5, noise=0.2)
    problem = one(draw_problems(5, 1, setting), 0)
    pooled = Regression(
        problem.X.reshape(1, -1, 6),
        problem.Y.reshape(1, -1, 3),
        problem.A_star,
        problem.b_mean[None],
        problem.A0,
        problem.m * 4,
    )
    apart, together = (fedavg_lora(p, 0.05, 0.1, 20) for p in (problem, pooled))
    np.testing.assert_allclose(apart.loss, together.loss, rtol=1e-10)
    more = fedavg_lora(problem, 0.05, 0.1, 20, local_steps=5)
    assert not np.allclose(more.loss, fedavg_lora(pooled, 0.05, 0.1, 20, local_steps=5).loss)


def test_a_step_too_large_ends_in_infinity_without_a_warning(recwarn):
    problem = draw_problems(0, 4, Setting(d=5, k=3, m=30))
    run = fedavg_lora(problem, 10.0, 10.0, 60)
    assert np.isinf(run.loss[:, -1]).all()
    assert np.isnan(run.sine[:, -1]).all()
    assert not recwarn.list


# -- the angle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [1e-14, 1e-10, 1e-4, 1.0])
def test_the_sine_of_a_tiny_angle_is_right(angle):
    basis = orthonormal(np.random.default_rng(0).normal(size=(9, 3)))
    A = np.stack([basis[:, 0], np.cos(angle) * basis[:, 1] + np.sin(angle) * basis[:, 2]], axis=1)
    np.testing.assert_allclose(sine(A, basis[:, :2]), np.sin(angle), rtol=1e-2)
    np.testing.assert_allclose(sine(A[:, 1:], -basis[:, 1:2]), np.sin(angle), rtol=1e-2)


def test_the_sine_does_not_depend_on_the_basis():
    rng = np.random.default_rng(0)
    A, A_star = orthonormal(rng.normal(size=(2, 9, 3)))
    turn = orthonormal(rng.normal(size=(3, 3)))
    np.testing.assert_allclose(sine(A @ turn, A_star), sine(A, A_star))
    np.testing.assert_allclose(sine(A, A_star), sine(A_star, A))


# -- the theorem --------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.1, 0.25, 0.5])
def test_the_theorem_holds_in_every_round_of_100_problems(eta):
    problem = draw_problems(0, 100, Setting(resolved=5.0))
    step = step_size(problem, eta)
    run = alt_min_gd(problem, step, 120)
    assert not above(run.sine, contraction(problem, step)).any()
    assert (run.sine <= theorem_bound(problem, step, 120) + ROUNDING).all()
    # The bound says something: the angle is not under it by standing still.
    assert (theorem_bound(problem, step, 120)[:, -1] < 0.99 * problem.delta0).all()


def test_the_sine_reaches_1e_8_from_100_random_starts():
    problem = draw_problems(0, 100, Setting())
    sines = alt_min_gd(problem, step_size(problem, 0.25), 100).sine
    assert sines[:, 0].min() > 0.4
    assert sines[:, -1].max() < 1e-8


def test_few_samples_break_the_bound_as_often_as_derived():
    """The sine may grow in the first round, when the samples hide on which side a0 lies."""
    setting = Setting(d=10, k=2, clients=3, m=60)
    problem = draw_problems(0, 1500, setting)
    step = step_size(problem, 0.25)
    broken = above(alt_min_gd(problem, step, 3).sine, contraction(problem, step)).any(axis=1)
    expected = share_above_bound(setting, 0.25)
    assert abs(broken.mean() - expected) < 4 * np.sqrt(expected / 1500)
    cosine = np.sqrt(1 - problem.delta0**2) * np.sqrt(3 * 60)
    assert not broken[cosine > 5].any()


@pytest.mark.parametrize("r", [1, 3])
@pytest.mark.parametrize("eta", [0.05, 0.25, 0.5])
def test_with_infinitely_many_samples_the_bounds_hold_from_any_start(r, eta):
    problem = infinitely_many_samples(0, d=8, k=5, r=r)
    step = step_size(problem, eta)
    run = alt_min_gd(problem, step, 150)
    assert (run.sine <= population_bound(problem, step, 150) * (1 + 1e-9) + ROUNDING).all()
    assert (run.sine <= restarted_bound(problem, step, 150) * (1 + 1e-9) + ROUNDING).all()
    assert not above(run.sine, contraction(problem, step)).any()


def test_with_infinitely_many_samples_the_recursion_is_exact():
    problem = infinitely_many_samples(1, d=8, k=5, r=1)
    rate = 0.6  # 2 eta |b*|^2
    run = alt_min_gd(problem, step_size(problem, 0.3), 10)
    s = run.sine[:, :-1]
    c2 = 1 - s**2
    expected = s * (1 - rate * c2) / np.sqrt(1 + rate**2 * c2 * s**2)
    np.testing.assert_allclose(run.sine[:, 1:], expected, rtol=1e-7, atol=1e-12)


def test_twice_the_largest_step_does_not_converge():
    problem = infinitely_many_samples(2, d=8, k=5, r=1)
    assert (alt_min_gd(problem, step_size(problem, 1.0), 300).sine[:, -1] > 1e-3).all()


# -- a frozen A ---------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, 3])
def test_the_floor_is_the_least_error_of_any_b(r):
    problem = draw_problems(0, 5, Setting(d=9, k=4, r=r, m=40))
    for p in range(5):
        target = problem.A_star[p] @ problem.b_mean[p].T
        best = np.linalg.lstsq(problem.A0[p], target, rcond=None)[1].sum()
        np.testing.assert_allclose(ffa_floor(problem)[p], best)
    if r == 1:
        size = problem.b_singular_values[:, 0] ** 2
        np.testing.assert_allclose(ffa_floor(problem), problem.delta0**2 * size)


def test_ffa_stays_above_the_floor_and_ends_there():
    problem = draw_problems(0, 100, Setting())
    run, floor = ffa(problem, 5), ffa_floor(problem)[:, None]
    small = 5 * np.sqrt(2 / (5 * 400))
    assert (run.loss >= floor * (1 - small)).all()
    assert (run.error[:, 1:] >= floor * (1 - 1e-12)).all()
    np.testing.assert_allclose(run.loss[:, 1:] / floor, 1, atol=small)
    np.testing.assert_array_equal(run.sine, np.broadcast_to(run.sine[:, :1], run.sine.shape))


def test_ffa_keeps_a_and_means_the_clients_least_squares():
    problem = one(draw_problems(0, 1, Setting(d=6, k=3, r=2, m=30, spread=1.0, noise=0.3)), 0)
    run = ffa(problem, 3)
    best = [
        np.linalg.lstsq(X @ problem.A0, Y, rcond=None)[0].T
        for X, Y in zip(problem.X, problem.Y, strict=True)
    ]
    np.testing.assert_allclose(run.B, np.mean(best, axis=0), rtol=1e-9)
    np.testing.assert_array_equal(run.A, problem.A0)


def test_fedavg_of_lora_with_one_step_lies_between():
    problem = draw_problems(0, 100, Setting())
    step = step_size(problem, 0.25)
    ours, fedavg, frozen = (
        run.loss[:, 30]
        for run in (
            alt_min_gd(problem, step, 30),
            fedavg_lora(problem, step, 0.25, 30),
            ffa(problem, 30),
        )
    )
    assert (ours < fedavg).all()
    assert (fedavg < frozen).all()


# -- beyond the theorem -------------------------------------------------------------------------


def test_rank_four_converges():
    problem = draw_problems(0, 30, Setting(r=4))
    sines = alt_min_gd(problem, step_size(problem, 0.25), 250).sine
    assert sines[:, -1].max() < 1e-8


def test_own_covariances_converge():
    problem = draw_problems(0, 30, Setting(condition=10.0))
    assert alt_min_gd(problem, step_size(problem, 0.25), 150).sine[:, -1].max() < 1e-8


def test_own_b_keep_their_mean_and_leave_an_angle_that_samples_shrink():
    few, many = (
        draw_problems(0, 30, Setting(clients=4, m=m, d=6, k=3, spread=0.5)) for m in (100, 1600)
    )
    assert np.ptp(few.B_star, axis=1).max() > 0.1
    ends = [
        np.median(alt_min_gd(problem, step_size(problem, 0.25), 100).sine[:, -1])
        for problem in (few, many)
    ]
    assert ends[1] > 1e-4
    assert 2 < ends[0] / ends[1] < 8  # 1 / sqrt(m): 4


def test_own_b_and_own_covariances_leave_an_angle_that_samples_do_not_shrink():
    ends = []
    for m in (400, 6400):
        setting = Setting(clients=4, m=m, d=6, k=3, spread=0.5, condition=10.0)
        problem = draw_problems(0, 30, setting)
        run = alt_min_gd(problem, step_size(problem, 0.25), 150)
        ends.append(np.median(run.sine[:, -1]))
    assert 0.5 < ends[0] / ends[1] < 2


def test_spread_leaves_the_mean_b_star_where_it_was():
    plain, spread = (draw_problems(4, 3, Setting(spread=s)) for s in (0.0, 2.0))
    np.testing.assert_allclose(plain.b_mean, spread.b_mean, rtol=1e-12)
    np.testing.assert_array_equal(plain.A0, spread.A0)


def test_noise_leaves_an_angle_that_samples_shrink():
    ends = [
        np.median(alt_min_gd(p, step_size(p, 0.25), 100).sine[:, -1])
        for p in (draw_problems(0, 30, Setting(d=6, k=3, m=m, noise=0.5)) for m in (100, 1600))
    ]
    assert ends[1] > 1e-4
    assert 2 < ends[0] / ends[1] < 8


# -- the draws ----------------------------------------------------------------------------------


def test_draws_come_from_the_seed_and_the_problem_s_number_alone():
    setting = Setting(d=5, k=3, m=20, noise=0.1, condition=3.0, spread=0.2)
    first, again, more, other = (
        draw_problems(seed, n, setting) for seed, n in ((7, 2), (7, 2), (7, 4), (8, 2))
    )
    for name in ("X", "Y", "A_star", "B_star", "A0"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(first, name), getattr(more, name)[:2])
        assert not np.allclose(getattr(first, name), getattr(other, name))
    assert not np.allclose(first.A0[0], first.A0[1])


def test_covariances_have_the_condition_number_and_mean_eigenvalue_one():
    problem = draw_problems(0, 1, Setting(d=4, k=2, clients=2, m=200_000, condition=9.0))
    covariances = problem.X[0].swapaxes(-1, -2) @ problem.X[0] / problem.m
    eigenvalues = np.linalg.eigvalsh(covariances)
    np.testing.assert_allclose(eigenvalues.mean(axis=1), 1, rtol=0.02)
    np.testing.assert_allclose(eigenvalues[:, -1] / eigenvalues[:, 0], 9, rtol=0.05)
    assert not np.allclose(covariances[0], covariances[1], atol=0.1)


def test_resolved_starts_are_resolved():
    problem = draw_problems(0, 50, Setting(resolved=5.0))
    assert np.sqrt(1 - problem.delta0**2).min() >= 5 / np.sqrt(2000)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (Setting(r=9), "r = 9: must be at most min(d, k, m) = 8"),
        (Setting(m=1, resolved=5.0), "m = 1: with 5 clients too few samples"),
    ],
)
def test_problems_that_cannot_be_drawn_say_why(setting, words):
    from rolora.core.errors import BadInput

    with pytest.raises(BadInput) as error:
        draw_problems(0, 1, setting)
    assert words in str(error.value)
