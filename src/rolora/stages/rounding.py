"""Eight or four bits a number, by stochastic rounding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from rolora.core.section import Positive
from rolora.core.types import Adapter, Layout, Update
from rolora.stages.base import At, BadMessage, Coding, CodingOptions


class Rounding(Coding):
    """Sends ``q = floor(x / s + u)`` with ``s = max |x| / levels`` a block, u uniform in [0, 1).

    Rounding up with the probability of the rest makes the decoded ``s q`` unbiased, so that the
    mean over clients is that of the changes but for noise of at most s a number (Alistarh et al.,
    QSGD, NeurIPS 2017, arXiv 1610.02132).
    """

    levels: ClassVar[int]

    @abstractmethod
    def blocks(self, layout: Layout) -> Tensor:
        """How many numbers share a scale, in the order of the flat vector, int64 ``[blocks]``."""

    @abstractmethod
    def packed(self, codes: Adapter) -> Adapter:
        """Whole numbers from ``-levels`` to ``levels``, as they travel."""

    @abstractmethod
    def unpacked(self, packed: Adapter, wanted: Layout) -> Tensor:
        """The inverse, float32 ``[wanted.size]``.

        Raises:
            BadMessage: they are no such numbers.
        """

    @property
    def scale_name(self) -> str:
        """Of the scales beside the codes."""
        return f"{self.options.name}.scale"

    def encode(
        self, update: Update, kept: Mapping[str, Tensor], at: At
    ) -> tuple[Update, Mapping[str, Tensor]]:
        """Codes of the change, and their scales."""
        x, sizes = update.parts.flat, self.blocks(update.parts.layout)
        scale = torch.segment_reduce(x.abs(), "max", lengths=sizes) / self.levels
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        draw = torch.rand(x.shape, generator=at.generator(self.options.name))
        codes = (x / scale.repeat_interleave(sizes) + draw).floor().clamp(-self.levels, self.levels)
        packed = self.packed(Adapter(update.parts.layout, codes))
        side = {**update.side, self.scale_name: scale}
        return replace(update, parts=packed, side=side), {}

    def decode(self, update: Update, wanted: Layout) -> Update:
        """``s q``."""
        sizes, scale = self.blocks(wanted), update.side.get(self.scale_name)
        if scale is None or scale.shape != sizes.shape:
            raise BadMessage(f"{self.scale_name} must hold one number for each of {len(sizes)}")
        if scale.dtype != torch.float32 or not (scale.isfinite().all() and (scale > 0).all()):
            raise BadMessage(f"{self.scale_name} must hold positive float32 numbers")
        codes = self.unpacked(update.parts, wanted)
        if (codes.abs() > self.levels).any():
            raise BadMessage(f"its codes must be {-self.levels} to {self.levels}")
        values = codes * scale.repeat_interleave(sizes)
        side = {name: tensor for name, tensor in update.side.items() if name != self.scale_name}
        return replace(update, parts=Adapter(wanted, values), side=side)


class Int8(Rounding):
    """A byte a number, and one scale a tensor: a quarter of the bytes."""

    title = "eight bits, stochastic rounding"
    levels = 127

    def blocks(self, layout: Layout) -> Tensor:
        """Each tensor is one."""
        return torch.tensor(list(_sizes(layout)))

    def packed(self, codes: Adapter) -> Adapter:
        """As int8."""
        return Adapter(codes.layout, codes.flat.to(torch.int8))

    def unpacked(self, packed: Adapter, wanted: Layout) -> Tensor:
        """As float32."""
        _check_kind(packed, torch.int8)
        return packed.flat.float()


class Int4Options(CodingOptions):
    """`block` numbers of a tensor share a scale of four bytes."""

    block: Positive = 128


class Int4(Rounding):
    """Two numbers a byte, and a scale for every `block` of them: at 128, 13.3 % of the bytes."""

    Options = Int4Options
    title = "four bits, stochastic rounding in blocks"
    levels = 7

    def blocks(self, layout: Layout) -> Tensor:
        """Pieces of each tensor, the last one shorter."""
        block = self.options.block
        return torch.tensor(
            [min(block, size - at) for size in _sizes(layout) for at in range(0, size, block)]
        )

    def layout(self, wanted: Layout) -> Layout:
        """One vector a part, of half its length."""
        return Layout.of(
            {("int4", part): ((size + 1) // 2,) for part, size in wanted.part_sizes.items()}
        )

    def packed(self, codes: Adapter) -> Adapter:
        """Code and code, each raised by 8, in the lower and the upper half of a byte."""
        bytes_ = []
        for part, size in codes.layout.part_sizes.items():
            start, _ = codes.layout.extent(part)
            raised = torch.full((size + size % 2,), 8, dtype=torch.uint8)
            raised[:size] = (codes.flat[start : start + size] + 8).to(torch.uint8)
            bytes_.append(raised[0::2] | raised[1::2] << 4)
        return Adapter(self.layout(codes.layout), torch.cat(bytes_))

    def unpacked(self, packed: Adapter, wanted: Layout) -> Tensor:
        """The halves of each byte, lowered by 8."""
        _check_kind(packed, torch.uint8)
        found = []
        for part, size in wanted.part_sizes.items():
            bytes_ = packed["int4", part]
            halves = torch.stack([bytes_ & 15, bytes_ >> 4], dim=1).flatten()
            if size % 2 and halves[-1] != 8:
                raise BadMessage(f"the last half byte of {part} must be empty")
            found.append(halves[:size].float() - 8)
        return torch.cat(found)


def _sizes(layout: Layout) -> Iterator[int]:
    """Numbers in each tensor, in the order of the flat vector."""
    return (end - start for start, end, _ in layout.spans.values())


def _check_kind(parts: Adapter, kind: torch.dtype) -> None:
    if parts.flat.dtype != kind:
        raise BadMessage(f"its parts are {parts.flat.dtype}; they must be {kind}")
