"""A client's change cut to the clip, with the client's share of the noise: ``privacy`` with
``noise: clients``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from rolora.core.clipping import clipped, units
from rolora.core.noise import own_noise
from rolora.core.types import Adapter, Layout, Part, Update
from rolora.stages.base import At, Stage


class Noised(Stage):
    """Sends ``c (clip(x / c) + s n)`` of a change x, with n standard normal.

    The sum of m such shares has noise of ``sqrt(m) s`` clips. The training loss is not told, which
    would be a number of the client's data without noise. A change that is not finite counts as
    none, so that whether it is leaves no trace.

    Source: the distributed Gaussian mechanism (Dwork et al., Our Data, Ourselves, EUROCRYPT 2006).

    Args:
        clip: c, for all parts or by part.
        share: s.
        seed: of a study's draws; None: they come from a key of the client's own.
    """

    title = "clipped, with a share of the noise"
    takes_any = True

    def __init__(self, clip: float | Mapping[Part, float], share: float, seed: int | None):
        self.clip, self.share, self.seed = clip, share, seed

    def encode(
        self, update: Update, kept: Mapping[str, Tensor], at: At
    ) -> tuple[Update, Mapping[str, Tensor]]:
        """The clipped change and a share of the noise; the client keeps its key."""
        noise, own = own_noise(self.seed, at.client, kept)
        layout = update.parts.layout
        unit = units(layout, self.clip)
        change = clipped((update.parts.flat.double() / unit)[None])[0]
        names = noise.over(change, "share", at.round)
        change = change + self.share * noise.gaussian(layout.size, *names)
        parts = Adapter(layout, (unit * change).float())
        return replace(update, parts=parts, metrics={}), own

    def decode(self, update: Update, wanted: Layout) -> Update:
        """As it came."""
        return update
