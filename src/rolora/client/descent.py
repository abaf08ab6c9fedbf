"""How the clients of a stack come to their gradients: by batches, each one's mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rolora.client.batches import Chunk, batch_rows, chunks
from rolora.client.objective import Objective
from rolora.client.stack import Stack
from rolora.config import OptimizerConfig
from rolora.core.rules import Job, Trained
from rolora.core.seeds import derive
from rolora.data import Examples
from rolora.model.dropout import client_streams, row_streams
from rolora.model.lora import LoraModel


class Descent:
    """The clients' batches in a round, and their gradients step by step.

    Args:
        model: the shared frozen model.
        data: the training examples.
        stack: the K clients.
        loss: what they train on.
        settings: steps and batch size.
        seed: of the run.

    Attributes:
        batches: each client's, a step after the other.
        losses: each client's mean losses, added up, ``[K]``.
    """

    def __init__(
        self,
        model: LoraModel,
        data: Examples,
        stack: Stack,
        loss: Objective,
        settings: OptimizerConfig,
        seed: int,
    ):
        self.model, self.data, self.stack, self.loss = model, data, stack, loss
        self.settings, self.seed = settings, seed
        plans = [job.plan for job in stack.jobs]
        self.seeds = [derive(seed, "dropout", plan.round, plan.client) for plan in plans]
        self.losses = torch.zeros(len(plans), device=model.device)
        self.batches = [self.drawn(job) for job in stack.jobs]
        self.mount()

    def drawn(self, job: Job) -> Sequence[Tensor]:
        """A client's batches: passes over its examples in fresh orders."""
        return batch_rows(job.rows, job.plan, self.settings, self.seed)

    def mount(self) -> None:
        """Put the clients' tensors in place."""
        scaling = [job.plan.scaling for job in self.stack.jobs]
        self.model.mount(self.stack.tensors(), scaling)

    def streams(self, step: int) -> Tensor | None:
        """What each client's dropout is drawn from, ``[K]``."""
        if self.model.dropout_p == 0:
            return None
        return client_streams(self.seeds, step, self.model.device)

    def add_gradients(self, step: int) -> None:
        """Add each client's gradient of a step to its leaves'."""
        current = [rows[step] if step < len(rows) else rows[-1] for rows in self.batches]
        weight = self.loss.task.weight(self.data.targets)
        device, most = self.model.device.type, self.model.tokens_at_once
        streams = self.streams(step)
        for chunk in chunks(self.data, current, device, weight, most):
            drawn = None if streams is None else row_streams(streams, chunk.places)
            loss = chunk_loss(self.loss, self.model, self.data, chunk, drawn)
            loss.sum().backward()
            self.losses += loss.detach()

    def finish(self, k: int, trained: Trained) -> Trained:
        """What client k leaves after its last step."""
        return trained


class MakeDescent(Protocol):
    """Makes the descent of a stack."""

    def __call__(
        self,
        model: LoraModel,
        data: Examples,
        stack: Stack,
        loss: Objective,
        settings: OptimizerConfig,
        seed: int,
    ) -> Descent:
        """As of :class:`Descent`."""
        ...


def chunk_loss(
    objective: Objective,
    model: LoraModel,
    data: Examples,
    chunk: Chunk,
    streams: Tensor | None = None,
) -> Tensor:
    """Each client's share of its mean loss in this chunk: ``[K]``.

    Args:
        streams: what each row's dropout is drawn from, ``[K n]``.
    """
    rows = chunk.rows.reshape(-1)
    output, targets = objective.task.outputs(model, data, rows, again=True, streams=streams)
    losses = objective.losses(output, targets, chunk.rows.shape)
    return (losses * chunk.weights.to(losses.device)).sum(1)
