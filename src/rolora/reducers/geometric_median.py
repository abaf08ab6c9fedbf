"""The geometric median, by smoothed Weiszfeld steps (Pillutla et al., 2022)."""

from __future__ import annotations

from torch import Tensor

from rolora.reducers.gathered import Gathered, columnwise, distances
from rolora.reducers.median import median

SMOOTHING = 1e-6
TOLERANCE = 1e-7
STEPS = 1000


class GeometricMedian(Gathered):
    """The point with the least sum of Euclidean distances to the updates.

    It is begun at the coordinate median m and iterated as ``z <- sum_i x_i b_i / sum_i b_i`` with
    ``b_i = 1 / max(nu, |x_i - z|)``. Be s the median of ``|x_i - m|``: nu is 1e-6 s, and it ends
    when a step is shorter than 1e-7 s, or after 1000 steps. Where s is 0, half of the updates are
    one point, and that is m. It withstands any minority.

    Source: Pillutla, Kakade, Harchaoui, Robust Aggregation for Federated Learning, IEEE TSP 2022
    (arXiv 1912.13445), Algorithm 2, each client with the weight 1.
    """

    title = "geometric median"

    def reduced(self, rows: Tensor) -> Tensor:
        """The geometric median."""
        z = median(rows)
        scale = float(distances(rows, z).median())
        for _ in range(STEPS if scale else 0):
            weights = 1 / distances(rows, z).clamp_min(SMOOTHING * scale)
            before, z = z, columnwise(rows, (weights / weights.sum()).matmul)
            if float(distances(before[None], z)) < TOLERANCE * scale:
                break
        return z
