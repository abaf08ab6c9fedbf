"""Only the numbers that changed most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rolora.core.types import Adapter, Layout, Part, Update
from rolora.stages.base import At, BadMessage, Coding, CodingOptions

LONGEST = 255
"""A byte of gaps that says: so many numbers further, and the gap goes on."""


class TopKOptions(CodingOptions):
    """`share` of each part's numbers travels."""

    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05


class TopK(Coding):
    """Sends the ``k = ceil(share n)`` of a part's n numbers that changed most, and which they are.

    The others are what is fed back, without which most of them would never move (Stich et al.,
    Sparsified SGD with Memory, NeurIPS 2018, arXiv 1809.07599). The numbers are float32, or what
    the next stage makes of them. Which they are is told in bytes, ``top_k.PART``: a bit for each of
    n, or, where that is shorter, the gaps between them (:func:`positions_bytes`).
    """

    Options = TopKOptions
    title = "the numbers that changed most"

    def layout(self, wanted: Layout) -> Layout:
        """One vector a part, of the k numbers."""
        return Layout.of({("top_k", part): (k,) for part, _, k in self._counts(wanted)})

    def encode(
        self, update: Update, kept: Mapping[str, Tensor], at: At
    ) -> tuple[Update, Mapping[str, Tensor]]:
        """The largest, in the order in which they lie; of equal ones the first."""
        layout, side, values = update.parts.layout, dict(update.side), []
        for part, n, k in self._counts(layout):
            start, end = layout.extent(part)
            x = update.parts.flat[start:end]
            chosen = x.abs().argsort(descending=True, stable=True)[:k].sort().values
            values.append(x[chosen])
            side[f"top_k.{part}"] = torch.from_numpy(packed(chosen.numpy(), n))
        parts = Adapter(self.layout(layout), torch.cat(values))
        return replace(update, parts=parts, side=side), {}

    def decode(self, update: Update, wanted: Layout) -> Update:
        """Zero for all others."""
        if update.parts.flat.dtype != torch.float32:
            raise BadMessage(f"its parts are {update.parts.flat.dtype}; they must be float32")
        side, flat = dict(update.side), torch.zeros(wanted.size)
        for part, n, k in self._counts(wanted):
            chosen = unpacked(side.pop(f"top_k.{part}", None), n, k, part)
            flat[wanted.extent(part)[0] + chosen] = update.parts["top_k", part]
        return replace(update, parts=Adapter(wanted, flat), side=side)

    def _counts(self, layout: Layout) -> Iterator[tuple[Part, int, int]]:
        """Of each part: how many numbers it has, and how many of them travel."""
        for part, n in layout.part_sizes.items():
            yield part, n, math.ceil(self.options.share * n)


def positions_bytes(n: int, k: int) -> int:
    """Bytes of k positions among n: of the bits or of the gaps, whichever is less.

    A gap g, the numbers passed over since the last position, is ``g // 255`` times the byte 255 and
    then the byte ``g % 255``. All gaps together are at most ``n - k``, so that the bytes are fixed
    by n and k; those that are left are 255.
    """
    return min(-(-n // 8), k + (n - k) // LONGEST)


def packed(positions: np.ndarray, n: int) -> np.ndarray:
    """Rising positions below n as bytes, uint8 ``[positions_bytes(n, k)]``."""
    size = positions_bytes(n, len(positions))
    if size == -(-n // 8):
        bits = np.zeros(n, dtype=np.uint8)
        bits[positions] = 1
        return np.packbits(bits)
    gaps = np.diff(positions, prepend=-1) - 1
    found = np.full(size, LONGEST, dtype=np.uint8)
    found[np.cumsum(gaps // LONGEST + 1) - 1] = gaps % LONGEST
    return found


def unpacked(told: Tensor | None, n: int, k: int, part: Part) -> Tensor:
    """The inverse of :func:`packed`: k rising positions below n, int64.

    Raises:
        BadMessage: `told` says something else.
    """
    size = positions_bytes(n, k)
    if told is None or told.dtype != torch.uint8 or told.shape != (size,):
        raise BadMessage(f"top_k.{part} must be {size} bytes")
    found = told.numpy().astype(np.int64)
    if size == -(-n // 8):
        bits = np.unpackbits(told.numpy())
        positions, sound = np.flatnonzero(bits[:n]), not bits[n:].any()
    else:
        ends = found < LONGEST
        positions = (np.cumsum(found) + np.cumsum(ends) - 1)[ends]
        sound = positions.size == 0 or positions[-1] < n
    if len(positions) != k or not sound:
        raise BadMessage(f"top_k.{part} must tell {k} positions below {n}")
    return torch.from_numpy(positions)
