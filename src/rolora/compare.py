"""Several methods on the same partitions, cohorts and base model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rolora.config import Config, dump_config, parse_config
from rolora.core.errors import BadInput
from rolora.engines.preparation import checked_method
from rolora.methods import method_named
from rolora.records.files import read_json
from rolora.records.schema import Summary
from rolora.report.compare_report import ComparedRun, write_comparison
from rolora.report.run_report import write_report
from rolora.run import Display, execute


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
    watched: Callable[[str], AbstractContextManager[Display]],
    command: str,
) -> None:
    """Run every method under every seed into ``directory/METHOD/seed-N``, then compare.

    Partition, cohorts, batches and initial factors are functions of the seed, so they are the
    same for every method. A cell that has finished is not run again; one that was interrupted
    goes on.

    Args:
        config: of all runs but for method and seed.
        methods: by name; the others are compared with the first.
        seeds: of the runs.
        directory: to write.
        watched: what a person sees of a run, told which one it is.
        command: noted in the summaries.

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
        with watched(f"{number} of {len(cells)}: {method}, seed {seed}") as display:
            execute(settings, path, resume=True, display=display, command=command)
        write_report(path)
    write_comparison(directory, runs)


def is_finished(path: Path, config: Config) -> bool:
    """Whether the cell holds a finished run of exactly this config."""
    try:
        same = (path / "config.yaml").read_text(encoding="utf-8") == dump_config(config)
        return same and bool(read_json(path / "summary.json", Summary))
    except (OSError, ValueError, BadInput):
        return False
