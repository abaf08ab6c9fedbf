"""The simulator: all clients in this process, over one base model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor

from rolora.client.evaluation import Outcome, Split, gathered, tally
from rolora.client.kept import LocalStore
from rolora.client.replica import Replica, restored
from rolora.client.stack import Job, Trained
from rolora.client.update import local_update
from rolora.config import Config
from rolora.core.types import (
    Adapter,
    ClientInfo,
    Evaluation,
    Failure,
    Plan,
    RoundNotes,
    ServerState,
    Update,
)
from rolora.data import Examples
from rolora.model.lora import LoraModel
from rolora.tasks import make_task

T = TypeVar("T")


R = TypeVar("R")


STACK_TOKENS = {"cpu": 1024, "cuda": 32768, "mps": 16384}
"""Tokens of all stacked clients' batches up to which stacking more clients pays, by device."""


class InProcess:
    """Carries out plans in this process, K clients at a time.

    Memory does not grow with the number of clients: there is one model, a client is a list of
    example numbers, and local state lives only where a method or option keeps one.

    Args:
        config: the run's settings.
        model: the shared frozen model with its LoRA layers.
        splits: ``train``, ``validation`` and ``test``.
        threads: that each worker's tensor operations are split between, on a CPU.
    """

    def __init__(
        self, config: Config, model: LoraModel, splits: Mapping[str, Split], threads: int = 1
    ):
        self.config, self.model, self.splits = config, model, splits
        self.task = make_task(config.task)
        self.clients = [
            ClientInfo(id=i, rank=config.lora.rank_of(i), num_examples=len(rows))
            for i, rows in enumerate(splits["train"].shares)
        ]
        self.replicas: dict[int, Replica] = {}
        self.store = LocalStore()
        count = config.engine.workers or default_workers(model.device)
        self.workers = Workers(model, count, threads)
        self.stack = config.engine.stack or self._choose_stack(splits["train"].examples)

    def train(self, plans: Sequence[Plan]) -> Iterator[Update | Failure]:
        """Train the planned clients, a stack at a time; answers come in the order of the plans."""
        data = self.splits["train"].examples

        def train_stack(model: LoraModel, jobs: Sequence[Job]) -> list[tuple[Job, Trained]]:
            settings, seed = self.config.optimizer, self.config.seed
            trained = local_update(self.task, model, data, jobs, settings, seed)
            return list(zip(jobs, trained, strict=True))

        kept = LocalStore()
        for stack in self.workers.map(train_stack, self._stacks(plans)):
            for job, trained in stack:
                self._keep(kept, job, trained)
                yield trained.update
        # Not before: a round that is interrupted is done again after a restart.
        self.store.parts.update(kept.parts)
        self.store.optimizers.update(kept.optimizers)

    def _stacks(self, plans: Sequence[Plan]) -> Iterator[list[Job]]:
        waiting: list[Job] = []
        for job in map(self.job, plans):
            full = len(waiting) == self.stack
            if waiting and (full or not stackable(waiting[0], job)):
                yield waiting
                waiting = []
            waiting.append(job)
        if waiting:
            yield waiting

    def job(self, plan: Plan) -> Job:
        """A client's work: what it holds, what it was sent, what it keeps."""
        start = self.replicas.setdefault(plan.rank, Replica()).start(plan)
        delta = start.select({"D"})
        if delta:  # no copy of it for every client
            start = start.without({"D"})
        if plan.redraw:
            drawn = self.model.initial_adapter(plan.rank, self.config.seed, plan.round, plan.client)
            start = start.overwrite(drawn.select({"A", "B"}))
        start = self._with_local(start, plan, plan.client)
        rows = self.splits["train"].shares[plan.client]
        return Job(plan, start, rows, self.store.optimizers.get(plan.client), delta)

    def _with_local(self, start: Adapter, plan: Plan, client: int) -> Adapter:
        kept = self.store.parts.get(client)
        if "head" in plan.local and kept is None:
            initial = {
                (name, "head"): tensor.float().cpu()
                for name, tensor in self.model.frozen_head.items()
            }
            return start.overwrite(initial)  # type: ignore[arg-type]
        return start if kept is None else start.overwrite(kept)

    def _keep(self, store: LocalStore, job: Job, trained: Trained) -> None:
        """Put what stays with the client in `store`; a client that went astray keeps the old."""
        client, local = job.plan.client, job.plan.local & job.plan.train
        persists = self.config.optimizer.state != "reset"
        if not (local or persists) or not trained.parts.flat.isfinite().all():
            return
        if local:
            store.parts[client] = trained.parts.select(local)
        if persists:
            store.optimizers[client] = {**(job.optimizer or {}), **trained.optimizer}

    def _choose_stack(self, examples: Examples) -> int:
        """Not a function of the workers: another number of cores must give the same bits. One where
        dropout is drawn, since the draws of a stack have the shape of its longest batch.
        """
        if self.model.dropout_p > 0:
            return 1
        tokens = self.config.optimizer.batch_size * float(examples.lengths.float().mean())
        limit = STACK_TOKENS.get(self.model.device.type, 1024)
        half = -(-self.config.federation.cohort_size // 2)
        return max(1, min(int(limit / tokens), half, 64))

    def evaluate(self, plan: Plan, split: str) -> list[Evaluation]:
        """The global model in one pass, or each client's own where parts are local."""
        held = self.splits[split]
        if not plan.local:
            rows = torch.cat(list(held.shares))
            return tally(self.task, self._predict(held.examples, [(plan.send, rows)], plan), held)
        models = [
            (self._with_local(plan.send, plan, client), rows)
            for client, rows in enumerate(held.shares)
            if len(rows)
        ]
        return tally(self.task, self._predict(held.examples, models, plan), held)

    def _predict(
        self, examples: Examples, models: Sequence[tuple[Adapter, Tensor]], plan: Plan
    ) -> Outcome:
        """Each adapter on its rows, in batches of similar length."""

        def predict(model: LoraModel, item: tuple[Adapter, Tensor]) -> tuple[Tensor, Outcome]:
            adapter, rows = item
            tensors = {key: tensor.to(model.device) for key, tensor in adapter.items()}
            stacked = {key: t if key[1] == "D" else t[None] for key, t in tensors.items()}
            model.mount(stacked, [plan.scaling])
            with torch.no_grad():
                outputs = self.task.outputs(model, examples, rows, again=False)
                outcome = self.task.outcome(*outputs)
            return rows, {name: values.cpu() for name, values in outcome.items()}

        batches = [
            (adapter, batch)
            for adapter, rows in models
            if len(rows)
            for batch in rows[torch.argsort(examples.lengths[rows], stable=True)].split(
                self.config.evaluation.batch_size
            )
        ]
        return gathered(self.workers.map(predict, batches), len(examples))

    def take_notes(self) -> RoundNotes:
        """None: nothing is sent for an evaluation, and there is nothing between that could fail."""
        return RoundNotes()

    @property
    def kept(self) -> Mapping[int, Adapter]:
        """Per client, the parts that it keeps for itself."""
        return self.store.parts

    def tensors(self) -> dict[str, Tensor]:
        """What clients keep for themselves."""
        return self.store.tensors()

    def restore(self, tensors: Mapping[str, Tensor], state: ServerState) -> None:
        """Take up what clients kept, and what they hold of the global parts."""
        self.store = LocalStore.of(tensors)
        ranks = {client.rank for client in self.clients}
        self.replicas = restored(state, ranks, self.config.lora.max_rank)


def stackable(first: Job, other: Job) -> bool:
    """Whether two clients can share one optimiser: they kept as much and made as many steps."""
    return _progress(first) == _progress(other)


def _progress(job: Job) -> dict[str, float]:
    """What is kept of the optimiser of the trained parts, with the numbers among it."""
    return {
        name: float(value) if value.dim() == 0 else 0.0
        for name, value in (job.optimizer or {}).items()
        if name.partition(".")[0] in job.plan.train
    }


def default_workers(device: torch.device) -> int:
    """One a core on a CPU, else one."""
    return len(os.sched_getaffinity(0)) if device.type == "cpu" else 1


class Workers:
    """Threads that each have a set of LoRA layers over the one base model.

    On a CPU each runs its tensor operations on `threads` cores, as a rule one. That is faster than
    one worker whose operations are split between cores, keeps its speed when another process takes
    a core, and gives the same bits whatever the number of workers.
    """

    def __init__(self, model: LoraModel, count: int, threads: int = 1):
        self.idle: SimpleQueue[LoraModel] = SimpleQueue()
        for twin in [model, *(model.twin() for _ in range(count - 1))]:
            self.idle.put(twin)
        self.count = count

        def set_threads() -> None:
            if model.device.type == "cpu":
                torch.set_num_threads(threads)

        self.pool = ThreadPoolExecutor(count, initializer=set_threads)

    def __len__(self) -> int:
        return self.count

    def map(self, function: Callable[[LoraModel, T], R], items: Iterable[T]) -> Iterator[R]:
        """The results in the order of `items`, which are taken as workers fall free."""

        def work(item: T) -> R:
            model = self.idle.get()
            try:
                return function(model, item)
            finally:
                self.idle.put(model)

        running: deque[Future[R]] = deque()
        try:
            for item in items:
                running.append(self.pool.submit(work, item))
                if len(running) > self.count:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:  # of a round that is given up: what has begun is waited for
            wait([future for future in running if not future.cancel()])
