"""The settings of the linear experiment, and the kinds of problems that it goes through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field, model_validator

from experiments.linear.theory import Setting
from rolora.core.section import NonNegative, Positive, Section, Seed

RESOLVED = 5.0
"""Standard errors ``1 / sqrt(N m)`` between a start and the plane orthogonal to ``a*``."""


class LinearConfig(Section):
    """The experiment. `eta` is in units of ``1 / |b*|^2``, where ``1/2`` is the largest step for
    which the bound is derived. `local_steps` are those of the second FedAvg of LoRA; `r`, `noise`,
    `condition` and `spread` each make one row beyond the theorem's assumptions, and `samples` are
    the sizes at which `sweep_problems` starts are held against the bound for `sweep_rounds`.
    """

    seed: Seed = 0
    problems: Positive = 100
    d: Positive = 20
    k: Positive = 8
    clients: Positive = 5
    m: Positive = 400
    eta: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    rounds: Annotated[int, Field(ge=2)] = 200
    local_steps: Annotated[int, Field(ge=2)] = 10
    r: Annotated[int, Field(ge=2)] = 4
    noise: NonNegative = 0.1
    condition: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 10.0
    spread: NonNegative = 0.5
    samples: Annotated[tuple[Positive, ...], Field(min_length=1)] = (25, 50, 100, 200, 400, 800)
    sweep_problems: Positive = 400
    sweep_rounds: Positive = 50

    @model_validator(mode="after")
    def _rank_fits(self) -> LinearConfig:
        if self.r > min(self.d, self.k, self.m):
            raise ValueError(
                f"r = {self.r} is more than min(d, k, m) = {min(self.d, self.k, self.m)}"
            )
        return self


@dataclass(frozen=True)
class Scenario:
    """Problems of one kind and the step with which they are run."""

    words: str
    setting: Setting
    eta: float


def scenarios(config: LinearConfig) -> dict[str, Scenario]:
    """The paper's assumptions first, then one departure each."""
    paper = Setting(d=config.d, k=config.k, clients=config.clients, m=config.m)
    eta = config.eta
    return {
        "paper": Scenario("the paper's assumptions", paper, eta),
        "resolved": Scenario(
            "the same, resolved starts only", replace(paper, resolved=RESOLVED), eta
        ),
        "rank": Scenario(f"rank {config.r}", replace(paper, r=config.r), eta),
        "covariances": Scenario(
            f"own covariances, condition {config.condition:g}",
            replace(paper, condition=config.condition),
            eta,
        ),
        "noise": Scenario(f"noise {config.noise:g}", replace(paper, noise=config.noise), eta),
        "own_b": Scenario(
            f"own b_i*, spread {config.spread:g}", replace(paper, spread=config.spread), eta
        ),
        "large_step": Scenario("step 1 / |b*|^2", paper, 1.0),
    }
