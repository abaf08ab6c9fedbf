"""How few bytes RoLoRA can do with."""

from __future__ import annotations

from experiments.bytes.config import BytesConfig, run_of
from experiments.bytes.figure import figures
from experiments.bytes.report import Line, Lines, claims, results, summary, tables
from experiments.experiment import Experiment
from experiments.report import Findings
from experiments.trials import Trial, run_trials
from experiments.workspace import Workspace


def run(config: BytesConfig, workspace: Workspace) -> Lines:
    """Every coding with every seed, on one thread a run; a seed's runs one after the other.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    keys = [(coding, seed) for seed in config.seeds for coding in config.compared()]
    trials = [
        Trial(f"{coding.key} seed={seed}", run_of(config, coding, seed), test=True)
        for coding, seed in keys
    ]
    found = run_trials("runs", trials, workspace, config.workers)
    return {
        coding.key: Line(
            coding, [end for (of, _), end in zip(keys, found, strict=True) if of is coding]
        )
        for coding in config.compared()
    }


def tell(config: BytesConfig, lines: Lines) -> Findings:
    """The codings beside plain RoLoRA."""
    return Findings(
        title="Accuracy over bytes",
        summary=summary(config, lines),
        tables=(tables(lines),),
        claims=tuple(claims(lines)),
        figures=figures(lines),
        results=results(lines),
    )


EXPERIMENT = Experiment(
    name="bytes",
    config=BytesConfig,
    run=run,
    tell=tell,
    packages=("torch", "transformers", "datasets", "numpy"),
    threads=1,
)
