"""What clients do, under every engine: begin a round, train, keep what is theirs, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from rolora.client.descent import Descent, MakeDescent
from rolora.client.evaluation import Batch, Carry, Split, evaluate
from rolora.client.kept import Kept
from rolora.client.moments import MOMENTS
from rolora.client.objective import information
from rolora.client.per_example import PerExample
from rolora.client.replica import Replica
from rolora.client.update import local_update
from rolora.config import Config
from rolora.core.rules import ClientRule, Job, Trained
from rolora.core.types import Adapter, Evaluation, Plan, Update
from rolora.data import Examples
from rolora.methods import Method
from rolora.model.lora import LoraModel
from rolora.privacy.noising import chain_of
from rolora.stages import At, Chain, change, make_chain
from rolora.tasks import Task


@dataclass(frozen=True)
class ClientRuntime:
    """The clients of one process: one at a site, all of them in the simulator.

    It holds what they share: how they train and what they do beside it. What is a client's own, its
    examples, its :class:`Replica` of the global parts and what it keeps, is handed in.

    Args:
        config: the run's settings.
        task: what is learned, and how it is scored.
        rules: what clients do beside plain training, in order.
        up: what becomes of their updates before they travel.
        down: what became of the changes that the server sends.
        descend: makes how they come to their gradients.
    """

    config: Config
    task: Task
    rules: tuple[ClientRule, ...]
    up: Chain
    down: Chain
    descend: MakeDescent = Descent

    @staticmethod
    def of(config: Config, method: Method, task: Task) -> ClientRuntime:
        """For a run of `method` on `task`."""
        rules = (*method.rules(), *MOMENTS[config.optimizer.state])
        up, down = chain_of(config), make_chain(config.server.stages)
        return ClientRuntime(config, task, rules, up, down, descent_of(config))

    def replica(self) -> Replica:
        """One that holds nothing yet."""
        return Replica(self.down)

    def begin(self, plan: Plan, replica: Replica, kept: Kept, rows: Tensor, own: Adapter) -> Job:
        """A client's work: what it holds and was sent, with what it keeps for itself over it.

        Args:
            plan: what it is told.
            replica: the global parts that it holds.
            kept: what it keeps.
            rows: its training examples.
            own: what its local parts are before it has trained any.
        """
        start = replica.start(plan, self.rules)
        return Job(
            plan=plan,
            start=with_own(start.parts, plan, kept, own),
            rows=rows,
            kept=kept.state,
            given=start.given,
            delta=start.delta,
        )

    def together(self, job: Job) -> Hashable:
        """Jobs train side by side only where this is equal."""
        return tuple(rule.group(job) for rule in self.rules)

    def train(self, model: LoraModel, data: Examples, jobs: Sequence[Job]) -> list[Trained]:
        """Train a stack of clients and make their updates ready to travel."""
        config = self.config
        settings, seed = config.optimizer, config.seed
        given = (self.task, model, data, jobs, settings, seed, self.rules, config.objective)
        trained = local_update(*given, self.descend)
        if config.server.weighting == "information":
            trained = [_weighing(data, *each) for each in zip(jobs, trained, strict=True)]
        if not self.up:
            return trained
        return [self._staged(job, item) for job, item in zip(jobs, trained, strict=True)]

    def _staged(self, job: Job, trained: Trained) -> Trained:
        update = trained.update
        if not (self.up.takes_any or update.parts.flat.isfinite().all()):
            return trained  # as it is, for the server to refuse by name
        update = replace(update, parts=change(update.parts, job.start))
        at = At(self.config.seed, job.plan.round, job.plan.client)
        update, own = self.up.encode(update, job.kept, at)
        return replace(trained, update=update, kept={**trained.kept, **own})

    def masked(self, job: Job, trained: Trained, mask: Callable[[Update], Update]) -> Trained:
        """With its update as one of a secure sum.

        Args:
            job: the client's.
            trained: as :meth:`train` left it.
            mask: what hides the update, whose parts are the change.
        """
        update = trained.update
        if not self.up:
            update = replace(update, parts=change(update.parts, job.start))
        return replace(trained, update=mask(update))

    def evaluate(
        self, plan: Plan, held: Split, models: Sequence[Batch], carry: Carry
    ) -> list[Evaluation]:
        """Each model on its rows (:func:`rolora.client.evaluation.evaluate`)."""
        return evaluate(self.task, plan, held, models, self.config.evaluation.batch_size, carry)

    def kept_after(self, job: Job, trained: Trained, before: Kept) -> Kept:
        """What the client keeps from now on; one that went astray keeps the old."""
        local = job.plan.local & job.plan.train
        if not (local or trained.kept) or not trained.parts.flat.isfinite().all():
            return before
        return Kept(
            parts=trained.parts.select(local) if local else before.parts,
            state={**before.state, **trained.kept},
        )


def descent_of(config: Config) -> MakeDescent:
    """How the clients of a run come to their gradients."""
    if config.privacy is None or config.privacy.unit != "example":
        return Descent
    return partial(PerExample, config.privacy, config.rounds)


def _weighing(data: Examples, job: Job, trained: Trained) -> Trained:
    """With what the client says that it can teach."""
    update = replace(trained.update, weight=information(data, job.rows))
    return replace(trained, update=update)


def with_own(parts: Adapter, plan: Plan, kept: Kept, own: Adapter) -> Adapter:
    """Global `parts` with a client's own over them.

    Args:
        parts: of the model.
        plan: says which parts are local.
        kept: what the client keeps.
        own: what a local head is before it has been trained.
    """
    if kept.parts:
        return parts.overwrite(kept.parts)
    return parts.overwrite(own.select({"head"})) if "head" in plan.local else parts


def first_head(model: LoraModel) -> Adapter:
    """The model's own head, from which a local one starts."""
    tensors = {(name, "head"): tensor.float().cpu() for name, tensor in model.frozen_head.items()}
    return Adapter.of(tensors)
