"""Numbers as whole ones modulo 2^32, so that masks hide them wholly and sums of them are exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rolora.core.types import Update

Numbers = npt.NDArray[np.uint32]
LOSS = "sum.loss"
"""The tensor beside a masked update that holds its training loss, masked with it."""
MASKED = ((LOSS, (1,), torch.int32),)
"""Name, shape and kind of the tensors beside masked parts."""
LOSS_REACH = 1024.0
"""A training loss above it is told as this."""


class Withheld(Exception):  # noqa: N818
    """An update that cannot be one of a sum; its client does not send it.

    Args:
        reason: ``nan``, ``train_loss`` or ``out_of_reach``.
        detail: in words.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class FixedPoint:
    """Shares of a weighted mean of numbers within `reach`: ``round(p x s)`` stands for ``p x``,
    with p the client's share of the weight and ``s = (2^31 - n) / reach``.

    The shares add up to 1 at most, so that the sum over n clients is within 2^31 and the mean is
    off by no more than ``n / 2 s``: with reach 4 and 50 clients by 5e-8.

    Args:
        reach: the largest number, either way.
        clients: n, of those that are asked.
    """

    reach: float
    clients: int

    @property
    def scale(self) -> float:
        """Steps in 1."""
        return (2**31 - self.clients) / self.reach

    def encoded(self, x: Tensor, share: float) -> Numbers:
        """``round(share x s)`` of float numbers within reach, modulo 2^32."""
        steps = (x.double() * (share * self.scale)).round().to(torch.int64)
        return steps.numpy().astype(np.uint32)

    def decoded(self, total: Numbers) -> Tensor:
        """The number that a sum stands for, in float64."""
        return torch.from_numpy(total.astype(np.int32)).double() / self.scale


@dataclass(frozen=True)
class Form:
    """How an update's change and its training loss lie in one vector.

    Args:
        reach: as of :class:`FixedPoint`, of the change.
        clients: likewise.
    """

    reach: float
    clients: int

    def encoded(self, update: Update, share: float) -> Numbers:
        """The numbers of a client with `share` of the weight.

        Args:
            update: its parts are the change.

        Raises:
            Withheld: a number is none, or beyond reach.
        """
        x = update.parts.flat
        loss = torch.tensor([update.metrics.get("train_loss", 0.0)])
        if not x.isfinite().all():
            raise Withheld("nan", "its change is not finite")
        if not loss.isfinite().all():
            raise Withheld("train_loss", "its training loss is not finite")
        largest = float(x.abs().max()) if x.numel() else 0.0
        if largest > self.reach:
            detail = f"a number changed by {largest:.3g}; secure_sum.reach is {self.reach:g}"
            raise Withheld("out_of_reach", detail)
        told = loss.clamp(-LOSS_REACH, LOSS_REACH)
        return np.concatenate([self._change.encoded(x, share), self._loss.encoded(told, share)])

    def decoded(self, total: Numbers) -> tuple[Tensor, float]:
        """The weighted sums of the changes, in float64, and of the losses."""
        return self._change.decoded(total[:-1]), float(self._loss.decoded(total[-1:]))

    @property
    def _change(self) -> FixedPoint:
        return FixedPoint(self.reach, self.clients)

    @property
    def _loss(self) -> FixedPoint:
        return FixedPoint(LOSS_REACH, self.clients)
