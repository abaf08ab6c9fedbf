"""A client's local training: K clients at a time, each as if it were alone.

``local_update`` is the only implementation. The simulator calls it with as many clients as pay,
a Flower node with one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rolora.client.batches import Chunk, batch_rows, chunks
from rolora.client.objective import Objective
from rolora.client.optimizer import build_optimizer
from rolora.client.stack import Stack
from rolora.config import ObjectiveConfig, OptimizerConfig
from rolora.core.rules import ClientRule, Job, Trained
from rolora.core.seeds import derive
from rolora.core.types import Adapter
from rolora.data import Examples
from rolora.model.dropout import client_streams, row_streams
from rolora.model.lora import LoraModel
from rolora.tasks import Task


def local_update(
    task: Task,
    model: LoraModel,
    data: Examples,
    jobs: Sequence[Job],
    settings: OptimizerConfig,
    seed: int,
    rules: Sequence[ClientRule] = (),
    objective: ObjectiveConfig = ObjectiveConfig(),
) -> list[Trained]:
    """Train K clients side by side, one optimiser step of all at a time.

    The loss is the sum over clients of each client's mean, so no client's gradient depends on
    another's. A client that has made its last step is harvested and what happens to its place
    in the stack afterwards is of no account. All need the same trained parts; ranks below the
    largest are padded with zeros, which stay zero.

    Args:
        task: what is learned.
        model: the shared frozen model.
        data: the training examples.
        jobs: the K clients' work, one group of every rule.
        settings: optimiser, learning rates, steps, batch size.
        seed: the run's seed; batches depend on it, the round and the client.
        rules: what clients do beside plain training, in order.
        objective: what is added to the task's loss.
    """

    def draw(rank: int, *names: str | int) -> Adapter:
        return model.initial_adapter(rank, seed, *names)

    for rule in rules:
        jobs = [rule.start(job, draw) for job in jobs]
    stack = Stack(jobs, model.device)
    optimizer = build_optimizer(stack, settings)
    beside = [rule.steps(stack, optimizer) for rule in rules]
    loss = Objective.of(task, objective, data, jobs, model.device)
    plans = [job.plan for job in jobs]
    seeds = [derive(seed, "dropout", plan.round, plan.client) for plan in plans]
    model.mount(stack.tensors(), [plan.scaling for plan in plans])
    batches = [batch_rows(job.rows, job.plan, settings, seed) for job in jobs]
    trained: dict[int, Trained] = {}
    losses = torch.zeros(len(jobs), device=model.device)
    for step in range(max(map(len, batches))):
        stack.gradients.zero_()
        current = [rows[step] if step < len(rows) else rows[-1] for rows in batches]
        streams = client_streams(seeds, step, model.device) if model.dropout_p > 0 else None
        add_gradients(loss, model, data, current, streams, losses)
        for steps in beside:
            steps.gradient()
        stack.clip(settings.max_grad_norm)
        optimizer.step()
        finished = [k for k in range(len(jobs)) if step + 1 == len(batches[k])]
        for k, item in zip(finished, stack.harvest(finished, losses / (step + 1)), strict=True):
            for steps in beside:
                item = steps.finish(k, item)
            trained[k] = item
    return [trained[k] for k in range(len(jobs))]


def add_gradients(
    objective: Objective,
    model: LoraModel,
    data: Examples,
    current: Sequence[Tensor],
    streams: Tensor | None,
    losses: Tensor,
) -> None:
    """One step's batches through the model: each client's gradient is added to its leaves', and its
    mean loss to `losses` ``[K]``.
    """
    weight = objective.task.weight(data.targets)
    for chunk in chunks(data, current, model.device.type, weight, model.tokens_at_once):
        loss = chunk_loss(objective, model, data, chunk, streams)
        loss.sum().backward()
        losses += loss.detach()


def chunk_loss(
    objective: Objective,
    model: LoraModel,
    data: Examples,
    chunk: Chunk,
    streams: Tensor | None = None,
) -> Tensor:
    """Each client's share of its mean loss in this chunk: ``[K]``; `streams` ``[K]`` are what its
    dropout is drawn from.
    """
    drawn = None if streams is None else row_streams(streams, chunk.places)
    rows = chunk.rows.reshape(-1)
    output, targets = objective.task.outputs(model, data, rows, again=True, streams=drawn)
    losses = objective.losses(output, targets, chunk.rows.shape)
    return (losses * chunk.weights.to(losses.device)).sum(1)
