"""Eight bits a number: stochastic rounding, and the error fed back into the next round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rolora.core.errors import BadInput
from rolora.core.types import Adapter, Layout, Update, kept_by_part, named_by_part
from rolora.stages.base import At, BadMessage, Stage, StageOptions

LEVELS = 127
SCALE, RESIDUAL = "int8.scale", "int8"


class Int8Options(StageOptions):
    """`feedback` adds what rounding lost to the client's next change of the same part."""

    feedback: bool = True


class Int8(Stage):
    """Sends ``q = floor(x / s + u)`` with ``s = max |x| / 127`` a tensor and u uniform in [0, 1).

    Rounding up with the probability of the rest makes the decoded ``s q`` unbiased, so that the
    mean over clients is that of the changes but for noise of at most s a number (Alistarh et al.,
    QSGD, NeurIPS 2017, arXiv 1610.02132). With `feedback` each client adds the error of its last
    round with that part before it rounds (Seide et al., Interspeech 2014; Karimireddy et al., Error
    Feedback Fixes SignSGD, ICML 2019, arXiv 1901.09847), so that errors do not add up over rounds.
    A quarter of the bytes and one float a tensor go up; what goes down is not touched.
    """

    Options = Int8Options
    title = "eight bits, stochastic rounding"

    def check(self, turns: bool) -> None:
        """A kept error lives in one basis."""
        if turns and self.options.feedback:
            raise BadInput(
                "stages: int8 with feedback: true keeps each client's rounding error, whose basis "
                "the method changes between rounds (method.gauge, or FedSVD's SVD); set feedback: "
                "false, whose rounding is unbiased by itself"
            )

    def encode(
        self, update: Update, kept: Mapping[str, Tensor], at: At
    ) -> tuple[Update, Mapping[str, Tensor]]:
        """Codes of the change and, with `feedback`, of the error before it."""
        parts, layout = update.parts, update.parts.layout
        x = parts.flat
        if self.options.feedback:
            x = x + kept_by_part(RESIDUAL, kept, layout).flat
        sizes = _sizes(layout)
        scale = torch.segment_reduce(x.abs(), "max", lengths=sizes) / LEVELS
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        steps = scale.repeat_interleave(sizes)
        draw = torch.rand(x.shape, generator=at.generator("int8"))
        codes = (x / steps + draw).floor().clamp(-LEVELS, LEVELS)
        coded = Adapter(layout, codes.to(torch.int8))
        sent = replace(update, parts=coded, side={**update.side, SCALE: scale})
        if not self.options.feedback:
            return sent, {}
        return sent, named_by_part(RESIDUAL, Adapter(layout, x - codes * steps))

    def decode(self, update: Update, wanted: Layout) -> Update:
        """``s q``."""
        scale, codes = update.side.get(SCALE), update.parts
        if codes.flat.dtype != torch.int8:
            raise BadMessage(f"its parts are {codes.flat.dtype}; they must be int8")
        if scale is None or scale.shape != (len(wanted.entries),):
            raise BadMessage(
                f"{SCALE} must hold one number for each of {len(wanted.entries)} tensors"
            )
        if scale.dtype != torch.float32 or not (scale.isfinite().all() and (scale > 0).all()):
            raise BadMessage(f"{SCALE} must hold positive float32 numbers")
        values = codes.flat.float() * scale.repeat_interleave(_sizes(wanted))
        side = {name: tensor for name, tensor in update.side.items() if name != SCALE}
        return replace(update, parts=Adapter(wanted, values), side=side)


def _sizes(layout: Layout) -> Tensor:
    """Numbers in each tensor, in the order of the flat vector."""
    return torch.tensor([end - start for start, end, _ in layout.spans.values()])
