"""The simulator: all clients in this process, over one base model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from rolora.client import Data, Job, local_update
from rolora.config import Config
from rolora.lora import LoraModel
from rolora.replica import Replica
from rolora.types import Adapter, ClientInfo, Evaluation, Failure, Plan, ServerState, Update
from rolora.wire import parse_name, tensor_name

STACK_TOKENS = {"cpu": 1024, "cuda": 32768, "mps": 16384}
"""Tokens of all stacked clients' batches up to which stacking more clients pays, by device."""


class HeldOut(Protocol):
    """A split with its examples (:class:`rolora.data.Examples`)."""

    labels: Tensor
    lengths: Tensor
    num_labels: int

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """The model's inputs for `rows`."""


@dataclass(frozen=True)
class Split:
    """Examples, and each client's share of their numbers."""

    examples: HeldOut
    shares: Sequence[Tensor]


@dataclass
class LocalStore:
    """What clients keep for themselves; empty for methods and options that keep nothing."""

    parts: dict[int, Adapter] = field(default_factory=dict)
    optimizers: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name."""
        named = {
            f"parts/{client}/{tensor_name(key)}": tensor
            for client, adapter in self.parts.items()
            for key, tensor in adapter.items()
        }
        return named | {
            f"optimizer/{client}/{name}": tensor
            for client, state in self.optimizers.items()
            for name, tensor in state.items()
        }

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> LocalStore:
        """The inverse of :meth:`tensors`."""
        parts: dict[int, dict[tuple[str, str], Tensor]] = {}
        store = LocalStore()
        for name, tensor in tensors.items():
            kind, client, rest = name.split("/", 2)
            if kind == "parts":
                parts.setdefault(int(client), {})[parse_name(rest)] = tensor
            else:
                store.optimizers.setdefault(int(client), {})[rest] = tensor
        store.parts = {client: Adapter.of(held) for client, held in parts.items()}  # type: ignore[arg-type]
        return store


class InProcess:
    """Carries out plans in this process, K clients at a time.

    Memory does not grow with the number of clients: there is one model, a client is a list of
    example numbers, and local state lives only where a method or option keeps one.

    Args:
        config: the run's settings.
        model: the shared frozen model with its LoRA layers.
        splits: ``train``, ``validation`` and ``test``.
    """

    def __init__(self, config: Config, model: LoraModel, splits: Mapping[str, Split]):
        self.config, self.model, self.splits = config, model, splits
        self.clients = [
            ClientInfo(id=i, rank=config.lora.rank_of(i), num_examples=len(rows))
            for i, rows in enumerate(splits["train"].shares)
        ]
        self.replicas: dict[int, Replica] = {}
        self.store = LocalStore()
        self.stack = config.engine.stack or self._choose_stack(splits["train"].examples)

    def train(self, plans: Sequence[Plan]) -> Iterator[Update | Failure]:
        """Train the planned clients, a stack at a time, in the order of the plans."""
        waiting: list[Job] = []
        for job in map(self.job, plans):
            if waiting and not self._stackable(waiting, job):
                yield from self._train_stack(waiting)
                waiting = []
            waiting.append(job)
        if waiting:
            yield from self._train_stack(waiting)

    def job(self, plan: Plan) -> Job:
        """A client's work: what it holds, what it was sent, what it keeps."""
        start = self.replicas.setdefault(plan.rank, Replica()).start(plan)
        if plan.redraw:
            drawn = self.model.initial_adapter(plan.rank, self.config.seed, plan.round, plan.client)
            start = start.overwrite(drawn.select({"A", "B"}))
        start = self._with_local(start, plan, plan.client)
        rows = self.splits["train"].shares[plan.client]
        return Job(plan, start, rows, self.store.optimizers.get(plan.client))

    def _with_local(self, start: Adapter, plan: Plan, client: int) -> Adapter:
        kept = self.store.parts.get(client)
        if "head" in plan.local and kept is None:
            initial = {
                (name, "head"): tensor.float().cpu()
                for name, tensor in self.model.frozen_head.items()
            }
            return start.overwrite(initial)  # type: ignore[arg-type]
        return start if kept is None else start.overwrite(kept)

    def _stackable(self, waiting: Sequence[Job], job: Job) -> bool:
        """Clients at different optimiser steps cannot share one optimiser."""
        return len(waiting) < self.stack and _steps(waiting[0]) == _steps(job)

    def _train_stack(self, jobs: Sequence[Job]) -> Iterator[Update]:
        data: Data = self.splits["train"].examples
        settings = self.config.optimizer
        for job, trained in zip(
            jobs, local_update(self.model, data, jobs, settings, self.config.seed), strict=True
        ):
            client, local = job.plan.client, job.plan.local & job.plan.train
            if local:
                self.store.parts[client] = trained.parts.select(local)
            if settings.state == "persist":
                self.store.optimizers[client] = {**(job.optimizer or {}), **trained.optimizer}
            yield trained.update

    def _choose_stack(self, examples: HeldOut) -> int:
        tokens = self.config.optimizer.batch_size * float(examples.lengths.float().mean())
        limit = STACK_TOKENS.get(self.model.device.type, 1024)
        return max(1, min(int(limit / tokens), self.config.federation.cohort_size, 64))

    def evaluate(self, plan: Plan, split: str) -> list[Evaluation]:
        """The global model in one pass, or each client's own where parts are local."""
        held = self.splits[split]
        if not plan.local:
            self._mount(plan.send, plan)
            rows = torch.cat(list(held.shares))
            return tally(self._predict(held.examples, rows), held)
        results = []
        for client, rows in enumerate(held.shares):
            if len(rows):
                self._mount(self._with_local(plan.send, plan, client), plan)
                own = Split(held.examples, [rows])
                (result,) = tally(self._predict(held.examples, rows), own)
                results.append(
                    Evaluation(
                        client, result.num_examples, result.loss, result.correct, result.predicted
                    )
                )
        return results

    def _mount(self, adapter: Adapter, plan: Plan) -> None:
        tensors = {
            key: tensor.to(self.model.device)
            if key[1] == "D"
            else tensor[None].to(self.model.device)
            for key, tensor in adapter.items()
        }
        self.model.mount(tensors, [plan.scaling])

    @torch.no_grad()
    def _predict(self, examples: HeldOut, rows: Tensor) -> Predictions:
        """Loss and predicted label of each of `rows`, in batches of similar length."""
        loss = torch.zeros(len(examples))
        label = torch.zeros(len(examples), dtype=torch.long)
        order = rows[torch.argsort(examples.lengths[rows], stable=True)]
        for batch in order.split(self.config.evaluation.batch_size):
            logits = self.model.logits(examples.batch(batch)).cpu()
            loss[batch] = nn.functional.cross_entropy(
                logits, examples.labels[batch], reduction="none"
            )
            label[batch] = logits.argmax(1)
        return Predictions(loss, label)

    def tensors(self) -> dict[str, Tensor]:
        """What clients keep for themselves."""
        return self.store.tensors()

    def restore(self, tensors: Mapping[str, Tensor], state: ServerState) -> None:
        """Take up what clients kept, and what they hold of the global parts."""
        self.store = LocalStore.of(tensors)
        for rank in {client.rank for client in self.clients}:
            replica = self.replicas[rank] = Replica()
            for part in state.parts.parts:
                replica.held[part, state.versions[part]] = state.parts.select({part})


@dataclass(frozen=True)
class Predictions:
    """Per example of a split: its loss and its predicted label; 0 where it was not asked for."""

    loss: Tensor
    label: Tensor


def tally(predictions: Predictions, split: Split) -> list[Evaluation]:
    """Sum predictions by client; clients without held-out examples are left out."""
    examples = split.examples
    results = []
    for client, rows in enumerate(split.shares):
        if not len(rows):
            continue
        label = predictions.label[rows]
        counts = torch.bincount(label, minlength=examples.num_labels)
        results.append(
            Evaluation(
                client=client,
                num_examples=len(rows),
                loss=float(predictions.loss[rows].sum()),
                correct=int((label == examples.labels[rows]).sum()),
                predicted=tuple(counts.tolist()),
            )
        )
    return results


def _steps(job: Job) -> list[float]:
    """How many steps the client's kept optimiser has made, by trained part."""
    held = job.optimizer or {}
    return [float(held.get(f"{part}.step", torch.zeros(()))) for part in sorted(job.plan.train)]
