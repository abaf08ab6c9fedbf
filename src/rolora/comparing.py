"""Several methods on the same partitions, cohorts and base model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rolora.callbacks import Callback
from rolora.config import Config, dump_config, parse_config
from rolora.core.errors import BadInput
from rolora.engines.given import NOTHING, Given
from rolora.engines.preparation import checked_method
from rolora.methods import Method, method_named, named_options
from rolora.records.files import read_json
from rolora.records.schema import Summary
from rolora.running import execute

if TYPE_CHECKING:
    from rolora.report.compare_report import ComparedRun


def variant(config: Config, method: str | Method, seed: int, given: Given = NOTHING) -> Config:
    """The config with another method and seed; of the method's options those stay that the other
    method has too. A method that is an object brings its own.

    Raises:
        BadInput: no such method, or one that does not go with the rest.
    """
    if isinstance(method, Method):
        changed = config.model_copy(update={"seed": seed, "method": named_options(method)})
    else:
        raw = config.model_dump(mode="json")
        has = method_named(method).Options.model_fields
        options = {name: value for name, value in raw["method"].items() if name in has}
        changed = parse_config({**raw, "seed": seed, "method": {**options, "name": method}})
    checked_method(changed, given)
    return changed


def compare_methods(
    config: Config,
    methods: Sequence[str | Method],
    seeds: Sequence[int],
    directory: Path,
    watched: Callable[[str], Callback],
    command: str,
    given: Given = NOTHING,
    target: float | None = None,
) -> list[ComparedRun]:
    """Run every method under every seed into ``directory/METHOD/seed-N``, then compare.

    Partition, cohorts, batches and initial factors are functions of the seed, so they are the
    same for every method. A cell that has finished is not run again; one that was interrupted
    goes on.

    Args:
        config: of all runs but for method and seed.
        methods: by name, or as objects; the others are compared with the first.
        seeds: of the runs.
        directory: to write.
        watched: who is told of a run, given which one it is.
        command: noted in the summaries.
        given: objects in place of what the config names.
        target: the validation score for which bytes are counted; None: the mean of the first
            method's final ones.

    Returns:
        all runs, by method and seed.

    Raises:
        BadInput: an unknown method, or `directory` holds cells of another config.
        RunFailed: a run lost its quorum.
    """
    from rolora.report.compare_report import ComparedRun, write_comparison
    from rolora.report.run_report import write_report

    cells = []
    for method in methods:
        own = replace(given, method=type(method) if isinstance(method, Method) else None)
        cells += [(variant(config, method, seed, own), own) for seed in seeds]
    runs = []
    for number, (settings, own) in enumerate(cells, start=1):
        method, seed = settings.method.name, settings.seed
        path = directory / method / f"seed-{seed}"
        runs.append(ComparedRun(method, seed, path))
        if is_finished(path, settings):
            continue
        told = watched(f"{number} of {len(cells)}: {method}, seed {seed}")
        execute(settings, path, True, told, command, given=own)
        write_report(path)
    write_comparison(directory, runs, target)
    return runs


def is_finished(path: Path, config: Config) -> bool:
    """Whether the cell holds a finished run of exactly this config."""
    try:
        same = (path / "config.yaml").read_text(encoding="utf-8") == dump_config(config)
        return same and bool(read_json(path / "summary.json", Summary))
    except (OSError, ValueError, BadInput):
        return False
