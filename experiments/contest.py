"""Entrants in places: each tuned in each, then judged; what is finished is told of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from experiments.cells import Cells
from experiments.places import Place
from experiments.short_runs import TrialResult
from experiments.trials import Trial, TrialWorker, in_groups
from experiments.tuning import Run, search_and_judge
from experiments.workspace import Workspace
from rolora.config import Config
from rolora.report.collapse import COLLAPSED_SHARE, MARGIN


class Entrant(Protocol):
    """What is compared: a method as it is set. It can be a key of a mapping."""

    @property
    def key(self) -> str:
        """What names it in files."""

    @property
    def label(self) -> str:
        """For people."""

    def of(self, run: Config) -> Config:
        """Its run, made of a base run."""


Pair = tuple[Entrant, Place]


class Contest(Protocol):
    """Settings of a comparison."""

    @property
    def seeds(self) -> Sequence[int]:
        """At which the chosen rate is judged."""

    @property
    def tuning_seeds(self) -> Sequence[int]:
        """At which it is chosen."""

    @property
    def finished(self) -> bool:
        """Nothing is run: what is there is told of."""

    @property
    def workers(self) -> int:
        """Runs at a time."""

    def waves(self) -> Iterator[list[Pair]]:
        """What is run together, the most telling first."""


@dataclass(frozen=True)
class Line:
    """An entrant in a place.

    Args:
        rate: its learning rate.
        grid: the runs at the tuning seeds, by rate and seed.
        final: the runs at `rate`, one a seed.
    """

    entrant: Entrant
    place: Place
    rate: float
    grid: Mapping[tuple[float, int], TrialResult]
    final: Sequence[TrialResult]

    @property
    def test(self) -> list[float]:
        """Test accuracy, one a seed."""
        return [end["test_accuracy"] or 0.0 for end in self.final]

    @property
    def collapsed(self) -> int:
        """How many of the judged runs are no better than a constant guess."""
        return sum(map(collapsed, self.final))

    def validation(self, share: float = 1.0) -> list[float]:
        """Validation accuracy, one a seed, at the first look after this share of the rounds."""
        last = self.final[0]["rounds"][-1]
        place = next(i for i, n in enumerate(self.final[0]["rounds"]) if n >= share * last)
        return [end["accuracy"][place] for end in self.final]


Lines = Mapping[tuple[str, str], Line]
"""By the keys of an entrant and a place."""


class NotFinished(Exception):  # noqa: N818
    """A run that is asked for has not been made yet."""


COLLAPSED = (
    "A run is collapsed where it diverged, scores at most a point more than the best constant "
    f"guess, or gives one label to more than {COLLAPSED_SHARE:.0%} of the examples; it stays in."
)
"""What :func:`collapsed` finds, for reports."""


def collapsed(end: TrialResult) -> bool:
    """Whether a final model is no better than a constant guess, as reports of runs have it."""
    if end["test_accuracy"] is None or end["constant"] is None or end["top_share"] is None:
        return True  # it diverged
    no_better = end["test_accuracy"] - end["constant"] <= MARGIN
    return no_better or end["top_share"] > COLLAPSED_SHARE


def run_all(contest: Contest, workspace: Workspace) -> dict[tuple[str, str], Line]:
    """Make the runs, wave by wave, and give the lines that are finished.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    make = making(contest, workspace)
    for wave in () if contest.finished else contest.waves():
        for place in dict.fromkeys(place for _, place in wave):
            line_up(contest, [pair for pair in wave if pair[1] == place], make)
    found: dict[tuple[str, str], Line] = {}
    read = reading(workspace.cells)
    for pair in (pair for wave in contest.waves() for pair in wave):
        try:
            found |= line_up(contest, [pair], read)
        except NotFinished:
            workspace.say(f"{pair[0].key} on {pair[1].key}: not finished")
    return found


def unfinished(contest: Contest, lines: Lines) -> list[str]:
    """What was asked for and is not there, in words, a place at a time."""
    lacking: dict[str, list[str]] = {}
    for one, at in (pair for wave in contest.waves() for pair in wave):
        if (one.key, at.key) not in lines:
            lacking.setdefault(at.key, []).append(one.key)
    return [f"{place} ({', '.join(keys)})" for place, keys in lacking.items()]


def line_up(
    contest: Contest, pairs: Sequence[Pair], run: Run[Pair, TrialResult]
) -> dict[tuple[str, str], Line]:
    """Choose each one's rate at the tuning seeds, then run it with every seed.

    Args:
        contest: the settings.
        pairs: entrants in one place.
        run: makes runs, or reads them.
    """
    grid = pairs[0][1].grid
    tuned = search_and_judge(grid, contest.tuning_seeds, contest.seeds, pairs, run)
    tried = {
        pair: {(rate, n): end for (of, rate, n), end in tuned.grid.items() if of == pair}
        for pair in pairs
    }
    lines = [Line(*pair, tuned.chosen[pair], tried[pair], tuned.final[pair]) for pair in pairs]
    return {(line.entrant.key, line.place.key): line for line in lines}


def making(contest: Contest, workspace: Workspace) -> Run[Pair, TrialResult]:
    """Makes the runs that are not finished."""
    worker = TrialWorker()

    def run(
        what: str, wanted: Sequence[tuple[Pair, float, int]], test: bool
    ) -> Sequence[TrialResult]:
        trials = [trial(*each, test) for each in wanted]
        return in_groups(what, trials, worker, workspace, contest.workers)

    return run


def reading(cells: Cells) -> Run[Pair, TrialResult]:
    """Reads finished runs; raises NotFinished at one that is not."""
    quiet = Cells(cells.directory)

    def missing() -> TrialResult:
        raise NotFinished

    def run(
        what: str, wanted: Sequence[tuple[Pair, float, int]], test: bool
    ) -> Sequence[TrialResult]:
        trials = [trial(*each, test) for each in wanted]
        return [quiet.run(each.name, each.settings(), missing) for each in trials]

    return run


def trial(pair: Pair, rate: float, seed: int, test: bool) -> Trial:
    """One run; with `test` judged on the test examples."""
    entrant, place = pair
    return place.trial(entrant.key, entrant.of, rate, seed, test)
