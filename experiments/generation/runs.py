"""The runs of an experiment with generating models, and what of them is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.generation.asking import Answer, Asked, Asker, Scores
from experiments.generation.config import GenerationConfig, Subject, line_title, run_of
from experiments.generation.study import Benchmark, Study
from experiments.generation.training import (
    BaseResult,
    BaseWorker,
    LanguageResult,
    LanguageTrial,
    LanguageWorker,
    adapter_of,
    digest_of_data,
    name_of_cell,
)
from experiments.pool import run_jobs
from experiments.trials import in_groups
from experiments.workspace import Workspace
from rolora.config import DataConfig

BASE = "base"


@dataclass(frozen=True)
class LineRuns:
    """A line on a model.

    Args:
        rate: its learning rate.
        tuning: by rate, the run that chose.
        final: by seed, the finished runs at `rate`.
        scores: by seed, what those score in the benchmark, as far as they were asked.
        answers: by seed, what they say.
    """

    rate: float
    tuning: Mapping[float, LanguageResult]
    final: Mapping[int, LanguageResult]
    scores: Mapping[int, Scores] = field(default_factory=dict)
    answers: Mapping[int, Sequence[Answer]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What is finished of a model.

    Args:
        subject: the model.
        benchmark: what it is asked; None: nothing.
        base: by seed, what it scores before round 1.
        base_scores: in the benchmark; None: not asked.
        base_answers: by seed, what it says.
        lines: by key, in the order of the settings.
        missing: what is asked for and not finished, in words.
    """

    subject: Subject
    benchmark: Benchmark | None
    base: Mapping[int, BaseResult]
    base_scores: Scores | None
    base_answers: Mapping[int, Sequence[Answer]]
    lines: Mapping[str, LineRuns]
    missing: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """An experiment: what it is about, its settings, what is finished."""

    study: Study[Any]
    config: GenerationConfig
    found: Sequence[Found]


def run_all(study: Study[Any], config: GenerationConfig, workspace: Workspace) -> Outcome:
    """Make the runs model by model, ask what they have learned, and gather what is finished.

    Raises:
        BadInput: data or model cannot be had.
        RunFailed: a worker process died.
    """
    data = study.data(config, workspace)
    digest, found = digest_of_data(data), []
    for subject in config.subjects:
        benchmark = study.benchmark(config, workspace, subject)
        part = Part(config, subject, data, digest, benchmark, workspace)
        if not config.finished:
            part.make()
        found.append(part.gather())
    return Outcome(study, config, found)


@dataclass(frozen=True)
class Part:
    """The runs of one model: training first, then what is asked of the adapters."""

    config: GenerationConfig
    subject: Subject
    data: DataConfig
    digest: str
    benchmark: Benchmark | None
    workspace: Workspace

    def trial(self, line: str, rate: float, seed: int, test: bool) -> LanguageTrial:
        """One run."""
        kind = "test" if test else "validation"
        name = f"{self.subject.title} {line} lr={rate:g} seed={seed} {kind}"
        config = run_of(self.config, self.subject, self.data, line, rate, seed, test)
        return LanguageTrial(name, config, test, self.subject.title, self.digest)

    def base(self, seed: int) -> LanguageTrial:
        """The model before round 1, on the examples of `seed`."""
        config = run_of(self.config, self.subject, self.data, "rolora", 1e-3, seed, True)
        name = f"{self.subject.title} {BASE} seed={seed}"
        return LanguageTrial(name, config, True, self.subject.title, self.digest)

    # What is run --------------------------------------------------------------------------

    def make(self) -> None:
        """Run what is not finished."""
        trials = [trial for line in self.config.methods for trial in self.tuning(line).values()]
        self._train("tuning", trials)
        judged = [
            self.trial(line, rate, seed, True)
            for seed in self.subject.seeds
            for line, rate in self.chosen().items()
        ]
        self._train("runs", judged)
        before = [self.base(seed) for seed in self.subject.seeds]
        in_groups("before", before, BaseWorker(), self.workspace, self.config.workers)
        run_jobs("asked", self.asked(), Asker(), self.workspace, self.config.workers)

    def _train(self, what: str, trials: Sequence[LanguageTrial]) -> None:
        worker = LanguageWorker(self.workspace.directory)
        in_groups(what, trials, worker, self.workspace, self.config.workers)

    def asked(self) -> list[Asked]:
        """All that is asked: the base model first, then line by line."""
        return [
            job
            for seed in self.scored_seeds
            for line in (BASE, *self.chosen())
            for job in self._of(line, seed)
        ]

    @property
    def scored_seeds(self) -> list[int]:
        """Of this model."""
        return [seed for seed in self.config.scored_seeds if seed in self.subject.seeds]

    def _of(self, line: str, seed: int) -> Iterator[Asked]:
        """What a line's adapter is asked; the base model's benchmark is the same for all seeds."""
        place = self.workspace.directory
        if line == BASE:
            trial, adapter = self.base(seed), None
            first = seed == self.scored_seeds[0]
        else:
            trial, first = self.trial(line, self.chosen()[line], seed, True), True
            adapter = adapter_of(place, trial)
        of = name_of_cell(place, trial)
        if self.benchmark is not None and first:
            yield Asked(trial, adapter, of, self.benchmark)
        if self.config.generations:
            most = self.config.answer_tokens
            yield Asked(trial, adapter, of, (self.config.generations, most))

    # What is finished ---------------------------------------------------------------------

    def chosen(self) -> dict[str, float]:
        """Each line's rate: that with the lowest validation loss at the tuning seed, of several
        the lowest; of the lines of which all rates have been tried.
        """
        found = {}
        for line in self.config.methods:
            trials, tried = self.tuning(line), self.tried(line)
            if not trials:
                found[line] = self.subject.rates[0]
            elif len(tried) == len(trials):
                found[line] = min(tried, key=lambda rate: tried[rate]["loss"][-1])
        return found

    def tuning(self, line: str) -> dict[float, LanguageTrial]:
        """By rate, ascending, the runs at the tuning seed; none where there is one rate alone."""
        at, rates = self.config.tuning_seed, self.subject.rates
        return {rate: self.trial(line, rate, at, False) for rate in rates if len(rates) > 1}

    def tried(self, line: str) -> dict[float, LanguageResult]:
        """Those of them that are finished."""
        trials = self.tuning(line)
        return _finished(trials, lambda trial: self._kept(trial, trial.settings()))

    def gather(self) -> Found:
        """What is finished, and what is not."""
        seeds = self.subject.seeds
        base: dict[int, BaseResult] = _finished(
            {seed: self.base(seed) for seed in seeds},
            lambda trial: self._kept(trial, trial.settings()),
        )
        scores, answers = self._said(BASE)
        lines = {line: self._line(line, rate) for line, rate in self.chosen().items()}
        lines = {line: runs for line, runs in lines.items() if runs.final}
        missing = [
            f"{line_title(line)}, seed {seed}"
            for line in self.config.methods
            for seed in seeds
            if line not in lines or seed not in lines[line].final
        ]
        first = next(iter(scores.values()), None)
        return Found(self.subject, self.benchmark, base, first, answers, lines, missing)

    def _line(self, line: str, rate: float) -> LineRuns:
        final: dict[int, LanguageResult] = _finished(
            {seed: self.trial(line, rate, seed, True) for seed in self.subject.seeds},
            lambda trial: self._kept(trial, trial.settings()),
        )
        return LineRuns(rate, self.tried(line), final, *self._said(line))

    def _said(self, line: str) -> tuple[dict[int, Scores], dict[int, Sequence[Answer]]]:
        """By seed, a line's scores and answers."""
        scores: dict[int, Scores] = {}
        answers: dict[int, Sequence[Answer]] = {}
        asker = Asker()
        for seed in self.scored_seeds:
            for job in self._of(line, seed):
                result = self._kept(job, asker.settings(job))
                if result is not None and isinstance(job.what, Benchmark):
                    scores[seed] = result
                elif result is not None:
                    answers[seed] = result
        return scores, answers

    def _kept(self, job: Any, settings: Mapping[str, Any]) -> Any:
        return self.workspace.cells.kept(job.name, settings)


def _finished(trials: Mapping[Any, Any], kept: Callable[[Any], Any]) -> dict[Any, Any]:
    found = {key: kept(trial) for key, trial in trials.items()}
    return {key: result for key, result in found.items() if result is not None}
