"""Clipping: whatever goes in, what comes out is no longer than one.

A part's length is measured in units of its own clip, so that one rule holds for one part and for
several: a vector x becomes ``x / clip`` and is cut to length 1. With one number for all parts this
is ``min(1, clip / |x|) x``, measured in clips.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rolora.core.types import Layout, Part, base_part

SLACK = 1e-5
"""What is within it of the limit is cut as well, so that rounding never takes it beyond."""


def units(layout: Layout, clip: float | Mapping[Part, float]) -> Tensor:
    """The clip of each number of a flat vector, float64 ``[size]``.

    Args:
        layout: of the vector.
        clip: for all parts, or by part.
    """
    sizes = torch.tensor([end - start for start, end, _ in layout.spans.values()])
    clips = [clip[base_part(p)] if isinstance(clip, Mapping) else clip for (_, p) in layout.spans]
    return torch.tensor(clips, dtype=torch.float64).repeat_interleave(sizes)


def clipped(vectors: Tensor) -> Tensor:
    """Each of ``[n, size]`` cut to length 1; zero where it is not finite."""
    sound, cuts = _cuts(vectors)
    return sound * cuts[:, None]


def clipped_sum(vectors: Tensor) -> Tensor:
    """The sum ``[size]`` of what :func:`clipped` makes of ``[n, size]``, which is not kept."""
    sound, cuts = _cuts(vectors)
    return cuts @ sound


def _cuts(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors with zeros for those that are not finite, and each one's factor ``[n]``."""
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    finite = lengths.isfinite()
    if not finite.all():
        vectors = torch.where(finite[:, None], vectors, 0.0)
    return vectors, torch.where(lengths > 0, ((1.0 - SLACK) / lengths).clamp(max=1.0), 1.0)
