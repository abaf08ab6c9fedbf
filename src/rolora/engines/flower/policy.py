"""What a site allows, and the plans that go with what it agreed to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import field_validator

from rolora.config import Config
from rolora.core.errors import nearest
from rolora.core.section import Positive, Rate, Section
from rolora.core.types import ClientInfo, Plan, ServerState
from rolora.engines.flower.messages import Request
from rolora.engines.flower.told import Declined
from rolora.methods import METHODS, Method
from rolora.tasks import TASKS

Head = Literal["frozen", "train", "local"]


class Allow(Section):
    """What a site lets a run do with its data; the defaults let the library's default run through
    and no more.

    `methods`, `heads` and `models` are what may be asked for by name. Which parts leave follows
    from the method and the head's policy and is not typed here: a head that is ``frozen`` or
    ``local`` never leaves, one that is ``train`` does. `models` holds the names and directories
    that a run may name; where `site.model` says which model is taken, that one is.

    An update says the more of a single example the fewer it is made of. So one is made of
    `examples` at least, in batches of `least_batch`, and in `least_steps`: after one step it is a
    gradient, from which texts have been read. `most_steps`, `most_batch`, `rank`, `scaling` and
    `rounds` bound what a run costs the site, and how often it is asked.

    `label_counts`: the server is told how many examples of each label there are; without, how many
    there are in all, which weighs the site's update. `scores`: it is told the sums of which scores
    on the held-out examples are made, in which the number of each label stands. `least_sum`: an
    update is seen in the sum over so many sites at least (``secure_sum.threshold``); with 1, by
    itself.
    """

    methods: tuple[str, ...] = ("rolora",)
    heads: tuple[Head, ...] = ("frozen", "local")
    models: tuple[str, ...] = ("minilm",)
    tasks: tuple[str, ...] = ("classification",)
    examples: Positive = 32
    least_steps: Positive = 2
    most_steps: Positive = 10_000
    least_batch: Positive = 8
    most_batch: Positive = 1024
    rounds: Positive = 200
    rank: Positive = 64
    scaling: Rate = 64.0
    label_counts: bool = False
    scores: bool = True
    least_sum: Positive = 1

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, METHODS, "method")

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, TASKS, "task")


def _known(names: tuple[str, ...], table: Iterable[str], what: str) -> tuple[str, ...]:
    for name in names:
        if name not in table:
            raise ValueError(f"{name!r}: no such {what}{nearest(name, table)}")
    return names


def outside(allow: Allow, run: Config, model: str | None) -> list[str]:
    """What of a run's settings a site does not allow, a line each.

    Args:
        allow: the site's.
        run: as the server tells it.
        model: the site's own, which is taken in place of the run's; None: it has none.
    """
    return [*_names_outside(allow, run, model), *_numbers_outside(allow, run)]


def _names_outside(allow: Allow, run: Config, model: str | None) -> Iterator[str]:
    named = [
        ("method.name", run.method.name, "methods", allow.methods),
        ("model.head", run.model.head, "heads", allow.heads),
        ("task.name", run.task.name, "tasks", allow.tasks),
    ]
    if model is None:
        named.append(("model.name", run.model.name, "models", allow.models))
    for field, value, key, allowed in named:
        if value not in allowed:
            yield f"{field} = {value!r}: allow.{key} has {', '.join(allowed) or 'none'}"
    if (together := run.least_sum or 1) < allow.least_sum:
        yield (
            f"secure_sum.threshold = {run.secure_sum.threshold}: an update would be seen in a sum "
            f"over {together}, and allow.least_sum is {allow.least_sum}"
        )
    if run.server.weighting == "information" and not allow.label_counts:
        yield (
            "server.weighting = 'information': a number made of the label counts would be told, "
            "and allow.label_counts is false"
        )


def _numbers_outside(allow: Allow, run: Config) -> Iterator[str]:
    batch, steps = run.optimizer.batch_size, run.optimizer.local_steps
    bounds: list[tuple[str, float | None, str, float, str, float]] = [
        ("rounds", run.rounds, "", 0, "rounds", allow.rounds),
        ("lora rank", run.lora.max_rank, "", 0, "rank", allow.rank),
        ("lora scaling", run.lora.largest_scaling, "", 0, "scaling", allow.scaling),
        ("optimizer.batch_size", batch, "least_batch", allow.least_batch, "most_batch",
         allow.most_batch),
        ("evaluation.batch_size", run.evaluation.batch_size, "", 0, "most_batch",
         allow.most_batch),
        ("optimizer.local_steps", steps, "least_steps", allow.least_steps, "most_steps",
         allow.most_steps),
    ]  # fmt: skip
    for field, value, low, least, high, most in bounds:
        if value is not None and value < least:
            yield f"{field} = {value}: allow.{low} is {least}"
        if value is not None and value > most:
            yield f"{field} = {value}: allow.{high} is {most}"


def few(allow: Allow, run: Config, examples: int) -> list[str]:
    """What a site does not allow, now that it is known on how many examples it would train."""
    settings = run.optimizer
    steps = settings.steps(examples)
    used = min(examples, steps * settings.batch_size)
    said = []
    if used < allow.examples:
        said.append(f"{used} examples would make an update: allow.examples is {allow.examples}")
    if settings.local_steps is None and not allow.least_steps <= steps <= allow.most_steps:
        bounds = f"allow has {allow.least_steps} to {allow.most_steps}"
        said.append(f"optimizer.local_epochs = {settings.local_epochs}: {steps} steps; {bounds}")
    return said


@dataclass(frozen=True)
class Agreed:
    """What a site agreed to when it joined a run.

    Args:
        config: the run's settings, as the server told them.
        method: the run's.
        initial: the state before round 1, up to the numbers in it.
        client: the site.
    """

    config: Config
    method: Method
    initial: ServerState
    client: ClientInfo

    def check(self, request: Request) -> None:
        """See whether a request is one that the method itself could make.

        The site makes the plan by itself, which the method's purity allows, and holds what it was
        sent against it.

        Raises:
            Declined: it is not.
        """
        plan = request.plan
        last = self.config.rounds + (request.do == "evaluate")
        if type(plan.round) is not int or not 1 <= plan.round <= last:
            raise Declined("refused", f"round {plan.round!r} of a run of {self.config.rounds}")
        possible = [terms(each) for each in self.plans(request)]
        found = terms(plan)
        if found not in possible:
            name = next(key for key, value in found.items() if value != possible[0][key])
            detail = f"round {plan.round}: {name} = {found[name]}, must be {possible[0][name]}"
            raise Declined("refused", f"{detail} ({self.method.title})")

    def plans(self, request: Request) -> list[Plan]:
        """Every plan that the method could have for this client in the request's round.

        Raises:
            Declined: it is asked for something else than to train or to be scored.
        """
        state = replace(self.initial, round=request.plan.round - 1)
        if request.do == "train":
            return list(self.method.plans(state, self.client))
        if request.do == "evaluate" and request.split in ("validation", "test"):
            return [replace(self.method.evaluation_plan(state), client=self.client.id)]
        raise Declined("refused", f"to {request.do!r} on {request.split!r}")


def terms(plan: Plan) -> dict[str, object]:
    """What a plan asks of a client, as against what it sends; in an order that can be read."""
    return {
        "client": plan.client,
        "train": sorted(plan.train),
        "upload": sorted(plan.upload),
        "local": sorted(plan.local),
        "derives": sorted(plan.derives),
        "rank": plan.rank,
        "scaling": plan.scaling,
    }
