"""Federated linear regression with a low-rank truth: the problem of Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rolora.core.errors import BadInput
from rolora.core.seeds import numpy_generator

Array = NDArray[Any]  # of float64

MOST_REDRAWS = 10_000
BLOCK = 128


@dataclass(frozen=True)
class Setting:
    """From what problems are drawn; the defaults past `m` are the paper's assumptions.

    Args:
        d: width of the input.
        k: width of the output.
        r: rank of the truth and of the adapter.
        clients: N.
        m: samples of a client.
        noise: standard deviation of Gaussian noise on ``Y``.
        condition: condition number of each client's own input covariance, which has random axes
            and mean eigenvalue 1; 1 is the identity for all.
        spread: how far the clients' ``B_i*`` scatter around their mean ``B*``, as a share of
            ``|B*|_F``.
        resolved: ``A0`` is drawn anew until the cosine of its largest angle to ``A*`` is at least
            this many times ``1 / sqrt(N m)``; 0 takes the first draw.
    """

    d: int = 20
    k: int = 8
    r: int = 1
    clients: int = 5
    m: int = 400
    noise: float = 0.0
    condition: float = 1.0
    spread: float = 0.0
    resolved: float = 0.0


@dataclass(frozen=True)
class Regression:
    """N clients' linear regressions that share a down-projection, one problem or many at once.

    Client i holds ``X_i``, ``Y_i = X_i A* B_i*^T + noise`` and the loss
    ``|Y_i - X_i A B^T|_F^2 / m``; the global loss is the mean over clients. Every array may carry
    leading axes (``...``), one entry a problem; the algorithms run them all together.

    Args:
        X: ``[..., N, rows, d]``.
        Y: ``[..., N, rows, k]``.
        A_star: ``[..., d, r]``, orthonormal columns; the paper's unit vector ``a*`` for r = 1.
        B_star: ``[..., N, k, r]``, each client's own; all equal in the paper.
        A0: ``[..., d, r]``, orthonormal columns: the random start.
        m: samples of a client; more than `rows` where :func:`rotate_rows` has shortened the data.
    """

    X: Array
    Y: Array
    A_star: Array
    B_star: Array
    A0: Array
    m: int

    @property
    def b_mean(self) -> Array:
        """The mean of the clients' ``B_i*``, ``[..., k, r]``."""
        return self.B_star.mean(axis=-3)

    @property
    def b_singular_values(self) -> Array:
        """Singular values of :attr:`b_mean`, ``[..., r]``, descending; ``|b*|`` for r = 1."""
        return np.linalg.svd(self.b_mean, compute_uv=False)

    @property
    def delta0(self) -> Array:
        """Sine of the angle between the start and ``A*``, ``[...]``."""
        return sine(self.A0, self.A_star)


def draw_problems(seed: int, problems: int, setting: Setting) -> Regression:
    """Draw independent random problems; problem p depends on `seed`, p and `setting` alone.

    ``A*`` and ``A0`` are uniform among orthonormal ``[d, r]``; ``B*`` has random singular vectors
    and singular values uniform in [1, 2]; the rows of ``X_i`` are Gaussian.

    Raises:
        BadInput: r is larger than d, k or m, or a random start is never so well `resolved`.
    """
    most = min(setting.d, setting.k, setting.m)
    if setting.r > most:
        raise BadInput(f"r = {setting.r}: must be at most min(d, k, m) = {most}")
    drawn = [_draw(numpy_generator(seed, "linear", p), setting) for p in range(problems)]
    X, Y, A_star, B_star, A0 = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
    return Regression(X, Y, A_star, B_star, A0, m=setting.m)


def _draw(rng: np.random.Generator, of: Setting) -> tuple[Array, Array, Array, Array, Array]:
    A_star = orthonormal(rng.normal(size=(of.d, of.r)))
    B = orthonormal(rng.normal(size=(of.k, of.r))) * rng.uniform(1.0, 2.0, size=of.r)
    X = rng.normal(size=(of.clients, of.m, of.d))
    A0 = _random_start(rng, A_star, of)
    shift = rng.normal(size=(of.clients, of.k, of.r))
    shift *= np.linalg.norm(B) / np.sqrt(of.k * of.r)
    B_star = B + of.spread * (shift - shift.mean(axis=0))
    X = X @ _covariance_roots(rng, of)
    Y = X @ A_star @ B_star.swapaxes(-1, -2)
    Y += of.noise * rng.normal(size=Y.shape)
    return *rotate_rows(X, Y), A_star, B_star, A0


def _random_start(rng: np.random.Generator, A_star: Array, of: Setting) -> Array:
    least = of.resolved / np.sqrt(of.clients * of.m)
    for _ in range(MOST_REDRAWS):
        A0 = orthonormal(rng.normal(size=A_star.shape))
        if np.linalg.norm(A_star.T @ A0, ord=-2) >= least:
            return A0
    raise BadInput(
        f"m = {of.m}: with {of.clients} clients too few samples to tell a random start in "
        f"{of.d} dimensions from an orthogonal one; use more"
    )


def _covariance_roots(rng: np.random.Generator, of: Setting) -> Array:
    """Symmetric square roots of the clients' covariances, ``[N, d, d]``."""
    axes = orthonormal(rng.normal(size=(of.clients, of.d, of.d)))
    eigenvalues = np.geomspace(1.0, of.condition, of.d)
    return axes * np.sqrt(eigenvalues / eigenvalues.mean()) @ axes.swapaxes(-1, -2)


def rotate_rows(X: Array, Y: Array) -> tuple[Array, Array]:
    """The same regression in at most ``d + k`` rows.

    With ``[X Y] = Q R``, ``Q^T`` rotates the rows and leaves ``|Y - X W|_F`` as it is for every
    ``W``, and with it every loss, gradient and least-squares solution.
    """
    data = np.concatenate([X, Y], axis=-1)
    R = data[..., :0, :]
    # Few rows at a time: BLAS would start threads for more, and wait for them longer than it works.
    for start in range(0, data.shape[-2], BLOCK):
        rows = np.concatenate([R, data[..., start : start + BLOCK, :]], axis=-2)
        R = cast(Array, np.linalg.qr(rows, mode="r"))
    return R[..., : X.shape[-1]], R[..., X.shape[-1] :]


def orthonormal(M: Array) -> Array:
    """The Q of ``M = Q R`` with a positive diagonal in R; ``M / |M|`` for a single column."""
    Q, R = np.linalg.qr(M)
    return Q * np.where(np.diagonal(R, axis1=-2, axis2=-1) < 0, -1.0, 1.0)[..., None, :]


def sine(A: Array, A_star: Array) -> Array:
    """Sine of the largest principal angle between two orthonormal bases ``[..., d, r]``.

    It is the norm of what sticks out of the span of ``A*``, ``|(I - A* A*^T) A|_2``, which is right
    to rounding at any size; ``sqrt(1 - cos^2)`` stops near 1e-8.
    """
    return np.linalg.norm(A - A_star @ (A_star.swapaxes(-1, -2) @ A), ord=2, axis=(-2, -1))
