"""A client's local training: K clients at a time, each as if it were alone.

``local_update`` is the only implementation. The simulator calls it with as many clients as pay,
a Flower node with one.
"""

from __future__ import annotations

from collections.abc import Sequence

from rolora.client.descent import Descent, MakeDescent
from rolora.client.objective import Objective
from rolora.client.optimizer import build_optimizer
from rolora.client.stack import Stack
from rolora.config import ObjectiveConfig, OptimizerConfig
from rolora.core.rules import ClientRule, Job, Trained
from rolora.core.types import Adapter
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
    rules: Sequence[ClientRule] = (),
    objective: ObjectiveConfig = ObjectiveConfig(),
    descend: MakeDescent = Descent,
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
        descend: makes what draws the batches and finds the gradients.
    """

    def draw(rank: int, *names: str | int) -> Adapter:
        return model.initial_adapter(rank, seed, *names)

    for rule in rules:
        jobs = [rule.start(job, draw) for job in jobs]
    stack = Stack(jobs, model.device)
    optimizer = build_optimizer(stack, settings)
    beside = [rule.steps(stack, optimizer) for rule in rules]
    loss = Objective.of(task, objective, data, jobs, model.device)
    descent = descend(model, data, stack, loss, settings, seed)
    trained: dict[int, Trained] = {}
    for step in range(max(map(len, descent.batches))):
        stack.gradients.zero_()
        descent.add_gradients(step)
        for steps in beside:
            steps.gradient()
        stack.clip(settings.max_grad_norm)
        optimizer.step()
        finished = [k for k in range(len(jobs)) if step + 1 == len(descent.batches[k])]
        losses = descent.losses / (step + 1)
        for k, item in zip(finished, stack.harvest(finished, losses), strict=True):
            item = descent.finish(k, item)
            for steps in beside:
                item = steps.finish(k, item)
            trained[k] = item
    return [trained[k] for k in range(len(jobs))]
