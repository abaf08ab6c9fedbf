"""The paper's MNIST experiment (Figure 2): a two-layer net, two or one digits a client."""

from __future__ import annotations

from experiments.experiment import Experiment
from experiments.mnist.data import Mnist, load_mnist
from experiments.mnist.figure import figures
from experiments.mnist.report import claims, results, summary, tables
from experiments.mnist.runs import MnistConfig, Runs, run_all
from experiments.report import Findings
from experiments.workspace import Workspace

Outcome = tuple[Mnist, Runs]
"""The digits, and the runs on them."""


def run(config: MnistConfig, workspace: Workspace) -> Outcome:
    """Run every variant on both splits of the digits.

    Raises:
        BadInput: the digits cannot be had.
        RunFailed: a worker process died.
    """
    mnist = load_mnist(config.data, workspace.say)
    workspace.say(f"data: {mnist.source}")
    return mnist, run_all(config, mnist, workspace)


def tell(config: MnistConfig, outcome: Outcome) -> Findings:
    """Figure 2, beside the paper's claims."""
    mnist, runs = outcome
    return Findings(
        title="The two-layer net on MNIST",
        summary=summary(config, mnist),
        tables=tuple(tables(config, runs)),
        claims=tuple(claims(config, runs)),
        figures=figures(config, mnist, runs),
        results=results(runs),
        facts={"digits": mnist.digest},
    )


EXPERIMENT = Experiment(
    name="mnist",
    config=MnistConfig,
    run=run,
    tell=tell,
    packages=("torch", "numpy"),
)
