"""The runs of the map, one cell each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

from experiments.breakdown.config import BreakdownConfig, Case, cases, with_method
from experiments.breakdown.gap import Gap
from experiments.cells import Cells
from experiments.short_runs import TrialResult, run_short
from experiments.trials import Loader, Trial, in_groups
from experiments.workspace import Workspace


class Result(TrialResult):
    """What a run leaves, and the gap of each round (:class:`Gap`): None where there is none to
    tell, nothing where one factor travels.
    """

    gap: list[float | None]


Results = Mapping[Case, Result]


class Watcher(Loader):
    """Runs trials and measures the gap."""

    def work(self, trial: Trial) -> Result:
        """Run all rounds of `trial`.

        Raises:
            BadInput: something in its config cannot be had or does not fit.
        """
        prepared, gap = self.prepared(trial), Gap()
        found = run_short(prepared, prepared.initial(), trial.test, gap)
        gap.close()
        return Result(**found, gap=[one if isfinite(one) else None for one in gap.rounds])


def trial_of(config: BreakdownConfig, case: Case) -> Trial:
    """A case as a cell; all but those that tune are judged on the test examples."""
    place, test = config.place_of(case.point), case.seed != config.tuning_seed
    return place.trial(case.method, with_method(case.method), case.rate, case.seed, test)


def run_all(config: BreakdownConfig, workspace: Workspace) -> dict[Case, Result]:
    """Make the runs, point by point, and give those that are finished.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    worker = Watcher()
    for point in () if config.finished else config.points():
        trials = [trial_of(config, case) for case in cases(config, point)]
        in_groups(point.key, trials, worker, workspace, config.workers)
    return dict(_finished(config, Cells(workspace.directory / "cells")))


def _finished(config: BreakdownConfig, cells: Cells) -> Iterator[tuple[Case, Result]]:
    for point in config.points():
        for case in cases(config, point):
            trial = trial_of(config, case)
            found = cells.kept(trial.name, trial.settings())
            if found is not None:
                yield case, found


def gap_of(ends: Sequence[Result]) -> float | None:
    """The mean gap over the rounds of some runs; None where none was measured."""
    seen = [one for end in ends for one in end["gap"] if one is not None]
    return sum(seen) / len(seen) if seen else None
