"""Alternating minimisation and gradient descent (Algorithm 2), and what it is compared with.

Inside, every factor has a client axis: ``A [..., 1 or N, d, r]`` and ``B [..., 1 or N, k, r]``,
of length 1 where all clients share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from experiments.linear.theory.problem import Array, Regression, orthonormal, sine


@dataclass(frozen=True)
class Trajectory:
    """What the server holds after each round; entry 0 is the start, ``(A0, 0)``.

    Where too large a step overflowed, the sine is NaN, loss and error are infinite.

    Args:
        sine: ``[..., rounds + 1]``, sine of the largest principal angle between A and ``A*``.
        loss: ``[..., rounds + 1]``, the global loss on the clients' data.
        error: ``[..., rounds + 1]``, ``|A B^T - A* B*^T|_F^2`` with the mean ``B*``; the excess
            of the expected loss on new samples where inputs are isotropic.
        A: ``[..., d, r]``, in the end.
        B: ``[..., k, r]``, in the end.
    """

    sine: Array
    loss: Array
    error: Array
    A: Array
    B: Array


def alt_min_gd(problem: Regression, eta: Array | float, rounds: int) -> Trajectory:
    """Algorithm 2 of Chen et al. (2025): RoLoRA on the linear regressor.

    Each round every client solves for its ``B_i`` in closed form and the server takes their mean;
    then every client sends the gradient of its loss in A at that B, and the server takes one
    step of size `eta` and makes the columns of A orthonormal again. For r = 1 the closed form is
    ``b_i = Y_i^T X_i a / |X_i a|^2`` and the last step is ``a <- a / |a|``, as in the paper; r > 1
    is the same with least squares and a QR.

    Args:
        problem: one or many.
        eta: step size, a number or one for each problem ``[...]``.
        rounds: how many.
    """

    def states() -> Iterator[tuple[Array, Array]]:
        A = shared(problem.A0)
        for _ in range(rounds):
            B = mean(least_squares_b(problem, A))
            in_A, _ = gradients(problem, A, B)
            A = orthonormal(A - per_problem(eta) * mean(in_A))
            yield A, B

    return _record(problem, states())


def ffa(problem: Regression, rounds: int) -> Trajectory:
    """FFA-LoRA (Sun et al., 2024): A stays at its start, B is the mean of the closed forms."""

    def states() -> Iterator[tuple[Array, Array]]:
        A = shared(problem.A0)
        for _ in range(rounds):
            yield A, mean(least_squares_b(problem, A))

    return _record(problem, states())


def fedavg_lora(
    problem: Regression,
    eta_A: Array | float,
    eta_B: Array | float,
    rounds: int,
    local_steps: int = 1,
) -> Trajectory:
    """FedAvg of LoRA: clients take gradient steps in A and B together, the server averages both.

    Args:
        problem: one or many.
        eta_A: step size of A, a number or one for each problem ``[...]``.
        eta_B: step size of B, likewise.
        rounds: how many.
        local_steps: a client's steps in a round; with one, averaging the factors is exact.
    """

    @np.errstate(over="ignore", invalid="ignore")  # too large a step runs off to infinity
    def one_round(A: Array, B: Array) -> tuple[Array, Array]:
        for _ in range(local_steps):
            in_A, in_B = gradients(problem, A, B)
            A, B = A - per_problem(eta_A) * in_A, B - per_problem(eta_B) * in_B
        return mean(A), mean(B)

    def states() -> Iterator[tuple[Array, Array]]:
        A, B = shared(problem.A0), shared(np.zeros_like(problem.b_mean))
        for _ in range(rounds):
            A, B = one_round(A, B)
            yield A, B

    return _record(problem, states())


def least_squares_b(problem: Regression, A: Array) -> Array:
    """Each client's best B for a given A: ``B_i = Y_i^T Z (Z^T Z)^-1`` with ``Z = X_i A``."""
    Z = problem.X @ A
    return transpose(np.linalg.solve(transpose(Z) @ Z, transpose(Z) @ problem.Y))


def gradients(problem: Regression, A: Array, B: Array) -> tuple[Array, Array]:
    """Each client's gradients of ``|Y_i - X_i A B^T|_F^2 / m`` in A and in B."""
    Z = problem.X @ A
    residual = Z @ transpose(B) - problem.Y
    scale = 2 / problem.m
    return scale * transpose(problem.X) @ (residual @ B), scale * transpose(residual) @ Z


def mean(per_client: Array) -> Array:
    """The server's mean over the client axis, which stays with length 1."""
    return per_client.mean(axis=-3, keepdims=True)


def shared(factor: Array) -> Array:
    """Give a factor that all clients share its client axis."""
    return factor[..., None, :, :]


def per_problem(eta: Array | float) -> Array:
    """A step size per problem, shaped to scale ``[..., N, d, r]``."""
    return np.asarray(eta)[..., None, None, None]


def transpose(M: Array) -> Array:
    """Swap the last two axes."""
    return M.swapaxes(-1, -2)


def _record(problem: Regression, states: Iterator[tuple[Array, Array]]) -> Trajectory:
    A, B = shared(problem.A0), shared(np.zeros_like(problem.b_mean))
    rows = [_measure(problem, A, B)]
    for A, B in states:
        rows.append(_measure(problem, A, B))
    sines, losses, errors = (np.stack(column, axis=-1) for column in zip(*rows, strict=True))
    return Trajectory(sines, losses, errors, A[..., 0, :, :], B[..., 0, :, :])


def _measure(problem: Regression, A: Array, B: Array) -> tuple[Array, Array, Array]:
    """Sine, loss and error of one state, ``[...]`` each."""
    with np.errstate(over="ignore", invalid="ignore"):
        residual = problem.X @ A @ transpose(B) - problem.Y
        loss = (residual**2).sum(axis=(-2, -1)).mean(axis=-1) / problem.m
        A, B = A[..., 0, :, :], B[..., 0, :, :]
        gap = A @ transpose(B) - problem.A_star @ transpose(problem.b_mean)
        error = (gap**2).sum(axis=(-2, -1))
        finite = np.isfinite(A.sum(axis=(-2, -1)))
    angle = sine(orthonormal(np.where(finite[..., None, None], A, 1.0)), problem.A_star)
    return np.where(finite, angle, np.nan), _diverged_to_inf(loss), _diverged_to_inf(error)


def _diverged_to_inf(values: Array) -> Array:
    return np.nan_to_num(values, nan=np.inf, posinf=np.inf)
