"""The runs of the search for a preset: every recipe tuned in every split, then judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.cells import Cells
from experiments.preset.config import PresetConfig, Recipe, Split, run_of
from experiments.short_runs import TrialResult
from experiments.trials import Trial, run_trials
from experiments.tuning import Run, search_and_judge
from experiments.workspace import Workspace

Key = tuple[Recipe, Split]


@dataclass(frozen=True)
class Line:
    """A recipe in a split.

    Args:
        rate: its learning rate.
        grid: the runs at the tuning seeds, by rate and seed.
        final: the runs at `rate`, one a seed.
    """

    recipe: Recipe
    split: Split
    rate: float
    grid: Mapping[tuple[float, int], TrialResult]
    final: Sequence[TrialResult]

    @property
    def test(self) -> list[float]:
        """Test accuracy, one a seed."""
        return [end["test_accuracy"] or 0.0 for end in self.final]

    def validation(self, share: float = 1.0) -> list[float]:
        """Validation accuracy, one a seed, at the first look after this share of the rounds."""
        last = self.final[0]["rounds"][-1]
        place = next(i for i, n in enumerate(self.final[0]["rounds"]) if n >= share * last)
        return [end["accuracy"][place] for end in self.final]


Lines = Mapping[Key, Line]


class NotFinished(Exception):  # noqa: N818
    """A run that is asked for has not been made yet."""


def run_all(config: PresetConfig, workspace: Workspace) -> dict[Key, Line]:
    """Make the runs, wave by wave, and give the lines that are finished.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    for wave in () if config.finished else config.waves():
        line_up(config, wave, making(config, workspace))
    found: dict[Key, Line] = {}
    read = reading(config, workspace.cells)
    for key in (key for wave in config.waves() for key in wave):
        try:
            found |= line_up(config, [key], read)
        except NotFinished:
            workspace.say(f"{key[0].key} on {key[1]}: not finished")
    return found


def line_up(
    config: PresetConfig, keys: Sequence[Key], run: Run[Key, TrialResult]
) -> dict[Key, Line]:
    """Choose each one's rate at the tuning seeds, then run it with every seed."""
    tuned = search_and_judge(config.grid, config.tuning_seeds, config.seeds, keys, run)
    tried = {
        key: {(rate, n): end for (of, rate, n), end in tuned.grid.items() if of == key}
        for key in keys
    }
    return {key: Line(*key, tuned.chosen[key], tried[key], tuned.final[key]) for key in keys}


def making(config: PresetConfig, workspace: Workspace) -> Run[Key, TrialResult]:
    """Makes the runs that are not finished."""

    def run(
        what: str, wanted: Sequence[tuple[Key, float, int]], test: bool
    ) -> Sequence[TrialResult]:
        trials = [trial(config, *each, test) for each in wanted]
        return run_trials(what, trials, workspace, config.workers)

    return run


def reading(config: PresetConfig, cells: Cells) -> Run[Key, TrialResult]:
    """Reads finished runs; raises NotFinished at one that is not."""
    quiet = Cells(cells.directory)

    def missing() -> TrialResult:
        raise NotFinished

    def run(
        what: str, wanted: Sequence[tuple[Key, float, int]], test: bool
    ) -> Sequence[TrialResult]:
        trials = [trial(config, *each, test) for each in wanted]
        return [quiet.run(each.name, each.settings(), missing) for each in trials]

    return run


def trial(config: PresetConfig, key: Key, rate: float, seed: int, test: bool) -> Trial:
    """One run; with `test` judged on the test examples."""
    recipe, split = key
    kind = "test" if test else "validation"
    name = f"{split} {recipe.key} lr={rate:g} seed={seed} {kind}"
    return Trial(name, run_of(config, recipe, split, rate, seed, test), test)
