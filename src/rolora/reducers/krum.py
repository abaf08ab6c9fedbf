"""Krum and multi-Krum (Blanchard et al., 2017)."""

from __future__ import annotations

from torch import Tensor

from rolora.reducers.gathered import Withstanding, mean, squared_distances


class Krum(Withstanding):
    """The one update that is nearest to its neighbours: with the least sum of squared distances to
    the ``n - f - 2`` closest others; of several, that of the lowest client number.

    Source: Blanchard et al., Machine Learning with Adversaries, NeurIPS 2017 (arXiv 1703.02757),
    section 4. It needs ``n > 2f + 2`` updates.
    """

    title = "Krum"

    @property
    def least(self) -> int:
        """By Proposition 4.2 of the paper."""
        return 2 * self.f + 3

    def reduced(self, rows: Tensor) -> Tensor:
        """That update."""
        return rows[self.scores(rows).argmin()]

    def scores(self, rows: Tensor) -> Tensor:
        """Of each update, float64 ``[n]``."""
        others = squared_distances(rows, rows).fill_diagonal_(-1.0).sort(dim=1).values[:, 1:]
        return others[:, : len(rows) - self.f - 2].sum(1)


class MultiKrum(Krum):
    """The mean of the ``n - f`` updates with the least scores of Krum's.

    Source: the same, section 4; as many as Allouah et al., AISTATS 2023 (arXiv 2302.01772), take.
    """

    title = "multi-Krum"

    def reduced(self, rows: Tensor) -> Tensor:
        """The mean of those."""
        best = self.scores(rows).argsort(stable=True)[: len(rows) - self.f]
        return mean(rows[best.sort().values])
