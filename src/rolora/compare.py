"""Several methods on the same partitions, cohorts and base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rolora.cli.display import RunDisplay
from rolora.config import Config, dump_config, parse_config
from rolora.core.errors import BadInput
from rolora.engines.preparation import checked_method
from rolora.methods import method_named
from rolora.records.files import read_json
from rolora.records.schema import Summary
from rolora.report.compare_report import ComparedRun, comparison_table, write_comparison
from rolora.report.run_report import write_report
from rolora.run import execute


def variant(config: Config, method: str, seed: int) -> Config:
    """The config with another method and seed; of the method's options those stay that the other
    method has too.

    Raises:
        BadInput: no such method, or one that does not go with the rest.
    """
    raw = config.model_dump(mode="json")
    has = method_named(method).Options.model_fields
    options = {name: value for name, value in raw["method"].items() if name in has}
    changed = parse_config({**raw, "seed": seed, "method": {**options, "name": method}})
    checked_method(changed)
    return changed


def compare_methods(
    config: Config,
    methods: Sequence[str],
    seeds: Sequence[int],
    directory: Path,
    console: Console,
    command: str,
) -> Table:
    """Run every method under every seed into ``directory/METHOD/seed-N``, then compare.

    Partition, cohorts, batches and initial factors are functions of the seed, so they are the
    same for every method. A cell that has finished is not run again; one that was interrupted
    goes on.

    Raises:
        BadInput: an unknown method, or `directory` holds cells of another config.
        RunFailed: a run lost its quorum.
    """
    cells = [(method, seed, variant(config, method, seed)) for method in methods for seed in seeds]
    runs = []
    for number, (method, seed, settings) in enumerate(cells, start=1):
        path = directory / method / f"seed-{seed}"
        runs.append(ComparedRun(method, seed, path))
        if is_finished(path, settings):
            continue
        console.rule(f"{number} of {len(cells)}: {method}, seed {seed}", align="left")
        display = RunDisplay(console)
        with display.live():
            execute(settings, path, resume=True, display=display, command=command)
        write_report(path)
    write_comparison(directory, runs)
    return comparison_table(directory)


def is_finished(path: Path, config: Config) -> bool:
    """Whether the cell holds a finished run of exactly this config."""
    try:
        same = (path / "config.yaml").read_text(encoding="utf-8") == dump_config(config)
        return same and bool(read_json(path / "summary.json", Summary))
    except (OSError, ValueError, BadInput):
        return False
