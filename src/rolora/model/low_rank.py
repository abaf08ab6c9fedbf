"""The low-rank update of K clients side by side, ``y + s B A x``, with its gradient.

Autograd would find the same gradient. Written out, every product has its thin side, the rank,
first: with the rank last, BLAS libraries are up to five times as slow at it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rolora.model.frozen_linear import frozen_product


def low_rank_update(y: Tensor, x: Tensor, A: Tensor, B: Tensor, scaling: Tensor) -> Tensor:
    """``y + s B A x`` for each of K clients: ``[K, m, d_out]``.

    Args:
        y: ``[K, m, d_out]``; x: ``[K, m, d_in]``; scaling: ``[K, 1, 1]``.
        A: ``[K, r, d_in]``, or ``[1, r, d_in]`` where all clients hold one A, which then does not
            train.
        B: ``[K, d_out, r]``, or ``[1, d_out, r]`` likewise.
    """
    result: Tensor = _Update.apply(y, x, A, B, scaling)
    return result


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, A: Tensor, B: Tensor, scaling: Tensor) -> Tensor:
        hidden = _thin(x, A) * scaling
        trains_A = ctx.needs_input_grad[2]
        ctx.save_for_backward(hidden, x if trains_A else None, A, B, scaling)
        if len(B) == 1:
            return torch.addmm(y.flatten(0, 1), hidden.flatten(0, 1), B[0].T).view(y.shape)
        return torch.baddbmm(y, hidden, B.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        hidden, x, A, B, scaling = ctx.saved_tensors
        _, needs_x, needs_A, needs_B, _ = ctx.needs_input_grad
        g_x = g_A = g_B = None
        if needs_B:
            g_B = (hidden.transpose(1, 2) @ g).transpose(1, 2)
        if needs_A or needs_x:
            g_hidden = _thin(g, B.transpose(1, 2)) * scaling
            g_A = g_hidden.transpose(1, 2) @ x if needs_A else None
            g_x = _wide(g_hidden, A) if needs_x else None
        return g, g_x, g_A, g_B, None


def _thin(x: Tensor, W: Tensor) -> Tensor:
    """``x W^T``: ``[K, m, d]`` and ``[K or 1, r, d]`` to ``[K, m, r]``."""
    if len(W) == 1:
        return frozen_product(x, W[0])
    return (W @ x.transpose(1, 2)).transpose(1, 2)


def _wide(hidden: Tensor, W: Tensor) -> Tensor:
    """``h W``: ``[K, m, r]`` and ``[K or 1, r, d]`` to ``[K, m, d]``."""
    if len(W) == 1:
        return frozen_product(hidden, W[0].T)
    return hidden @ W
