"""The settings of the arena: who takes part, and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, model_validator

from experiments.contest import Pair
from experiments.methods import RECOMMENDED, RECOMMENDED_TITLE, ROLORA, title_of
from experiments.places import EQUAL, SKEWED, Place, changed, digits, quickstart, reviews, topics
from experiments.tuning import check_different
from rolora.config import Config
from rolora.core.errors import nearest
from rolora.core.section import Positive, Section, Seed
from rolora.methods import METHODS, options_of

CARRIED = {"optimizer": {"state": "transport"}}


@dataclass(frozen=True)
class Competitor:
    """A method with its options, and what else it changes in a run.

    Args:
        key: what names it in files and settings.
        label: for people.
        method: by name.
        options: of the method.
        changes: of other sections, by name.
    """

    key: str
    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    changes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def personal(self) -> bool:
        """Whether every client ends with a model of its own."""
        return METHODS[self.method].personal

    def of(self, run: Config) -> Config:
        """Its run, made of a base run."""
        return changed(run, method=options_of(self.method, **self.options), **self.changes)


def _plain(method: str) -> Competitor:
    return Competitor(method, title_of(method), method)


GAUGE = {"gauge": "orthonormal"}
CALIBRATED = {
    **CARRIED,
    "objective": {"logit_adjustment": 1.0},
    "server": {"weighting": "information"},
}
PLAIN = _plain(ROLORA)
PRESETS = (
    Competitor(RECOMMENDED, RECOMMENDED_TITLE, ROLORA, GAUGE, CARRIED),
    Competitor(
        "calibrated", "RoLoRA, gauge, carried, calibrated, information", ROLORA, GAUGE, CALIBRATED
    ),
)
FIRST = ("fedit", "ffa_lora", "flexlora")
"""The paper's, which are run with RoLoRA and the presets, before the others."""


def competitors() -> dict[str, Competitor]:
    """All by key: RoLoRA, the two presets, the paper's methods, the others."""
    others = [name for name in METHODS.own if name not in (ROLORA, *FIRST)]
    found = (PLAIN, *PRESETS, *map(_plain, (*FIRST, *others)))
    return {one.key: one for one in found}


class ArenaConfig(Section):
    """The experiment.

    `methods` (None: all) beside RoLoRA, which is always among them; `places` are told of in their
    order, and more are known than those: ``reviews-10-iid`` and ``topics-10-iid``, of equal shares,
    and ``quickstart-10-dirichlet0.5``, whose runs take minutes; each with 50 clients as well.
    `digits` is where MNIST comes from, and `digits_limit` how many of its training digits are taken
    (None: all). Every method has its own rate in every place: that with the best mean validation
    accuracy at `tuning_seeds`, of a grid that widens while the best lies at its end. With
    `finished` nothing is run: the report tells of what is there. `workers` runs are made at a time,
    each on one thread.
    """

    methods: tuple[str, ...] | None = None
    places: Annotated[tuple[str, ...], Field(min_length=1)] = (
        *("digits2-10", "digits1-10", "reviews-10", "topics-10"),
        *("digits2-50", "digits1-50", "reviews-50", "topics-50"),
    )
    digits: str = "auto"
    digits_limit: Positive | None = None
    rounds: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    tuning_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (100, 101)
    finished: bool = False
    workers: Positive = 1

    @model_validator(mode="after")
    def _known(self) -> ArenaConfig:
        check_different(self, "places", "seeds", "tuning_seeds")
        if set(self.tuning_seeds) & set(self.seeds):
            raise ValueError("tuning_seeds: must not be among seeds, which are judged")
        for name, known in (("methods", competitors()), ("places", self.known_places())):
            for key in getattr(self, name) or ():
                if key not in known:
                    raise ValueError(f"{name} = {key!r}: unknown{nearest(key, known)}")
        return self

    def known_places(self) -> dict[str, Place]:
        """By key."""
        found = [
            place
            for clients in (10, 50)
            for place in (
                digits(self.digits, 2, clients, self.rounds, self.digits_limit),
                digits(self.digits, 1, clients, self.rounds, self.digits_limit),
                reviews(clients, self.rounds, SKEWED),
                topics(clients, self.rounds, SKEWED),
                reviews(clients, self.rounds, EQUAL),
                topics(clients, self.rounds, EQUAL),
                quickstart(clients, self.rounds, SKEWED),
            )
        ]
        return {place.key: place for place in found}

    def compared(self) -> list[Competitor]:
        """RoLoRA, and the methods that are asked for."""
        known = competitors().values()
        return [c for c in known if self.methods is None or c is PLAIN or c.key in self.methods]

    def waves(self) -> Iterator[list[Pair]]:
        """What is run together, the most telling first: place by place RoLoRA, the presets and the
        paper's methods; then place by place the others.
        """
        near = [c for c in self.compared() if c.method in (ROLORA, *FIRST)]
        far = [c for c in self.compared() if c not in near]
        known = self.known_places()
        for some in (near, far):
            for key in self.places if some else ():
                yield [(one, known[key]) for one in some]
