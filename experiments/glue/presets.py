"""What each preset runs: settings of a table, the methods in it, and the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from experiments.glue.config import GlueConfig
from experiments.methods import ROLORA, title_of
from rolora.config import Config, PartitionConfig
from rolora.core.types import Adapter, ClientInfo
from rolora.engines.preparation import checked_method
from rolora.methods import Options, options_of
from rolora.model.targets import layer_numbers

TITLES: Mapping[str, str] = {
    "table1": "GLUE over the number of clients (Table 1)",
    "rank2": "GLUE with rank 2",
    "dirichlet": "Skewed labels: Dirichlet shares",
    "local_steps": "One and many local steps",
    "budget": "Adapters in ever fewer layers",
    "equal_bytes": "Equal communication: twice the layers where one factor travels",
    "mixing": "RoLoRA for a share of the rounds, then FFA-LoRA",
}
"""By preset."""
IID = PartitionConfig(name="iid", min_examples=1)
MIXED = "mixed"


@dataclass(frozen=True)
class Setting:
    """A column of a table.

    Args:
        words: what names it.
        clients: their number.
        r: the rank.
        layers: that carry adapters.
        targets: the matrices in them.
        local_steps: of a client in a round.
        partition: how the examples are dealt out.
    """

    words: str
    clients: int
    r: int
    layers: str
    targets: tuple[str, ...]
    local_steps: int
    partition: PartitionConfig = IID


@dataclass(frozen=True)
class Line:
    """A row of a table: a method, and the layers it adapts where they are not the setting's."""

    key: str
    label: str
    method: Options
    layers: str | None = None


def settings_of(config: GlueConfig) -> list[Setting]:
    """The settings of a preset, in the order of its table."""
    if config.preset == "dirichlet":
        return [_dirichlet(config, alpha, n, r) for alpha, n in DIRICHLET for r in config.ranks]
    grid = [(clients, r) for clients in config.clients for r in config.ranks]
    if config.preset == "local_steps":
        steps = (1, config.local_steps)
        return [_setting(config, n, r, local_steps=few) for n, r in grid for few in steps]
    if config.preset == "budget":
        return [
            _setting(config, n, r, layers=layers, targets=targets)
            for n, r in grid
            for layers, targets in budgets(config.depth)
        ]
    return [_setting(config, n, r) for n, r in grid]


DIRICHLET = ((0.5, 10), (1.0, 15))
"""Concentration and clients, as in the paper."""


def _dirichlet(config: GlueConfig, alpha: float, clients: int, r: int) -> Setting:
    partition = PartitionConfig(name="dirichlet", dirichlet_alpha=alpha)
    return _setting(config, clients, r, partition=partition)


def budgets(depth: int) -> list[tuple[str, tuple[str, ...]]]:
    """Layers and matrices with ever fewer parameters: in 24 layers the paper's 0-23, 12-23, 18-23,
    and the value matrices of 21-23; the same shares of another depth.
    """
    both = ("query", "value")
    shares = ((depth, both), (depth // 2, both), (depth // 4, both), (depth // 8, ("value",)))
    return [(upper(depth, max(1, count)), targets) for count, targets in shares]


def upper(depth: int, count: int) -> str:
    """The `count` upper ones of `depth` layers, as ``lora.layers`` takes them."""
    return f"{depth - count}-{depth - 1}" if count > 1 else f"{depth - 1}"


def _setting(
    config: GlueConfig,
    clients: int,
    r: int,
    layers: str | None = None,
    targets: tuple[str, ...] = ("query", "value"),
    local_steps: int | None = None,
    partition: PartitionConfig = IID,
) -> Setting:
    words = [f"{clients} clients"]
    if len(config.ranks) > 1 or r != 4:
        words.append(f"rank {r}")
    if layers is not None:
        words.append(f"{' and '.join(targets)} in layers {layers}")
    if local_steps is not None:
        words.append(f"{local_steps} local step{'s' if local_steps > 1 else ''}")
    if partition.name == "dirichlet":
        words.append(f"Dirichlet({partition.dirichlet_alpha:g})")
    return Setting(
        ", ".join(words),
        clients,
        r,
        layers or config.layers,
        targets,
        local_steps or config.local_steps,
        partition,
    )


def lines_of(config: GlueConfig) -> list[Line]:
    """The methods of a preset."""
    lines = [_line(name) for name in config.methods]
    if config.preset == "equal_bytes":
        half = upper_half(config)
        return [_line(name, None if sends_one_factor(name) else half) for name in config.methods]
    if config.preset == "mixing":
        words = f"RoLoRA in {config.mix:.0%} of the rounds, then FFA-LoRA"
        mixed = options_of(ROLORA, switch_at=config.mix)
        lines.append(Line(MIXED, words, mixed))
    return lines


def _line(name: str, layers: str | None = None) -> Line:
    label = title_of(name)
    if layers is not None:
        label += f", layers {layers}"
    return Line(name, label, options_of(name), layers)


def sends_one_factor(method: str) -> bool:
    """Whether a client sends A or B in a round, and not both."""
    made = checked_method(Config(method=options_of(method)))
    state = made.init(Adapter.of({("module", factor): torch.zeros(1, 1) for factor in ("A", "B")}))
    return len(made.plan(state, ClientInfo(id=0, rank=1, num_examples=1)).upload) == 1


def upper_half(config: GlueConfig) -> str:
    """The upper half of the adapted layers: with both factors as many bytes as one in all."""
    adapted = layer_numbers(config.layers) or list(range(config.depth))
    return ",".join(map(str, adapted[len(adapted) // 2 :]))


# -- the paper's figures ------------------------------------------------------------------------

_TASKS = ("sst2", "qnli", "mnli", "qqp", "rte")
AVERAGE = "average"
Figures = Mapping[tuple[str, str, str], float]
"""Accuracy in percent by task (or `AVERAGE`), setting and line."""


def _row(setting: str, line: str, *figures: float) -> dict[tuple[str, str, str], float]:
    """The five tasks', and their average where it is given."""
    names = (*_TASKS, AVERAGE)[: len(figures)]
    return {(task, setting, line): figure for task, figure in zip(names, figures, strict=True)}


def _mnli(setting: str, **figures: float) -> dict[tuple[str, str, str], float]:
    return {("mnli", setting, line): figure for line, figure in figures.items()}


def _four(line: str, *figures: float) -> dict[tuple[str, str, str], float]:
    return {(t, "50 clients", line): f for t, f in zip(_TASKS[1:], figures, strict=True)}


PAPER: Mapping[str, Figures] = {
    "table1": {
        **_row("3 clients", "fedit", 95.62, 91.59, 86.20, 86.13, 81.46, 88.20),
        **_row("3 clients", "ffa_lora", 95.18, 91.35, 84.58, 85.50, 81.10, 87.48),
        **_row("3 clients", "rolora", 95.49, 91.64, 85.70, 86.14, 82.43, 88.28),
        (AVERAGE, "20 clients", "fedit"): 78.90,
        (AVERAGE, "20 clients", "rolora"): 87.03,
        **_row("50 clients", "fedit", 93.00, 78.13, 52.64, 77.60, 52.23, 70.72),
        **_row("50 clients", "ffa_lora", 93.23, 85.05, 69.97, 78.44, 55.72, 76.48),
        **_row("50 clients", "flexlora", 54.08, 55.40, 39.14, 72.00, 52.71, 54.67),
        **_row("50 clients", "rolora", 94.80, 90.00, 82.98, 85.71, 75.57, 85.81),
        (AVERAGE, "50 clients, rank 8", "fedit"): 64.03,
        (AVERAGE, "50 clients, rank 8", "ffa_lora"): 72.46,
        (AVERAGE, "50 clients, rank 8", "rolora"): 86.27,
    },
    "rank2": {
        **_row("50 clients, rank 2", "fedit", 93.23, 82.57, 58.96, 76.96, 49.10),
        **_row("50 clients, rank 2", "ffa_lora", 92.32, 85.15, 62.79, 77.78, 53.07),
        **_row("50 clients, rank 2", "rolora", 94.61, 89.83, 85.15, 85.55, 72.92),
    },
    "dirichlet": {
        **_mnli("10 clients, Dirichlet(0.5)", fedit=81.19, rolora=82.60, flexlora=35.45),
        **_mnli("15 clients, Dirichlet(1)", fedit=74.54, rolora=81.55),
    },
    "local_steps": {
        **_mnli("50 clients, 1 local step", ffa_lora=72.52, rolora=84.39),
        **_mnli("50 clients, 20 local steps", ffa_lora=69.97, rolora=82.98),
    },
    "equal_bytes": {
        **_four("fedit", 86.07, 76.58, 83.77, 73.58),
        **_four("ffa_lora", 88.54, 78.28, 84.04, 74.64),
        **_four("rolora", 89.13, 82.33, 84.58, 76.51),
    },
}
"""By preset; of the others no numbers are known here."""
