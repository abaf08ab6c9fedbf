"""The settings of the comparison under differential privacy, and its runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments.methods import (
    FFA,
    LORA,
    RECOMMENDED,
    RECOMMENDED_TITLE,
    ROLORA,
    options_of_line,
    state_of_line,
)
from experiments.pooled import TARGET
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
"""Methods, and RoLoRA with gauge and carried moments."""
Epsilon = Annotated[float, Field(gt=0.0)]


class PrivacyStudy(SearchedRates):
    """The experiment: `methods` at each of `epsilons` (``.inf``: without clip and noise), with
    adapters in BERT's pooler over what the frozen layers below make of a text.

    `unit`, `clip` and `delta` are those of the config's section ``privacy``; with ``client`` each
    of `clients` takes part in a share of the rounds, `clients_per_round` of them in the mean, and
    all weigh the same; with ``example`` they weigh by their numbers of examples, which are no
    secret. `alpha` is Dirichlet's, of the labels; null deals evenly. Each line has its own rate
    (:class:`SearchedRates`). What the search for it spends is not counted.
    """

    methods: Annotated[tuple[str, ...], Field(min_length=1)] = LINES
    epsilons: Annotated[tuple[Epsilon, ...], Field(min_length=1)] = (1.0, 3.0, 8.0, float("inf"))
    unit: Literal["client", "example"] = "example"
    clip: Rate = 0.5
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    accountant: Literal["pld", "rdp"] = "rdp"
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (1e-2, 2e-2, 4e-2)
    bounds: tuple[Rate, Rate] = (1.25e-3, 0.32)
    model: str = "minilm"
    data: DataConfig = DataConfig(name="rotten_tomatoes")
    clients: Positive = 10
    clients_per_round: Positive | None = None
    alpha: Rate | None = 1.0
    rounds: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    local_steps: Positive = 2
    batch_size: Positive = 256
    workers: Positive = 1

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

    @property
    def partition(self) -> PartitionConfig:
        """How the examples are dealt."""
        if self.alpha is None:
            return PartitionConfig(name="iid")
        return PartitionConfig(name="dirichlet", dirichlet_alpha=self.alpha)


def title_of(method: str) -> str:
    """For people."""
    if method == RECOMMENDED:
        return RECOMMENDED_TITLE
    return method_named(method).title


def run_of(study: PrivacyStudy, method: str, epsilon: float, rate: float, seed: int) -> Config:
    """A method at an epsilon, as a run."""
    return Config(
        seed=seed,
        rounds=study.rounds,
        model=ModelConfig(name=study.model),
        lora=LoraSettings(r=4, lora_alpha=16, target_modules=(TARGET,)),
        data=study.data,
        partition=study.partition,
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
        server=ServerConfig(weighting="uniform" if study.unit == "client" else "examples"),
        privacy=privacy_of(study, epsilon, seed),
        evaluation=EvaluationConfig(every=study.rounds, batch_size=1024),
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
