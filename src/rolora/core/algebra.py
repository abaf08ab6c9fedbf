"""The algebra of factors: products, low-rank SVD through QR, and the gauge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rolora.core.errors import RunFailed
from rolora.core.types import Adapter


def stacked_factors(
    pairs: Sequence[tuple[float, Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """``sum_k w_k B_k A_k`` as one product ``U V``.

    Args:
        pairs: ``(w_k, B_k [d_out, r_k], A_k [r_k, d_in])``.

    Returns:
        ``U [d_out, sum r_k]`` and ``V [sum r_k, d_in]``.
    """
    return (
        torch.cat([weight * B for weight, B, _ in pairs], dim=1),
        torch.cat([A for _, _, A in pairs], dim=0),
    )


def product_norm(B: Tensor, A: Tensor) -> float:
    """``|B A|_F`` without forming the product: ``tr(B^T B A A^T)``, two Gram matrices ``[r, r]``.

    Args:
        B: ``[d_out, r]``; A: ``[r, d_in]``.
    """
    B, A = B.double(), A.double()
    return float(((B.T @ B) * (A @ A.T)).sum().clamp(min=0.0).sqrt())


def low_rank_svd(U: Tensor, V: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best rank-`rank` approximation of ``U V`` (Eckart-Young), never forming ``U V``.

    ``U = Q_u R_u`` and ``V^T = Q_v R_v``, so that the SVD of the small ``R_u R_v^T`` gives that of
    the product.

    Args:
        U: ``[d_out, q]``; V: ``[q, d_in]``; rank: at most ``min(q, d_out, d_in)`` is kept.

    Returns:
        left ``[d_out, rank]`` with orthonormal columns, singular values ``[rank]`` in falling
        order, right ``[rank, d_in]`` with orthonormal rows; zero-padded where the product's rank
        cannot reach `rank`.

    Raises:
        RunFailed: the product is not finite, or so large that the SVD does not converge.
    """
    Qu, Ru = torch.linalg.qr(U)
    Qv, Rv = torch.linalg.qr(V.T)
    left, values, right = _svd(Ru @ Rv.T)
    left, values, right = Qu @ left[:, :rank], values[:rank], right[:rank] @ Qv.T
    missing = rank - values.numel()
    if missing > 0:
        left = torch.nn.functional.pad(left, (0, missing))
        values = torch.nn.functional.pad(values, (0, missing))
        right = torch.nn.functional.pad(right, (0, 0, 0, missing))
    return left, values, right


def _svd(core: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    try:
        if core.isfinite().all():  # LAPACK writes on the terminal where it is not
            left, values, right = torch.linalg.svd(core, full_matrices=False)
            return left, values, right
    except torch.linalg.LinAlgError:
        pass
    raise RunFailed(
        "the clients' factors have grown until their product has no SVD: the run diverges; "
        "try a lower optimizer.lr"
    )


def principal_factors(U: Tensor, V: Tensor, rank: int, previous: Tensor) -> tuple[Tensor, Tensor]:
    """The SVD of ``U V`` at `rank` as factors: all singular values on B.

    Args:
        U: ``[d_out, q]``; V: ``[q, d_in]``.
        rank: of the factors.
        previous: A ``[r, d_in]`` as it was, whose signs are kept (:func:`aligned`).

    Returns:
        ``A [rank, d_in]`` with orthonormal rows, which span rows of V where ``U V`` has a smaller
        rank, and ``B [d_out, rank]`` with orthogonal columns in falling length.

    Raises:
        RunFailed: the product has no SVD (:func:`low_rank_svd`).
    """
    left, values, right = low_rank_svd(U, V, rank)
    return aligned(right, left * values, previous)


def compress(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """``U V`` exactly, with inner width at most ``min(d_out, d_in)``: bounds a growing stack."""
    if U.shape[1] <= min(U.shape[0], V.shape[1]):
        return U, V
    if U.shape[0] <= V.shape[1]:
        return torch.eye(U.shape[0], dtype=U.dtype, device=U.device), U @ V
    return U @ V, torch.eye(V.shape[1], dtype=V.dtype, device=V.device)


def aligned(A: Tensor, B: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    """Flip the signs of paired rows of `A` and columns of `B` so that `A` points as `previous`.

    An SVD leaves these signs open; a server optimiser that compares rounds needs them to stay.
    """
    rows = min(A.shape[0], previous.shape[0])
    sign = torch.ones(A.shape[0], dtype=A.dtype, device=A.device)
    sign[:rows] = torch.where((A[:rows] * previous[:rows]).sum(1) < 0, -1.0, 1.0).to(A.dtype)
    return A * sign[:, None], B * sign[None, :]


def procrustes(X: Tensor, Y: Tensor, share: float = 1.0) -> Tensor:
    """The orthogonal ``R [r, r]`` that brings ``X R`` nearest to `Y` in the Frobenius norm.

    Args:
        X: ``[n, r]``; Y: ``[n, r]``.
        share: 1 turns all the way; below that the result is the orthogonal matrix nearest to
            ``(1 - share) I + share R``, of the best R that is no reflection.

    Source: Schoenemann, A Generalized Solution of the Orthogonal Procrustes Problem, Psychometrika
    1966: ``R = U V^T`` for ``X^T Y = U S V^T``.
    """
    U, _, V = torch.linalg.svd(X.T @ Y)
    R: Tensor = U @ V
    if share < 1.0:
        V[-1] *= torch.linalg.det(R).sign()
        unit = torch.eye(len(R), dtype=R.dtype, device=R.device)
        U, _, V = torch.linalg.svd((1.0 - share) * unit + share * (U @ V))
        R = U @ V
    return R


def orthonormalise(adapter: Adapter, frozen: Literal["A", "B"]) -> Adapter:
    """Fix the gauge: give the factor about to be frozen an orthonormal basis.

    ``B A = (B L)(L^-1 A)`` for every invertible ``L``. With ``frozen = "A"``: ``A = L Q``, then
    ``A <- Q`` and ``B <- B L``; with ``"B"``: ``B = Q R``, then ``B <- Q`` and ``A <- R A``. The
    product does not change, so aggregation stays exact. The triangular factor's diagonal is made
    positive, which makes the result unique; a frozen factor without full rank (``B = 0`` at the
    start, or ``r`` above the layer's width) is left as it is.
    """
    changed = adapter.clone()
    for module in changed.modules:
        A, B = changed[module, "A"], changed[module, "B"]
        basis, triangle = (A.T, B) if frozen == "A" else (B, A.T)
        Q, R = torch.linalg.qr(basis.double())
        diagonal = R.diagonal()
        full_rank = diagonal.abs().min() > 1e-6 * diagonal.abs().max()
        if R.shape[0] < R.shape[1] or not full_rank:
            continue
        sign = diagonal.sign()
        basis.copy_(Q * sign)
        triangle.copy_(triangle.double() @ (R * sign[:, None]).T)
    return changed
