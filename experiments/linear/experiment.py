"""Algorithm 2 and its theorem, on random linear regressors.

The problem, the bound and the derivations are in docs/theory.md.
"""

from __future__ import annotations

from experiments.experiment import Experiment
from experiments.linear.config import LinearConfig, scenarios
from experiments.linear.figure import CAPTION, draw
from experiments.linear.measure import measured, swept
from experiments.linear.report import Runs, Sweep, claims, summary, tables
from experiments.report import Findings
from experiments.workspace import Workspace

Measured = tuple[Runs, Sweep]
"""Every kind of problems, and the bound over samples."""


def run(config: LinearConfig, workspace: Workspace) -> Measured:
    """Measure everything.

    Raises:
        BadInput: the sizes do not fit together.
    """
    runs = {
        key: measured(workspace.cells, config, key, kind) for key, kind in scenarios(config).items()
    }
    return runs, {m: swept(workspace.cells, config, m) for m in config.samples}


def tell(config: LinearConfig, found: Measured) -> Findings:
    """What was measured, beside the paper."""
    (runs, sweep), kinds = found, scenarios(config)
    return Findings(
        title="Algorithm 2 and its theorem",
        summary=summary(config),
        tables=tuple(tables(config, kinds, runs, sweep)),
        claims=tuple(claims(config, kinds, runs)),
        figures={"linear": (draw(runs["paper"], sweep), CAPTION)},
        results={"paper": runs["paper"], "samples": sweep},
    )


EXPERIMENT = Experiment(
    name="linear",
    config=LinearConfig,
    run=run,
    tell=tell,
    packages=("numpy",),
)
