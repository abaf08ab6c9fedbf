"""A learning rate for each method, chosen on validation at seeds that are not judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from math import gcd, inf
from pathlib import Path
from statistics import fmean

from rolora.callbacks import Callbacks
from rolora.comparing import variant
from rolora.config import Config, dump_config
from rolora.core.errors import BadInput, RunFailed
from rolora.core.search import Found, Grid, rungs_of, search, trained
from rolora.engines.given import NOTHING, Given
from rolora.methods import Method
from rolora.records.atomic import write_atomic
from rolora.records.files import RunFiles, read_run
from rolora.records.tuning import TriedRate, TunedMethod, Tuning
from rolora.records.units import show
from rolora.running import stepped

STEP = 3.0
"""From one rate to the next, where none are given, and beyond an end of what was tried."""
FURTHER = 4
"""Steps beyond an end, at most."""


@dataclass(frozen=True)
class Tried:
    """What is tuned.

    Args:
        config: the method's, but for rate and seed.
        given: objects in place of what it names.
    """

    config: Config
    given: Given


@dataclass
class Trials:
    """Runs at several rates and seeds, each in a directory of its own below one, made as far as a
    search asks and gone on with where they stopped.

    Args:
        directory: to write.
        tuned: by method.
        seeds: at which every rate is run.
        rungs: numbers of rounds after which the search compares.
        notice: told of each run.
        command: noted in the summaries.
    """

    directory: Path
    tuned: Mapping[str, Tried]
    seeds: Sequence[int]
    rungs: Sequence[int]
    notice: Callable[[str], None]
    command: str
    scores: dict[tuple[str, float], dict[int, dict[int, float | None]]] = field(
        default_factory=dict
    )
    """By method and rate, by rung and seed."""

    def run(self, wanted: Sequence[tuple[str, float]], rung: int) -> list[float]:
        """The mean score of each method and rate over the seeds, higher is better; -inf where a
        run failed.
        """
        return [self._mean(method, rate, rung) for method, rate in wanted]

    def _mean(self, method: str, rate: float, rung: int) -> float:
        found = {seed: self._score(method, rate, seed, rung) for seed in self.seeds}
        self.scores.setdefault((method, rate), {})[rung] = found
        known = [score for score in found.values() if score is not None]
        if len(known) < len(found):
            return -inf
        metric = read_run(self.path(method, rate, self.seeds[0])).task.first
        return (1.0 if metric.higher_is_better else -1.0) * fmean(known)

    def _score(self, method: str, rate: float, seed: int, rung: int) -> float | None:
        """The validation score of one run after `rung` rounds, which are made where they are not
        there yet; None where it fails.
        """
        tried, path = self.tuned[method], self.path(method, rate, seed)
        config = trial(tried.config, rate, seed, self.rungs)
        what = f"{method}, rate {rate:g}, seed {seed}"
        try:
            if not reached(path, config, rung):
                go_on(config, path, rung, self.command, tried.given)
        except RunFailed as failed:
            self.notice(f"{what}: failed ({failed})")
            return None
        run = read_run(path)
        score = last_score(run, rung)
        if score is None:
            raise BadInput(
                f"data.validation = {config.data.validation}: the validation examples have no "
                f"{run.task.first.title}, by which rates are chosen; set more of them aside"
            )
        self.notice(f"{what}: {show(score, run.task.first)} after round {rung}")
        return score

    def path(self, method: str, rate: float, seed: int) -> Path:
        """Where a run lies."""
        return self.directory / method / f"lr-{rate:g}" / f"seed-{seed}"


def tune_methods(
    config: Config,
    methods: Sequence[str | Method],
    rates: Sequence[float] | None,
    seeds: Sequence[int],
    directory: Path,
    notice: Callable[[str], None],
    command: str,
    given: Given = NOTHING,
) -> Tuning:
    """Find a rate for every method by successive halving (:mod:`rolora.core.search`), and write
    ``tuning.json``, ``tuning.png`` and each method's config with its rate, ``METHOD.yaml``.

    The runs lie in ``directory/METHOD/lr-RATE/seed-N``. What is there is not run again, so that a
    search that was killed goes on where it was.

    Args:
        config: of the runs but for method, rate and seed.
        methods: by name, or as objects.
        rates: to begin with, ascending; None: five around the config's own.
        seeds: at which rates are compared, two at least; not the config's own, which is judged.
        directory: to write.
        notice: told of each run in a line.
        command: noted in the summaries.
        given: objects in place of what the config names.

    Raises:
        BadInput: an unknown method, seeds or rates that will not do, or `directory` holds runs of
            another config.
    """
    tuned = {}
    for method in methods:
        own = replace(given, method=type(method) if isinstance(method, Method) else None)
        chosen = variant(config, method, config.seed, own)
        tuned[chosen.method.name] = Tried(chosen, own)
    check(config, seeds)
    grid = grid_of(config, rates)
    trials = Trials(directory, tuned, seeds, grid.rungs, notice, command)
    found = search(list(tuned), grid, trials.run)
    record = tuning_of(config, trials, found)
    write(directory, record, tuned)
    return record


def check(config: Config, seeds: Sequence[int]) -> None:
    """Refuse seeds that make no fair choice, and runs that cannot be made here.

    Raises:
        BadInput: with what would be right.
    """
    if len(set(seeds)) < 2:
        raise BadInput(
            f"seeds = {list(seeds)}: a rate that is best at one seed may be so by luck; give two "
            "or more, all different"
        )
    if config.seed in seeds:
        raise BadInput(
            f"seeds = {list(seeds)}: {config.seed} is the config's own, at which the rate is to be "
            "judged; choose others"
        )
    if config.engine.name != "in_process":
        raise BadInput(
            f"engine.name = {config.engine.name!r}: rates are tuned on the simulator; tune on data "
            "that lie here, with in_process"
        )


def grid_of(config: Config, rates: Sequence[float] | None) -> Grid:
    """What is searched.

    Raises:
        BadInput: rates that will not do.
    """
    if rates is None:
        rates = [float(f"{config.optimizer.lr * STEP**k:.2g}") for k in range(-2, 3)]
    given = Grid(tuple(rates), rungs_of(config.rounds))
    room = STEP ** (FURTHER + 0.5)
    return replace(given, widen_by=STEP, bounds=(rates[0] / room, rates[-1] * room))


def at_rate(config: Config, rate: float) -> Config:
    """The config with another learning rate; one of B's own keeps its ratio to it."""
    old = config.optimizer
    lr_b = None if old.lr_b is None else old.lr_b * rate / old.lr
    return config.model_copy(
        update={"optimizer": old.model_copy(update={"lr": rate, "lr_b": lr_b})}
    )


def trial(config: Config, rate: float, seed: int, rungs: Sequence[int]) -> Config:
    """A run of the search: looked at wherever rates are compared, and told of to nobody."""
    every = gcd(*rungs[:-1]) if len(rungs) > 1 else config.rounds
    evaluation = config.evaluation.model_copy(update={"every": every, "generations": 0})
    changes = {"seed": seed, "evaluation": evaluation, "tracking": ()}
    return at_rate(config, rate).model_copy(update=changes)


def reached(path: Path, config: Config, rung: int) -> bool:
    """Whether a run of just this config lies there and has come so far, or ended before
    (``server.byte_budget``).
    """
    with suppress(BadInput):
        run = read_run(path)
        far = run.summary is not None or any(line.round >= rung for line in run.rounds)
        return far and run.config_text == dump_config(config)
    return False


def go_on(config: Config, path: Path, rung: int, command: str, given: Given) -> None:
    """Run until a round, or to the end; what was finished before is not made again."""
    with closing(stepped(config, path, True, Callbacks([]), command, given=given)) as steps:
        for line in steps:
            if rung <= line.round < config.rounds:
                return


def last_score(run: RunFiles, rung: int) -> float | None:
    """The last validation score until a round, by the task's first metric."""
    seen = (run.task.first_of(line.validation) for line in run.rounds if line.round <= rung)
    return next((score for score in reversed(list(seen)) if score is not None), None)


def tuning_of(config: Config, trials: Trials, found: Mapping[str, Found]) -> Tuning:
    """What ``tuning.json`` holds."""
    name, one = next(iter(found.items()))
    run, seeds = read_run(trials.path(name, one.rate, trials.seeds[0])), len(trials.seeds)
    return Tuning(
        data=run.data,
        model=run.model,
        task=run.task,
        rounds=config.rounds,
        seeds=tuple(trials.seeds),
        methods={name: tuned_of(name, trials, one) for name, one in found.items()},
        trained=seeds * sum(trained(one.scores) for one in found.values()),
        full=seeds * config.rounds * sum(len(one.scores) for one in found.values()),
    )


def tuned_of(name: str, trials: Trials, found: Found) -> TunedMethod:
    """One method's part of it."""
    tried = [
        TriedRate(
            rate=rate,
            scores={
                str(rung): {str(seed): score for seed, score in by_seed.items()}
                for rung, by_seed in trials.scores[name, rate].items()
            },
        )
        for rate in sorted(found.scores)
    ]
    failed = found.scores[found.rate][found.rung] == -inf
    return TunedMethod(
        title=read_run(trials.path(name, found.rate, trials.seeds[0])).method,
        rate=None if failed else found.rate,
        rung=found.rung,
        at_end=found.at_end,
        tried=tuple(tried),
    )


def write(directory: Path, record: Tuning, tuned: Mapping[str, Tried]) -> None:
    """Each method's config with its rate, the figure, and last the record."""
    from rolora.report.tuning_picture import tuning_picture

    for name, method in record.methods.items():
        if method.rate is not None:
            config = at_rate(tuned[name].config, method.rate)
            write_atomic(directory / f"{name}.yaml", dump_config(config))
    write_atomic(directory / "tuning.png", tuning_picture(record))
    write_atomic(directory / "tuning.json", record.model_dump_json(indent=2) + "\n")
