"""What a run will take, before it is trained: a short trial of a step, and arithmetic."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from heapq import heapify, heapreplace

import psutil
import torch
from torch import Tensor

from rolora.client.batches import CHUNK_OVERHEAD, batch_rows, chunks
from rolora.client.evaluation import EVALUATED_TOKENS
from rolora.core.types import Plan, ServerState
from rolora.engines.in_process import InProcess
from rolora.model.completion import PIECE_BYTES
from rolora.model.footprint import token_bytes
from rolora.records.schema import Estimate
from rolora.server.cohort import sample_cohort

WARM = 2.0
"""Seconds below which a first trial says more of what is set up once than of the work."""
ROUNDS = 10
"""Rounds whose batches are looked at; they speak for those after them."""


def estimate(engine: InProcess, state: ServerState) -> Estimate:
    """Of the rounds after `state`, from one step of as many clients as train at the same time.

    Args:
        engine: of the run; nothing that its results are made of changes.
        state: before the first of them.
    """
    config = engine.config
    one = config.optimizer.model_copy(update={"local_steps": 1, "local_epochs": None})
    # What noise there is takes no time, and solving it for other steps does.
    noise = config.privacy and config.privacy.model_copy(update={"noise_multiplier": 1.0})
    short = config.model_copy(update={"optimizer": one, "privacy": noise})
    trial = InProcess(short, engine.method, engine.runtime.task, engine.model, engine.splits)
    plans = [
        engine.method.plan(state, client)
        for client in engine.clients[: engine.stack * len(engine.workers)]
    ]
    tried = Work(trial)
    seconds = _trained(trial, plans)
    if seconds < WARM:
        tried.round(plans)  # what is cached now
        seconds = _trained(trial, plans)
    resident = resident_memory()  # with what a first pass leaves behind
    expected, most = Work(engine), min(ROUNDS, config.rounds - state.round)
    costs = []
    for number in range(state.round + 1, state.round + most + 1):
        cohort = sample_cohort(config, engine.clients, number, 0)
        first = [engine.method.plan(state, client) for client in cohort]
        costs.append(expected.round([replace(plan, round=number) for plan in first]))
    mean = sum(costs) / max(1, len(costs))
    return Estimate(
        seconds=seconds * mean / tried.round(plans), memory=_memory(engine, expected, resident)
    )


def _trained(engine: InProcess, plans: Sequence[Plan]) -> float:
    """Seconds of wall clock."""
    begin = time.perf_counter()
    for _ in engine.train(plans):
        pass
    return time.perf_counter() - begin


class Work:
    """What passes through the model in rounds of an engine, in tokens.

    Attributes:
        largest: tokens that pass together at the most, so far.
        seen: which examples have passed, so that frozen layers need not see them again.
    """

    def __init__(self, engine: InProcess):
        self.engine, self.data = engine, engine.splits["train"].examples
        self.weight = engine.runtime.task.weight(self.data.targets)
        self.seen = torch.zeros(len(self.data), dtype=torch.bool)
        self.largest = 0
        prefix = engine.model.prefix
        # A layer above the cache passes forward and back, one below it forward and only once.
        self.below = 0.0 if prefix is None else len(prefix.layers) / (2 * prefix.above)

    def round(self, plans: Sequence[Plan]) -> float:
        """The tokens of the worker that is through last, with what its passes cost beside them."""
        size = self.engine.stack
        stacks = (plans[start : start + size] for start in range(0, len(plans), size))
        return busiest(map(self._stack, stacks), len(self.engine.workers))

    def _stack(self, plans: Sequence[Plan]) -> float:
        engine = self.engine
        settings, shares = engine.config.optimizer, engine.splits["train"].shares
        batches = [
            batch_rows(shares[plan.client], plan, settings, engine.config.seed) for plan in plans
        ]
        steps = max(map(len, batches))
        return sum(
            self._step([rows[min(step, len(rows) - 1)] for rows in batches])
            for step in range(steps)
        )

    def _step(self, current: Sequence[Tensor]) -> float:
        device, cost = self.engine.model.device.type, 0.0
        most = self.engine.model.tokens_at_once
        for chunk in chunks(self.data, current, device, self.weight, most):
            tokens = chunk.rows.numel() * int(self.data.lengths[chunk.rows].max())
            self.largest = max(self.largest, tokens)
            cost += tokens + CHUNK_OVERHEAD.get(device, 0)
        rows = torch.cat(list(current)).unique()
        fresh = int(self.data.lengths[rows[~self.seen[rows]]].sum())
        self.seen[rows] = True
        return cost + self.below * fresh


def busiest(loads: Iterable[float], workers: int) -> float:
    """The most that one of `workers` carries, where each takes the next load as it falls free."""
    carried = [0.0] * workers
    heapify(carried)
    for load in loads:
        heapreplace(carried, carried[0] + load)
    return max(carried)


def _memory(engine: InProcess, work: Work, resident: int) -> int | None:
    """The process at its peak, on a CPU; elsewhere weights and what is kept on the device."""
    model, held = engine.model, engine.splits
    each = token_bytes(model.module, model.recomputes)
    layer = token_bytes(model.module, recomputed=True)
    if each is None or layer is None:
        return None
    width = int(model.module.config.hidden_size)  # type: ignore[union-attr, arg-type]
    prefix, cached = model.prefix, 0
    if prefix is not None:
        size = model.module.get_input_embeddings().weight.dtype.itemsize  # type: ignore[operator]
        tokens = int(work.data.lengths[work.seen].sum())
        cached = min(prefix.cache.capacity, tokens * width * size)
        each = each * prefix.above // (prefix.above + len(prefix.layers))
    device = model.device.type
    logits = 3 * PIECE_BYTES.get(device, 0) if engine.runtime.task.kind.generates else 0
    looked = held.get("validation", held["train"]).examples.lengths
    looked_at = min(EVALUATED_TOKENS, int(looked.max()) * engine.config.evaluation.batch_size)
    passing = max(work.largest * each, looked_at * layer) + logits
    kept = cached + len(engine.workers) * passing
    if device != "cpu":
        return sum(parameter.nbytes for parameter in model.module.parameters()) + kept
    return max(peak_memory(), resident + kept)


def resident_memory() -> int:
    """Resident bytes of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """The most resident bytes of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
