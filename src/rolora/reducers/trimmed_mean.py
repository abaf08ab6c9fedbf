"""The coordinate trimmed mean (Yin et al., 2018)."""

from __future__ import annotations

from torch import Tensor

from rolora.reducers.gathered import Withstanding, columnwise


class TrimmedMean(Withstanding):
    """Every coordinate by itself: the mean without the f largest and the f smallest values.

    Source: Yin et al., ICML 2018 (arXiv 1803.01498), Algorithm 1, option II, with ``beta = f / n``.
    It needs ``n > 2f`` updates.
    """

    title = "trimmed mean"

    def reduced(self, rows: Tensor) -> Tensor:
        """The mean of the middle."""
        kept = slice(self.f, len(rows) - self.f)
        return columnwise(rows, lambda piece: piece.sort(dim=0).values[kept].mean(0))
