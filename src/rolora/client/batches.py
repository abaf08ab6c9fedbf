"""A client's batches, and how a stack of them passes through the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rolora.config import OptimizerConfig
from rolora.core.seeds import numpy_generator
from rolora.core.types import Plan
from rolora.data import Examples

CHUNK_OVERHEAD = {"cpu": 40, "cuda": 1 << 20, "mps": 1 << 20}
"""What one more forward and backward pass costs, in tokens of work, by kind of device."""


def batch_rows(rows: Tensor, plan: Plan, settings: OptimizerConfig, seed: int) -> list[Tensor]:
    """The batches of one client in one round: passes over its examples in fresh orders.

    Without replacement within a pass; a function of the seed, the round and the client alone.
    """
    generator = numpy_generator(seed, "batches", plan.round, plan.client)
    per_pass = -(-len(rows) // settings.batch_size)
    steps = settings.local_steps or (settings.local_epochs or 1) * per_pass
    batches: list[Tensor] = []
    while len(batches) < steps:
        order = rows[torch.from_numpy(generator.permutation(len(rows)))]
        batches.extend(order.split(settings.batch_size))
    return batches[:steps]


@dataclass(frozen=True)
class Chunk:
    """Rows ``[K, n]`` that pass through the model together, each one's place in its client's batch
    and weight in its client's mean; a row that only fills up the rectangle weighs 0.
    """

    rows: Tensor
    places: Tensor
    weights: Tensor


def chunks(
    data: Examples,
    current: Sequence[Tensor],
    device_type: str,
    weight: Tensor | None = None,
    most: int | None = None,
) -> Iterator[Chunk]:
    """Cut the K clients' batches into chunks of similar length.

    A mean over a batch is a sum over its chunks, so the gradient does not change; what changes is
    that a short sentence is not padded to the longest of the batch.

    Args:
        data: the training examples.
        current: each client's batch.
        device_type: where they will pass.
        weight: of each of `data` in its client's mean, ``[n]``; None: all count alike.
        most: tokens in a chunk, where it holds more than one row of each client; None: no bound.
    """
    if weight is None and data.offsets is None and len(set(map(len, current))) == 1:
        rows = torch.stack(list(current))  # nothing to pad
        places = torch.arange(rows.shape[1]).expand(rows.shape)
        yield Chunk(rows, places, torch.full(rows.shape, 1.0 / rows.shape[1]))
        return
    stacked = nn.utils.rnn.pad_sequence(list(current), batch_first=True, padding_value=-1)
    real = stacked >= 0
    counts = real.sum(1, keepdim=True)
    order = torch.where(real, data.lengths[stacked], -1).argsort(
        dim=1, descending=True, stable=True
    )
    columns = torch.arange(stacked.shape[1])
    places = order.gather(1, torch.minimum(columns, counts - 1))
    rows = stacked.gather(1, places)
    weights = torch.where(columns < counts, 1.0 / counts, 0.0)
    if weight is not None:
        weights = torch.where(columns < counts, weight[rows].float(), 0.0)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo().tiny)
    lengths = data.lengths[rows].amax(0).tolist()
    overhead = CHUNK_OVERHEAD.get(device_type, 1 << 20)
    for start, end in cuts(lengths, len(current), overhead, most):
        piece = slice(start, end)
        yield Chunk(rows[:, piece], places[:, piece], weights[:, piece])


def cuts(
    lengths: Sequence[int], clients: int, overhead: int, most: int | None = None
) -> list[tuple[int, int]]:
    """The split of falling `lengths` into runs that costs least.

    A run of n columns whose longest is T holds ``n T clients`` tokens, at most `most` of them where
    n > 1, and costs `overhead` more.
    """
    n = len(lengths)
    whole = n * lengths[0] * clients
    if lengths[0] == lengths[-1] and (most is None or whole <= most):
        return [(0, n)]
    best, cut = [0.0] + [float("inf")] * n, [0] * (n + 1)
    for end in range(1, n + 1):
        for start in range(end):
            tokens = (end - start) * lengths[start] * clients
            if most is not None and tokens > most and end - start > 1:
                continue
            cost = best[start] + tokens + overhead
            if cost < best[end]:
                best[end], cut[end] = cost, start
    spans, end = [], n
    while end > 0:
        spans.append((cut[end], end))
        end = cut[end]
    return spans[::-1]
