"""The runs under differential privacy: every line tuned, then judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.pooled import PooledTexts
from experiments.privacy.config import PrivacyStudy, run_of
from experiments.short_runs import TrialResult
from experiments.trials import OwnTask, Trial, TrialWorker, in_groups
from experiments.tuning import search_and_judge
from experiments.workspace import Workspace

Key = tuple[str, float]
POOLED = OwnTask(PooledTexts, PooledTexts.facts)


@dataclass(frozen=True)
class Line:
    """A method at an epsilon.

    Args:
        rate: its learning rate.
        tried: all that were tried, ascending.
        final: the runs at it, one a seed.
    """

    method: str
    epsilon: float
    rate: float
    tried: Sequence[float]
    final: Sequence[TrialResult]

    @property
    def test(self) -> list[float]:
        """Test accuracy, one a seed."""
        return [end["test_accuracy"] or 0.0 for end in self.final]


Lines = Mapping[Key, Line]


def run_all(study: PrivacyStudy, workspace: Workspace) -> dict[Key, Line]:
    """Make the runs that are not finished: every line's search, then all lines seed by seed.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """

    worker = TrialWorker()

    def run(
        what: str, wanted: Sequence[tuple[Key, float, int]], test: bool
    ) -> Sequence[TrialResult]:
        trials = [trial(study, *each, test) for each in wanted]
        return in_groups(what, trials, worker, workspace, study.workers)

    keys = study.lines()
    tuned = search_and_judge(study.grid, study.tuning_seeds, study.seeds, keys, run)
    tried = {key: sorted({rate for of, rate, _ in tuned.grid if of == key}) for key in keys}
    return {key: Line(*key, tuned.chosen[key], tried[key], tuned.final[key]) for key in keys}


def trial(study: PrivacyStudy, key: Key, rate: float, seed: int, test: bool) -> Trial:
    """One run; with `test` judged on the test examples."""
    method, epsilon = key
    kind = "test" if test else "validation"
    name = f"{study.unit} {method} epsilon={epsilon:g} lr={rate:g} seed={seed} {kind}"
    return Trial(name, run_of(study, method, epsilon, rate, seed), test, task=POOLED)
