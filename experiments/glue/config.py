"""The settings of the GLUE experiment, at the paper's size and at a laptop's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from experiments.methods import FFA, FLEXLORA, LORA, PAPER_METHODS, ROLORA
from experiments.tuning import check_budget, check_different
from rolora.core.section import Positive, Rate, Section, Seed
from rolora.methods import METHODS

PresetName = Literal[
    "table1", "rank2", "dirichlet", "local_steps", "budget", "equal_bytes", "mixing"
]
Task = Literal["sst2", "qnli", "mnli", "qqp", "rte"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "table1": {},
    "rank2": {"clients": (50,), "ranks": (2,), "methods": (LORA, FFA, ROLORA)},
    "dirichlet": {"tasks": ("mnli",), "methods": (LORA, FLEXLORA, ROLORA)},
    "local_steps": {"tasks": ("mnli",), "clients": (50,), "methods": (FFA, ROLORA)},
    "budget": {"tasks": ("mnli",), "clients": (50,), "methods": (FFA, ROLORA)},
    "equal_bytes": {
        "tasks": ("qnli", "mnli", "qqp", "rte"),
        "clients": (50,),
        "methods": (LORA, FFA, ROLORA),
    },
    "mixing": {"tasks": ("mnli",), "clients": (50,), "methods": (FFA, ROLORA)},
}
"""What a preset sets before the user's own settings."""
SMALL: Mapping[str, Any] = {
    "model": "minilm",
    "depth": 6,
    "layers": "4-5",
    "lora_alpha": 16.0,
    "dropout": 0.0,
    "max_length": 64,
    "batch_size": 4,
    "local_steps": 10,
    "rounds": 120,
    "rates": (2e-3, 5e-3, 1.5e-2, 5e-2),
    "seeds": (0, 1, 2),
    "evaluations": 6,
    "stack": 10,
}
"""What ``small`` sets before the preset and the user's own settings."""
SMALL_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "dirichlet": {"rounds": 100, "rates": (2e-3, 5e-3, 1.5e-2)}
}
"""What a preset sets with ``small``; the highest rate is for FFA-LoRA, which Dirichlet's lack."""


class GlueConfig(Section):
    """The experiment.

    `small` takes MiniLM, and stand-ins for the tasks. `data` is a directory: with a folder for
    each task as ``datasets`` saves it or in files (``DIR/qnli/train.parquet``), or, with `small`,
    one in which the files of the stand-ins lie (:mod:`experiments.glue.stand_ins`); without it the
    tasks come from the hub, and `small` has Rotten Tomatoes alone.

    `rounds` (None: the paper's, 500, and 200 for RTE), `batch_size` (None: the paper's, 64 for
    SST-2, else 32) and `local_steps` are those at 3 clients and of the paper; with more clients
    there are so many fewer rounds that all clients' batches together are as many, down to
    `fewest_rounds`. `layers` are adapted, of the model's `depth`. `ranks` and `clients` are gone
    through; a preset whose question is another fixes its own. Of `rates` each line gets the one
    with the best validation accuracy at `tuning_seed`. Where adapters in fewer layers lose at most
    `near`, they hold. `mix` is the share of rounds with RoLoRA before FFA-LoRA. A final run looks
    at the validation examples at most `evaluations` times. `stack` clients are trained in one
    forward pass, by default as many as the batch allows. `workers` runs are made at a time, by
    default one a core, and one on a GPU.
    """

    preset: PresetName = "table1"
    small: bool = False
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)] = ("sst2", "qnli", "mnli", "qqp", "rte")
    clients: Annotated[tuple[Positive, ...], Field(min_length=1)] = (3, 20, 50)
    ranks: Annotated[tuple[Positive, ...], Field(min_length=1)] = (4,)
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = PAPER_METHODS
    model: str = "roberta-large"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    data: Path | None = None
    depth: Positive = 24
    layers: str = "all"
    lora_alpha: Rate = 32.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    max_length: Annotated[int, Field(ge=4)] = 128
    rounds: Positive | None = None
    fewest_rounds: Positive = 2
    local_steps: Positive = 20
    batch_size: Positive | None = None
    rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (
        *(5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1),
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    tuning_seed: Seed = 100
    mix: Share = 0.2
    near: Share = 0.01
    evaluations: Positive = 10
    stack: Positive | None = None
    workers: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        name = str(given.get("preset", "table1"))
        settings = {**PRESETS.get(name, {}), **given}
        if given.get("small") is True:
            settings = {**SMALL, **SMALL_PRESETS.get(name, {}), **settings}
        if settings.get("methods") == "all":
            settings["methods"] = tuple(METHODS)
        return settings

    @model_validator(mode="after")
    def _consistent(self) -> GlueConfig:
        check_budget(self)
        check_different(self, "tasks", "clients", "ranks", "methods")
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise ValueError(f"methods = {unknown}: known are all, or some of {', '.join(METHODS)}")
        return self
