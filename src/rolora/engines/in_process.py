"""The simulator: all clients in this process, over one base model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from rolora.client.evaluation import Split
from rolora.client.kept import NOTHING, Kept, all_tensors, of_all
from rolora.client.replica import Replica, restored
from rolora.client.runtime import ClientRuntime, first_head, with_own
from rolora.config import Config
from rolora.core.memory import give_back
from rolora.core.rules import Job, Trained
from rolora.core.types import (
    Adapter,
    Evaluation,
    Failure,
    Plan,
    RoundNotes,
    ServerState,
    Update,
)
from rolora.data import Examples
from rolora.methods import Method
from rolora.model.footprint import default_workers
from rolora.model.lora import LoraModel
from rolora.secure.fixed import Withheld
from rolora.secure.forms import STEPS
from rolora.server.engine import PLAIN
from rolora.tasks import Task

if TYPE_CHECKING:
    from rolora.secure.party import Party

T = TypeVar("T")
R = TypeVar("R")
STACK_TOKENS = {"cpu": 1024, "cuda": 32768, "mps": 16384}
"""Tokens of all stacked clients' batches up to which stacking more clients pays, by device."""


class InProcess:
    """Carries out plans in this process, K clients at a time.

    Memory does not grow with the number of clients: there is one model, a client is a list of
    example numbers, all clients of a rank share a replica, and what a client keeps lives only where
    a method or option keeps something.

    Args:
        config: the run's settings.
        method: whose rules the clients follow.
        task: what they learn.
        model: the shared frozen model with its LoRA layers.
        splits: ``train``, ``validation`` and ``test``.
        threads: that each worker's tensor operations are split between, on a CPU.
        workers: over this model, where there are some.
    """

    def __init__(
        self,
        config: Config,
        method: Method,
        task: Task,
        model: LoraModel,
        splits: Mapping[str, Split],
        threads: int = 1,
        workers: Workers | None = None,
    ):
        self.config, self.method, self.model, self.splits = config, method, model, splits
        self.runtime = ClientRuntime.of(config, method, task)
        self.clients = [
            config.client(i, len(rows)) for i, rows in enumerate(splits["train"].shares)
        ]
        self.replicas: dict[int, Replica] = {}
        self.own: dict[int, Kept] = {}
        self.parties: dict[int, Party] = {}
        self._before, self._round = self.own, 0
        self.first_head = first_head(model)
        count = config.engine.workers or default_workers(model.device)
        self.workers = workers or Workers(model, count, threads)
        self.stack = config.engine.stack or self._choose_stack(splits["train"].examples)

    def like(self, config: Config, shares: Sequence[Tensor] | None = None) -> InProcess:
        """Another with other settings, or other examples for its clients, in the same workers; it
        holds nothing of what these clients keep.
        """
        train = self.splits["train"]
        splits = {**self.splits, "train": Split(train.examples, shares or train.shares)}
        task = self.runtime.task
        return InProcess(config, self.method, task, self.model, splits, workers=self.workers)

    @property
    def names(self) -> tuple[str, ...]:
        """What the model's outputs stand for."""
        return self.splits["train"].examples.names

    def registered(self, client: int) -> int:
        """The number of the client's training examples."""
        return self.clients[client].num_examples

    def train(
        self, plans: Sequence[Plan], dealt: Mapping[int, bytes] = PLAIN
    ) -> Iterator[Update | Failure]:
        """Train the planned clients, a stack at a time; answers come in the order of the plans."""
        data = self.splits["train"].examples
        if plans[0].round != self._round:
            self._before, self._round = self.own, plans[0].round
        self.own = dict(self._before)  # where a round is done again, as they were before it

        def train_stack(model: LoraModel, jobs: Sequence[Job]) -> list[tuple[Job, Trained]]:
            return list(zip(jobs, self.runtime.train(model, data, jobs), strict=True))

        kept: dict[int, Kept] = {}
        for stack in self.workers.map(train_stack, self._stacks(plans)):
            for job, item in stack:
                client = job.plan.client
                trained = self._masked(job, item, dealt[client]) if dealt else item
                if isinstance(trained, Failure):
                    yield trained
                    continue
                before = self.own.get(client, NOTHING)
                after = self.runtime.kept_after(job, trained, before)
                if after is not before:
                    kept[client] = after
                yield trained.update
        # Not before: a round that is interrupted is done again after a restart.
        self.own.update(kept)
        give_back()

    def _masked(self, job: Job, trained: Trained, dealt: bytes) -> Trained | Failure:
        """The client's update as one of a secure sum, or why it does not send it."""
        client = job.plan.client
        try:
            return self.runtime.masked(job, trained, partial(self.parties[client].masked, dealt))
        except Withheld as error:
            return Failure(client, error.reason, str(error))

    def exchange(
        self, step: str, round_number: int, texts: Mapping[int, bytes]
    ) -> Iterator[tuple[int, bytes | Failure]]:
        """Each client's answer to a step of a secure sum."""
        from rolora.secure.party import Party

        for client, text in texts.items():
            if step == STEPS[0]:
                terms = self.config.sum_terms(round_number)
                self.parties[client] = Party(client, self.registered(client), terms)
            yield client, self.parties[client].answer(step, text)

    def _stacks(self, plans: Sequence[Plan]) -> Iterator[list[Job]]:
        waiting: list[Job] = []
        together = self.runtime.together
        for job in map(self.job, plans):
            full = len(waiting) == self.stack
            if waiting and (full or together(waiting[0]) != together(job)):
                yield waiting
                waiting = []
            waiting.append(job)
        if waiting:
            yield waiting

    def job(self, plan: Plan) -> Job:
        """A client's work in a round."""
        replica = self.replicas.setdefault(plan.rank, self.runtime.replica())
        kept = self.own.get(plan.client, NOTHING)
        rows = self.splits["train"].shares[plan.client]
        return self.runtime.begin(plan, replica, kept, rows, self.first_head)

    def _choose_stack(self, examples: Examples) -> int:
        """Not a function of the workers: another number of cores must give the same bits."""
        tokens = self.config.optimizer.batch_size * float(examples.lengths.float().mean())
        limit = STACK_TOKENS.get(self.model.device.type, 1024)
        limit = min(limit, self.model.tokens_at_once or limit)
        half = -(-self.config.federation.cohort_size // 2)
        return max(1, min(int(limit / tokens), half, 64))

    def evaluate(self, plan: Plan, split: str) -> list[Evaluation]:
        """The global model in one pass, or each client's own where parts are local."""
        held = self.splits[split]
        if plan.local:
            models = [
                (with_own(plan.send, plan, self.own.get(client, NOTHING), self.first_head), rows)
                for client, rows in enumerate(held.shares)
                if len(rows)
            ]
        else:
            models = [(plan.send, torch.cat(list(held.shares)))]
        results = self.runtime.evaluate(plan, held, models, self.workers.map)
        give_back()
        return results

    def take_notes(self) -> RoundNotes:
        """None: nothing is sent for an evaluation, and there is nothing between that could fail."""
        return RoundNotes()

    @property
    def kept(self) -> Mapping[int, Adapter]:
        """Per client, the parts that it keeps for itself."""
        return {client: own.parts for client, own in self.own.items() if own.parts}

    def tensors(self, round_number: int) -> dict[str, Tensor]:
        """What clients kept for themselves after a round: the last trained, or the one before."""
        return all_tensors(self.own if round_number >= self._round else self._before)

    def restore(self, tensors: Mapping[str, Tensor], state: ServerState) -> None:
        """Take up what clients kept, and what they hold of the global parts."""
        self.own = of_all(tensors)
        ranks = {client.rank for client in self.clients}
        self.replicas = restored(state, ranks, self.config.lora.max_rank, self.runtime.down)


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
