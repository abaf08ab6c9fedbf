"""What is known of Algorithm 2 and of a frozen A beforehand, as functions of the problem.

Where the paper speaks of ``|b*|``, rank r > 1 has the singular values of ``B*``: the largest
limits the step, the smallest the speed. docs/theory.md has the derivations.
"""

from __future__ import annotations

from math import atan, pi, sqrt

import numpy as np

from experiments.linear.theory.problem import Array, Regression, Setting


def step_size(problem: Regression, eta: float) -> Array:
    """Step sizes ``eta / |b*|^2``, ``[...]``."""
    return eta / problem.b_singular_values[..., 0] ** 2


def contraction(problem: Regression, eta: Array | float) -> Array:
    """Theorem 4.5's factor on the sine a round, ``sqrt(1 - eta (1 - delta0^2) |b*|^2)``, ``[...]``.

    `eta` is a step size as in :func:`experiments.linear.theory.alt_min_gd`. The theorem has r = 1.
    """
    strength = problem.b_singular_values[..., -1] ** 2
    return np.sqrt(1 - np.asarray(eta) * (1 - problem.delta0**2) * strength)


def theorem_bound(problem: Regression, eta: Array | float, rounds: int) -> Array:
    """Theorem 4.5's bound on the sine after each round, ``[..., rounds + 1]``."""
    factor = contraction(problem, eta)[..., None]
    return problem.delta0[..., None] * factor ** np.arange(rounds + 1)


def restarted_bound(problem: Regression, eta: Array | float, rounds: int) -> Array:
    """The theorem applied anew each round, with that round's sine as ``delta0``.

    ``sin(t + 1) <= sin(t) sqrt(1 - eta |b*|^2 cos(t)^2)``, iterated, ``[..., rounds + 1]``. Far
    tighter than :func:`theorem_bound` where the start is nearly orthogonal, as it is at random.
    """
    rate = np.asarray(eta) * problem.b_singular_values[..., -1] ** 2
    sines = [problem.delta0]
    for _ in range(rounds):
        sines.append(sines[-1] * np.sqrt(1 - rate * (1 - sines[-1] ** 2)))
    return np.stack(sines, axis=-1)


def population_bound(problem: Regression, eta: Array | float, rounds: int) -> Array:
    """A bound on the sine with infinitely many samples, ``[..., rounds + 1]``; derived here.

    ``sin(t + 1) <= sin(t) (1 - 2 eta |b*|^2 cos(t)^2)`` for isotropic inputs, equal ``b_i*`` and
    ``eta <= 1 / (2 |b*|^2)``; the bound iterates it.
    """
    rate = 2 * np.asarray(eta) * problem.b_singular_values[..., -1] ** 2
    sines = [problem.delta0]
    for _ in range(rounds):
        sines.append(sines[-1] * (1 - rate * (1 - sines[-1] ** 2)))
    return np.stack(sines, axis=-1)


def ffa_floor(problem: Regression) -> Array:
    """The least error that any B reaches with A frozen, ``|(I - A0 A0^T) A* B*^T|_F^2``, ``[...]``.

    For r = 1 it is ``delta0^2 |b*|^2``: Proposition 4.6 without its constant.
    """
    target = problem.A_star @ problem.b_mean.swapaxes(-1, -2)
    missed = target - problem.A0 @ (problem.A0.swapaxes(-1, -2) @ target)
    return (missed**2).sum(axis=(-2, -1))


def share_above_bound(setting: Setting, eta: float) -> float:
    """The share of random starts that the first round leaves above the theorem's bound.

    Derived in docs/theory.md for r = 1, many samples and many dimensions, `eta` in units of
    ``1 / |b*|^2``: the samples may hide on which side of ``a*``'s orthogonal plane a start lies.
    """
    blur = sqrt(setting.d / (setting.clients * setting.m))
    near, far = ((1 + 2 * eta + side * sqrt(1 + eta)) / (2 * eta) for side in (-1, 1))
    return (atan(blur / near) - atan(blur / far)) / pi
