"""The settings of the comparison under differential privacy, and its runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments.methods import FFA, LORA, RECOMMENDED, ROLORA, options_of_line, state_of_line
from experiments.tuning import SearchedRates, check_different
from rolora.config import (
    Config,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    FederationConfig,
    LoraSettings,
    ModelConfig,
    OptimizerConfig,
    PartitionConfig,
    PrivacyConfig,
    ServerConfig,
)
from rolora.core.section import Positive, Rate
from rolora.methods import method_named

LINES = (ROLORA, RECOMMENDED, FFA, LORA, "fedsvd")
"""Methods, and the recommended preset."""
Epsilon = Annotated[float, Field(gt=0.0)]


class PrivacyStudy(SearchedRates):
    """The experiment: `methods` at each of `epsilons` (``.inf``: without clip and noise), in the
    quickstart's shape with batches of twice the size.

    `unit`, `clip` and `delta` are those of the config's section ``privacy``; with ``client`` each
    of `clients` takes part in a share of the rounds, `clients_per_round` of them in the mean. Each
    line has its own rate (:class:`SearchedRates`). What the search for it spends is not counted.
    """

    methods: Annotated[tuple[str, ...], Field(min_length=1)] = LINES
    epsilons: Annotated[tuple[Epsilon, ...], Field(min_length=1)] = (1.0, 3.0, 8.0, float("inf"))
    unit: Literal["client", "example"] = "example"
    clip: Rate = 0.1
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-4
    accountant: Literal["pld", "rdp"] = "rdp"
    model: str = "minilm"
    layers: str = "3-5"
    data: DataConfig = DataConfig(name="rotten_tomatoes")
    clients: Positive = 10
    clients_per_round: Positive | None = None
    rounds: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    local_steps: Positive = 10
    batch_size: Positive = 16
    small: bool = False
    workers: Positive = 1

    @model_validator(mode="before")
    @classmethod
    def _at_a_laptops_size(cls, given: object) -> object:
        """With ``small`` fewer epsilons and seeds, where they are not set."""
        if isinstance(given, dict) and given.get("small"):
            return {**SMALL, **given}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> PrivacyStudy:
        check_different(self, "methods", "epsilons")
        unknown = [method for method in self.methods if method not in LINES]
        if unknown:
            raise ValueError(f"methods = {unknown}: known are {', '.join(LINES)}")
        return self

    def lines(self) -> list[tuple[str, float]]:
        """Every method at every epsilon."""
        return [(method, epsilon) for epsilon in self.epsilons for method in self.methods]


SMALL = {"epsilons": (1.0, 8.0, float("inf")), "seeds": (0, 1, 2), "tuning_seeds": (100,)}


def title_of(method: str) -> str:
    """For people."""
    if method == RECOMMENDED:
        return "RoLoRA, gauge, carried"
    return method_named(method).title


def run_of(study: PrivacyStudy, method: str, epsilon: float, rate: float, seed: int) -> Config:
    """A method at an epsilon, as a run."""
    return Config(
        seed=seed,
        rounds=study.rounds,
        model=ModelConfig(name=study.model),
        lora=LoraSettings(
            r=4, lora_alpha=16, target_modules=("query", "value"), layers=study.layers
        ),
        data=study.data,
        partition=PartitionConfig(name="dirichlet", dirichlet_alpha=0.5),
        federation=FederationConfig(
            clients=study.clients, clients_per_round=study.clients_per_round
        ),
        method=options_of_line(method),
        optimizer=OptimizerConfig(
            lr=rate,
            state=state_of_line(method),
            local_steps=study.local_steps,
            batch_size=study.batch_size,
        ),
        server=ServerConfig(weighting="uniform"),
        privacy=privacy_of(study, epsilon, seed),
        evaluation=EvaluationConfig(every=study.rounds),
        engine=EngineConfig(workers=1),
    )


def privacy_of(study: PrivacyStudy, epsilon: float, seed: int) -> PrivacyConfig | None:
    """The noise that epsilon needs, drawn of a seed, as a study's may be."""
    if epsilon == float("inf"):
        return None
    return PrivacyConfig(
        unit=study.unit,
        clip=study.clip,
        target_epsilon=epsilon,
        delta=study.delta,
        accountant=study.accountant,
        seed=seed,
    )
