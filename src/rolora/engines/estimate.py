"""What a run will take, before it is trained: a short trial of real steps, and arithmetic."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from heapq import heapify, heapreplace
from threading import Event, Thread

import torch
from torch import Tensor, nn

from rolora.client.batches import CHUNK_OVERHEAD, batch_rows, chunks
from rolora.client.evaluation import Split, of_similar_length
from rolora.client.kept import NOTHING
from rolora.client.runtime import with_own
from rolora.core.memory import FREE, peak_memory, products_kept, resident_memory
from rolora.core.types import Plan, ServerState
from rolora.engines.in_process import InProcess
from rolora.model.lora import LoraModel
from rolora.records.schema import Estimate
from rolora.server.cohort import sample_cohort

SHARE = 0.01
"""Of a run's steps, how many are timed: once as they come, once more with frozen layers cached."""
LEAST = 0.1
"""Seconds that are timed at least."""
ROUNDS = 10
"""Rounds whose batches are looked at; they speak for those after them."""
BETWEEN = 0.002
"""Seconds between two looks at the memory."""


def estimate(engine: InProcess, state: ServerState) -> Estimate:
    """Of the rounds after `state`, from a few steps of as many clients as train at the same time.

    The trial trains on the run's own batches, in its workers; nothing that the run's results are
    made of changes, and what the frozen layers computed stays cached. Memory is that of the
    largest batches of training and evaluation, in all workers at once, with what is still to be
    cached.

    Args:
        engine: of the run.
        state: before the first of them.
    """
    left, work = engine.config.rounds - state.round, Work(engine)
    rounds = [_plans(engine, state, number) for number in range(min(ROUNDS, left))]
    loads = list(map(work.round, rounds))
    last, whole = (sum(values) / len(loads) for values in zip(*loads, strict=True))
    with watched() as memory:
        _meet(engine, work.shapes)
        _train_heaviest(engine, work)
        _evaluate_heaviest(engine, state)
        together = rounds[0][: engine.stack * len(engine.workers)]
        pace = Pace.of(engine, together, SHARE * left * last)
    new = Fresh.of(engine, left)
    return Estimate(
        seconds=pace.token * last + pace.fresh * new.each_round * last / whole,
        memory=_needed(engine, memory, new.to_come),
    )


def _plans(engine: InProcess, state: ServerState, number: int) -> list[Plan]:
    """Those of the round so many after the next; what is sent is the next one's."""
    later = state.round + 1 + number
    cohort = sample_cohort(engine.config, engine.clients, later, 0)
    return [replace(engine.method.plan(state, client), round=later) for client in cohort]


# What passes -----------------------------------------------------------------------------------


@dataclass
class Heaviest:
    """The step with the largest chunk so far: who trains, on which rows, how many tokens it has."""

    plans: Sequence[Plan] = ()
    rows: Sequence[Tensor] = ()
    tokens: int = 0


class Work:
    """What passes through the model in rounds of an engine, in tokens.

    Attributes:
        heaviest: the step with the largest chunk so far.
        shapes: how many tokens have passed together, and whether there and back.
    """

    def __init__(self, engine: InProcess):
        self.engine, self.data = engine, engine.splits["train"].examples
        self.weight = engine.runtime.task.weight(self.data.targets)
        self.heaviest = Heaviest()
        self.shapes: set[tuple[int, bool]] = set()

    def round(self, plans: Sequence[Plan]) -> tuple[float, float]:
        """The tokens of the worker that is through last, with what its passes cost beside them; and
        those of all.
        """
        size = self.engine.stack
        stacks = [plans[start : start + size] for start in range(0, len(plans), size)]
        loads = list(map(self._stack, stacks))
        return busiest(loads, len(self.engine.workers)), sum(loads)

    def _stack(self, plans: Sequence[Plan]) -> float:
        batches = [batches_of(self.engine, plan) for plan in plans]
        return sum(
            self._step(plans, [rows[min(step, len(rows) - 1)] for rows in batches])
            for step in range(max(map(len, batches)))
        )

    def _step(self, plans: Sequence[Plan], current: Sequence[Tensor]) -> float:
        device, cost = self.engine.model.device.type, 0.0
        most = self.engine.model.tokens_at_once
        for chunk in chunks(self.data, current, device, self.weight, most):
            tokens = chunk.rows.numel() * int(self.data.lengths[chunk.rows].max())
            cost += tokens + CHUNK_OVERHEAD.get(device, 0)
            self.shapes.add((tokens, True))
            if self.engine.model.prefix is not None:
                self.shapes |= {
                    (length, False) for length in self.data.lengths[chunk.rows].flatten().tolist()
                }
            if tokens > self.heaviest.tokens:
                self.heaviest = Heaviest(plans, current, tokens)
        return cost


def batches_of(engine: InProcess, plan: Plan) -> list[Tensor]:
    """The batches of a plan's client."""
    rows = engine.splits["train"].shares[plan.client]
    return batch_rows(rows, plan, engine.config.optimizer, engine.config.seed)


def busiest(loads: Iterable[float], workers: int) -> float:
    """The most that one of `workers` carries, where each takes the next load as it falls free."""
    carried = [0.0] * workers
    heapify(carried)
    for load in loads:
        heapreplace(carried, carried[0] + load)
    return max(carried)


# The trial -------------------------------------------------------------------------------------


def _meet(engine: InProcess, shapes: Collection[tuple[int, bool]]) -> None:
    """Have each kind of frozen linear layer multiply as many rows as will pass, in the workers.

    For every number of rows oneDNN compiles products of its own, in a millisecond, and keeps them,
    up to a megabyte each: where it keeps many, on a small model that is most of what a run takes.
    Those compiled here are the run's.
    """
    module = engine.model.module
    head = getattr(module, "get_output_embeddings", lambda: None)()
    kinds = {
        (layer.weight.shape, layer.bias is None): layer
        for layer in module.modules()
        if isinstance(layer, nn.Linear) and layer is not head
    }

    def pass_through(model: LoraModel, shape: tuple[int, bool]) -> None:
        rows, back = shape
        for layer in kinds.values():
            x = layer.weight.new_zeros(rows, layer.in_features, requires_grad=back)
            with torch.set_grad_enabled(back):
                y = layer(x)
            if back:
                y.backward(y)

    if engine.model.device.type == "cpu":
        every = -(-len(shapes) * len(kinds) // products_kept())
        for _ in engine.workers.map(pass_through, sorted(shapes)[:: max(1, every)]):
            pass


def _train_heaviest(engine: InProcess, work: Work) -> None:
    """The step with the largest chunk, in every worker at once."""
    plans, shares = work.heaviest.plans, list(engine.splits["train"].shares)
    for plan, rows in zip(plans, work.heaviest.rows, strict=True):
        shares[plan.client] = rows
    trained(trial(engine, 1, len(plans), shares), [*plans] * len(engine.workers))


def _evaluate_heaviest(engine: InProcess, state: ServerState) -> None:
    """The batch of most tokens that is looked at, in every worker at once."""
    plan, size = engine.method.evaluation_plan(state), engine.config.evaluation.batch_size
    model, largest = with_own(plan.send, plan, NOTHING, engine.first_head), 0
    for held in (engine.splits[name] for name in ("validation", "test") if name in engine.splits):
        lengths = held.examples.lengths
        for rows in of_similar_length(lengths, torch.cat(list(held.shares)), size):
            if len(rows) * int(lengths[rows].max()) > largest:
                largest, chosen = len(rows) * int(lengths[rows].max()), Split(held.examples, [rows])
    if largest:
        models = [(model, chosen.shares[0])] * len(engine.workers)
        engine.runtime.evaluate(plan, chosen, models, engine.workers.map)


def trial(
    engine: InProcess, steps: int, stack: int, shares: Sequence[Tensor] | None = None
) -> InProcess:
    """An engine like `engine` in which every client makes `steps` steps."""
    config = engine.config
    optimizer = config.optimizer.model_copy(update={"local_steps": steps, "local_epochs": None})
    stacked = config.engine.model_copy(update={"stack": stack})
    # What noise there is takes no time, and solving it for other steps does.
    noise = config.privacy and config.privacy.model_copy(update={"noise_multiplier": 1.0})
    changed = {"optimizer": optimizer, "engine": stacked, "privacy": noise}
    short = config.model_copy(update=changed)
    return engine.like(short, shares)


def trained(engine: InProcess, plans: Sequence[Plan]) -> float:
    """Train; the seconds that it took."""
    begin = time.perf_counter()
    for _ in engine.train(plans):
        pass
    return time.perf_counter() - begin


@dataclass(frozen=True)
class Pace:
    """What the work takes.

    Args:
        token: seconds of a token that passes, of a worker.
        fresh: seconds of a byte that the frozen layers compute anew, of a worker.
    """

    token: float
    fresh: float

    @staticmethod
    def of(engine: InProcess, plans: Sequence[Plan], tokens: float) -> Pace:
        """Of steps of `plans` that hold about so many tokens, or one of each."""
        one, _ = Work(trial(engine, 1, engine.stack)).round(plans)
        longest = max(len(batches_of(engine, plan)) for plan in plans)
        tried = trial(engine, max(1, min(longest, int(tokens / one))), engine.stack)
        last, whole = Work(tried).round(plans)
        before = cached(engine)
        first = trained(tried, plans)
        grown = cached(engine) - before
        again = [trained(tried, plans)]
        while sum(again) < LEAST:
            again.append(trained(tried, plans))
        mean = sum(again) / len(again)
        fresh = max(0.0, first - mean) / grown * whole / last if grown else 0.0
        return Pace(mean / last, fresh)


# What the frozen layers compute ----------------------------------------------------------------


def cached(engine: InProcess) -> int:
    """Bytes that the frozen layers computed and that are held."""
    return 0 if engine.model.prefix is None else engine.model.prefix.cache.size


@dataclass(frozen=True)
class Fresh:
    """What the frozen layers will compute, in bytes of their cache.

    Args:
        to_come: by how much the cache will grow.
        each_round: computed anew in a round, in the mean.
    """

    to_come: int = 0
    each_round: float = 0.0

    @staticmethod
    def of(engine: InProcess, rounds: int) -> Fresh:
        """In so many rounds from here, as expected over the draws of cohorts and batches."""
        held, prefix = cached(engine), engine.model.prefix
        if prefix is None or not held:
            return Fresh()
        item = next(iter(prefix.cache.held.values()))
        data, settings = engine.splits["train"], engine.config.optimizer
        joins = engine.config.federation.cohort_size / len(engine.clients)
        seen = drawn = 0.0
        for rows in data.shares:
            steps = (settings.local_steps or len(rows)) * settings.batch_size
            chance = joins * min(1.0, steps / max(1, len(rows)))
            tokens = int(data.examples.lengths[rows].sum())
            seen += tokens * (1.0 - (1.0 - chance) ** rounds)
            drawn += tokens * chance
        each = item.nbytes / len(item)
        needed, room = seen * each, prefix.cache.capacity
        anew = max(0.0, needed - held) / rounds
        # What is dropped for want of room is computed again where it is drawn again.
        missed = max(0.0, 1.0 - room / needed)
        again = missed * max(0.0, drawn * each - anew)
        return Fresh(max(0, int(min(room, needed)) - held), anew + again)


# Memory ----------------------------------------------------------------------------------------


@dataclass
class Watched:
    """Resident bytes of this process: before, and the most while it was looked at."""

    before: int
    most: int


@contextmanager
def watched() -> Iterator[Watched]:
    """Look at this process's memory every few milliseconds within the block."""
    begin = resident_memory()
    found, over = Watched(begin, begin), Event()

    def look() -> None:
        while True:
            found.most = max(found.most, resident_memory())
            if over.wait(BETWEEN):
                break

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _needed(engine: InProcess, tried: Watched, to_come: int) -> int | None:
    """Bytes at the peak after a trial, where a cache will grow by `to_come`.

    On a CPU batches of other lengths come to lie beside what those of the trial left free, until
    so much is free that it is given back.
    """
    device = engine.model.device.type
    if device == "cuda":
        used = map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))
        return sum(used) + to_come
    free = min(FREE, tried.most - tried.before)
    return max(peak_memory(), tried.most + to_come + free) if device == "cpu" else None
