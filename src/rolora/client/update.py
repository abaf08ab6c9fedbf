"""A client's local training: K clients at a time, each as if it were alone.

``local_update`` is the only implementation. The simulator calls it with as many clients as pay,
a Flower node with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rolora.client.batches import Chunk, batch_rows, chunks
from rolora.client.moments import transported, with_bases
from rolora.client.optimizer import build_optimizer, optimizer_state
from rolora.client.stack import Job, Stack, Trained
from rolora.config import OptimizerConfig
from rolora.core.seeds import torch_generator
from rolora.data import Examples
from rolora.model.lora import LoraModel
from rolora.tasks import Task


def local_update(
    task: Task,
    model: LoraModel,
    data: Examples,
    jobs: Sequence[Job],
    settings: OptimizerConfig,
    seed: int,
) -> list[Trained]:
    """Train K clients side by side, one optimiser step of all at a time.

    The loss is the sum over clients of each client's mean, so no client's gradient depends on
    another's. A client that has made its last step is harvested and what happens to its place
    in the stack afterwards is of no account. All clients need the same trained parts; ranks below
    the largest are padded with zeros, which stay zero.

    Args:
        task: what is learned.
        model: the shared frozen model.
        data: the training examples.
        jobs: the K clients' work.
        settings: optimiser, learning rates, steps, batch size.
        seed: the run's seed; batches depend on it, the round and the client.
    """
    if settings.state == "transport":
        jobs = [carried(job) for job in jobs]
    stack = Stack(jobs, model.device)
    optimizer = build_optimizer(stack, settings, jobs)
    plans = [job.plan for job in jobs]
    generator = None
    if model.dropout_p > 0:
        generator = torch_generator(seed, "dropout", plans[0].round, plans[0].client)
    model.mount(stack.tensors(), [plan.scaling for plan in plans], generator)
    batches = [batch_rows(job.rows, job.plan, settings, seed) for job in jobs]
    trained: list[Trained | None] = [None] * len(jobs)
    losses = torch.zeros(len(jobs), device=model.device)
    for step in range(max(map(len, batches))):
        stack.gradients.zero_()
        current = [rows[step] if step < len(rows) else rows[-1] for rows in batches]
        for chunk in chunks(data, current, model.device.type):
            loss = chunk_loss(task, model, data, chunk)
            loss.sum().backward()
            losses += loss.detach()
        stack.add_proximal(plans[0].prox)
        stack.clip(settings.max_grad_norm)
        optimizer.step()
        finished = [k for k in range(len(jobs)) if step + 1 == len(batches[k])]
        for k, item in zip(finished, stack.harvest(finished, losses / (step + 1)), strict=True):
            kept = {} if settings.state == "reset" else optimizer_state(optimizer, stack, k)
            if settings.state == "transport":
                kept = with_bases(kept, jobs[k].start, item.parts)
            trained[k] = replace(item, optimizer=kept)
    return [item for item in trained if item is not None]


def carried(job: Job) -> Job:
    """The job with its kept moments as if made at the factors that it starts from."""
    return replace(job, optimizer=transported(job.optimizer or {}, job.start, job.plan.train))


def chunk_loss(task: Task, model: LoraModel, data: Examples, chunk: Chunk) -> Tensor:
    """Each client's share of its mean loss in this chunk: ``[K]``."""
    loss = task.loss(*task.outputs(model, data, chunk.rows.reshape(-1), again=True))
    return (loss.view(chunk.rows.shape) * chunk.weights.to(loss.device)).sum(1)
