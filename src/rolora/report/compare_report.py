"""Methods side by side: statistics over seeds, paired differences, a table and a picture.

The runs of one seed share partition and data, so methods are compared pair by pair: what one
split of the clients does to all of them drops out of the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

from rich.table import Table

from rolora.core.errors import BadInput, RoloraError
from rolora.records.atomic import write_atomic
from rolora.records.files import RunFiles, read_json, read_run
from rolora.records.schema import ComparedMethod, Comparison, DifferenceRecord, Measured, Summary
from rolora.report.collapse import collapsed
from rolora.report.compare_markdown import markdown
from rolora.report.compare_picture import picture
from rolora.report.compare_table import terminal_table
from rolora.report.statistics import (
    Curve,
    describe,
    holm,
    mean_over_bytes,
    paired_difference,
)

SPLITS = ("test", "validation")


@dataclass(frozen=True)
class ComparedRun:
    """A finished run of `method` under `seed`, and where it lies."""

    method: str
    seed: int
    directory: Path


@dataclass(frozen=True)
class Cell:
    """A finished run: its files, and what came out."""

    run: RunFiles
    summary: Summary


Cells = dict[str, dict[int, Cell]]
"""By method and seed."""


def write_comparison(
    directory: Path, runs: Sequence[ComparedRun], target: float | None = None
) -> None:
    """Write ``comparison.json``, ``comparison.md`` and ``comparison.png`` into `directory`.

    The first run's method is the one that the others are compared with.

    Args:
        directory: to write.
        runs: finished ones.
        target: the validation score for which bytes are counted; None: the mean of the first
            method's final ones.

    Raises:
        BadInput: no runs, a cell given twice, or a run that is unfinished or damaged.
        RoloraError: the runs of a seed differ in their task, their data or the split across
            clients.
    """
    cells = _read(runs)
    _same_split(cells)
    comparison = _comparison(cells, target)
    curves = {method: [cell.run for cell in by_seed.values()] for method, by_seed in cells.items()}
    write_atomic(directory / "comparison.png", picture(comparison, curves))
    write_atomic(directory / "comparison.md", markdown(comparison))
    write_atomic(directory / "comparison.json", comparison.model_dump_json(indent=2) + "\n")


def comparison_table(directory: Path) -> Table:
    """The table in ``comparison.json``, for a terminal.

    Raises:
        BadInput: there is no comparison, or its file is damaged.
    """
    return terminal_table(read_json(Path(directory) / "comparison.json", Comparison))


def _read(runs: Sequence[ComparedRun]) -> Cells:
    cells: Cells = {}
    for run in runs:
        files = read_run(run.directory)
        if files.summary is None:
            raise BadInput(f"run {run.directory}: is unfinished; only finished runs compare")
        if run.seed in cells.setdefault(run.method, {}):
            raise BadInput(f"runs: {run.method} with seed {run.seed} is given twice")
        cells[run.method][run.seed] = Cell(files, files.summary)
    if not cells:
        raise BadInput("runs: none given; a comparison needs at least one")
    return cells


def _same_split(cells: Cells) -> None:
    first: dict[int, Cell] = {}
    for by_seed in cells.values():
        for seed, cell in by_seed.items():
            other = first.setdefault(seed, cell)
            a, b = other.summary, cell.summary
            for what, same in (
                ("task", a.task == b.task),
                ("data", a.data.fingerprint == b.data.fingerprint),
                ("split of the examples across clients", a.strata == b.strata),
            ):
                if not same:
                    raise RoloraError(
                        f"seed {seed}: {cell.run.directory} and {other.run.directory} differ in "
                        f"their {what}; methods compare only on the same"
                    )


def _comparison(cells: Cells, target: float | None) -> Comparison:
    baseline = next(iter(cells))
    first = next(iter(cells[baseline].values()))
    if target is None:
        ends = _scores(cells[baseline], "validation", first.run.task.first.name)
        target = measured(ends).mean
    over_bytes = _over_bytes(cells)
    return Comparison(
        data=first.run.data,
        model=first.run.model,
        task=first.run.task,
        clients=first.run.config.federation.clients,
        rounds=first.run.config.rounds,
        baseline=baseline,
        seeds=tuple(sorted({seed for by_seed in cells.values() for seed in by_seed})),
        constant={str(seed): cell.summary.constant for seed, cell in cells[baseline].items()},
        target=target,
        methods={
            method: _described(by_seed, over_bytes[method], target)
            for method, by_seed in cells.items()
        },
        differences=tuple(_corrected(_differences(cells, baseline))),
    )


def curve_of(run: RunFiles) -> Curve | None:
    """The validation scores by the task's first metric, over the bytes sent both ways; None where
    there are none.
    """
    sent = accumulate(line.bytes_up + line.bytes_down for line in run.rounds)
    seen = [
        (at, score)
        for at, line in zip(sent, run.rounds, strict=True)
        if (score := run.task.first_of(line.validation)) is not None
    ]
    return Curve(*zip(*seen, strict=True)) if seen else None


def _over_bytes(cells: Cells) -> dict[str, dict[int, float | None]]:
    """Each run's mean score over the bytes that all methods have sent under its seed."""
    found: dict[str, dict[int, float | None]] = {method: {} for method in cells}
    for seed in {seed for by_seed in cells.values() for seed in by_seed}:
        curves = {
            method: curve
            for method, by_seed in cells.items()
            if seed in by_seed and (curve := curve_of(by_seed[seed].run))
        }
        means = mean_over_bytes(list(curves.values())) if curves else []
        for method, mean in zip(curves, means, strict=True):
            found[method][seed] = mean
    return found


def _bytes_to(run: RunFiles, target: float | None) -> float | None:
    curve = curve_of(run)
    if curve is None or target is None:
        return None
    return curve.first_at(target, run.task.first.higher_is_better)


def _described(
    by_seed: Mapping[int, Cell], over_bytes: Mapping[int, float | None], target: float | None
) -> ComparedMethod:
    cells = dict(sorted(by_seed.items()))
    task = next(iter(cells.values())).run.task
    best = {
        seed: task.first_of(cell.summary.best.validation if cell.summary.best else None)
        for seed, cell in cells.items()
    }
    reasons = {str(seed): collapsed(cell.run) for seed, cell in cells.items()}
    return ComparedMethod(
        title=next(iter(by_seed.values())).run.method,
        seeds=tuple(cells),
        test={name: measured(_scores(cells, "test", name)) for name in _names(cells, "test")},
        validation={
            name: measured(_scores(cells, "validation", name))
            for name in _names(cells, "validation")
        },
        best=measured(best),
        bytes_up=measured({seed: cell.run.bytes_up for seed, cell in cells.items()}),
        bytes_down=measured({seed: cell.run.bytes_down for seed, cell in cells.items()}),
        seconds=measured({seed: cell.run.total_seconds for seed, cell in cells.items()}),
        over_bytes=measured(dict(sorted(over_bytes.items()))),
        bytes_to_target=measured(
            {seed: _bytes_to(cell.run, target) for seed, cell in cells.items()}
        ),
        collapsed={seed: reason for seed, reason in reasons.items() if reason},
        failures={
            str(seed): sum(len(r.failures) for r in cell.run.rounds) for seed, cell in cells.items()
        },
    )


def measured(by_seed: Mapping[int, float | None]) -> Measured:
    """Mean and spread of the known values."""
    values = {str(seed): float(value) for seed, value in by_seed.items() if value is not None}
    return Measured(values=values, **asdict(describe(list(values.values()))))


def _names(cells: Mapping[int, Cell], split: str) -> list[str]:
    """The scores that the runs have, in the task's order."""
    held = [getattr(cell.summary.final, split) for cell in cells.values()]
    return [metric.name for metric in next(iter(cells.values())).run.task.known(*held)]


def _scores(cells: Mapping[int, Cell], split: str, name: str) -> dict[int, float | None]:
    return {seed: getattr(cell.summary.final, split).get(name) for seed, cell in cells.items()}


def _differences(cells: Cells, baseline: str) -> Iterator[DifferenceRecord]:
    """Every other method minus `baseline`, seed by seed, where both have a value."""
    for method, by_seed in cells.items():
        if method == baseline:
            continue
        for split in SPLITS:
            for name in _names(by_seed, split):
                ours = _scores(by_seed, split, name)
                theirs = _scores(cells[baseline], split, name)
                yield _difference(method, baseline, split, name, ours, theirs)


def _corrected(differences: Iterable[DifferenceRecord]) -> Iterator[DifferenceRecord]:
    """With Holm's correction within each table, that is by split and metric."""
    tables: dict[tuple[str, str], list[DifferenceRecord]] = {}
    every = list(differences)
    for one in every:
        tables.setdefault((one.split, one.metric), []).append(one)
    corrected = {
        (one.method, *table): p
        for table, ones in tables.items()
        for one, p in zip(ones, holm([one.p_value for one in ones]), strict=True)
    }
    for one in every:
        yield one.model_copy(update={"p_holm": corrected[one.method, one.split, one.metric]})


def _difference(
    method: str,
    baseline: str,
    split: str,
    metric: str,
    ours: Mapping[int, float | None],
    theirs: Mapping[int, float | None],
) -> DifferenceRecord:
    by_seed = {
        str(seed): value - other
        for seed, value in sorted(ours.items())
        if value is not None and (other := theirs.get(seed)) is not None
    }
    paired = asdict(paired_difference(list(by_seed.values()))) if by_seed else {}
    return DifferenceRecord(
        method=method, baseline=baseline, split=split, metric=metric, by_seed=by_seed, **paired
    )
