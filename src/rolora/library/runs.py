"""Run, stream, compare, tune, plan: what a program does with rolora, and the command line too."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rolora.callbacks import Callback, Callbacks, Terminal, make_trackers
from rolora.comparing import compare_methods
from rolora.config import Config
from rolora.library.compared import ComparedRuns
from rolora.library.finished import Run
from rolora.library.objects import config_of, with_objects
from rolora.library.plan import RunPlan, plan_of
from rolora.library.tuned import TunedRates
from rolora.methods import Method
from rolora.records.schema import RoundRecord
from rolora.running import stepped
from rolora.server.round import finished
from rolora.tuning import tune_methods

AnyConfig = Config | Mapping[str, Any] | str | Path
"""A config, a mapping, a YAML file, or a shipped preset by name."""


def stream(
    config: AnyConfig = "quickstart",
    *,
    out: str | Path | None = None,
    resume: bool = False,
    start_over: bool = False,
    callbacks: Iterable[Callback] = (),
    command: str = "rolora.stream",
    **objects: Any,
) -> Generator[RoundRecord, None, Run]:
    """Run a federation round by round.

    Args:
        config: the name of a shipped preset, a YAML file, a mapping, or a :class:`Config`.
        out: the directory to write; None: ``runs/NAME``, numbered if it is taken.
        resume: go on with the run in `out`, or with the last one of that name.
        start_over: drop that run instead.
        callbacks: told of the run while it goes on, beside the config's ``tracking``.
        command: noted in the summary.
        objects: in place of what the config names: ``model``, ``tokenizer``, ``clients``,
            ``train``, ``test``, ``method``, ``task``, ``metrics``
            (:func:`rolora.library.objects.with_objects`).

    Yields:
        the record of each round, once it is written down. Where the loop is left, the last round
        is in the checkpoint, and ``resume=True`` goes on from there; at its end the model is
        tested and the report written. The generator's value is the :class:`Run`.

    Raises:
        BadInput: the config or an object does not fit, or `out` holds a run and neither `resume`
            nor `start_over` is set; nothing in it has changed.
        RunFailed: the quorum was lost. Every finished round is kept.
    """
    from rolora.report.run_report import write_report

    settings, given = with_objects(config_of(config), **objects)
    directory = _directory(config, out, resume or start_over)
    told = Callbacks([*make_trackers(settings.tracking), *callbacks])
    yield from stepped(settings, directory, resume, told, command, start_over, given)
    done = Run(directory, given)
    if settings.engine.name == "in_process":  # else the questions are the sites' own
        _ask_samples(done, told.notice)
    write_report(directory)
    return done


def _ask_samples(run: Run, notice: Callable[[str], None]) -> None:
    """What a language model says before and after; the run is finished whatever happens here."""
    from rolora.library.scoring import generate_samples

    try:
        generate_samples(run, notice=notice)
    except Exception as error:  # a run is worth more than its samples
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        notice(f"no sample generations ({reason})")


def run(
    config: AnyConfig = "quickstart",
    *,
    callbacks: Iterable[Callback] = (),
    show: bool = True,
    command: str = "rolora.run",
    **options: Any,
) -> Run:
    """Run a federation to its end, and leave a directory with metrics, adapter and report.

    Args:
        config: the name of a shipped preset, a YAML file, a mapping, or a :class:`Config`.
        callbacks: told of the run while it goes on.
        show: whether the terminal shows the run as well.
        command: noted in the summary.
        options: ``out``, ``resume``, ``start_over`` and objects, as in :func:`stream`.

    Raises:
        BadInput, RunFailed: as :func:`stream`.
    """
    shown = [Terminal()] if show else []
    return finished(stream(config, callbacks=[*shown, *callbacks], command=command, **options))


def compare(
    config: AnyConfig = "quickstart",
    *,
    methods: Sequence[str | Method] = ("rolora", "ffa_lora", "fedit", "flexlora"),
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path | None = None,
    watched: Callable[[str], Callback] | None = None,
    target: float | None = None,
    command: str = "rolora.compare",
    **objects: Any,
) -> ComparedRuns:
    """Run several methods on the same partitions, cohorts and base model, and compare them.

    Done again with the same `out`, it goes on where it was.

    Args:
        config: as for :func:`stream`.
        methods: by name, or as objects; the others are compared with the first.
        seeds: of each method's runs.
        out: the directory to write; None: ``runs/NAME-compare``.
        watched: who is told of a run, given which one it is; None: the terminal.
        target: the validation score for which bytes are counted; None: the mean of the first
            method's final ones.
        command: noted in the summaries.
        objects: as for :func:`stream`, but ``method``.

    Raises:
        BadInput: an unknown method, or `out` holds runs of another config.
        RunFailed: a run lost its quorum.
    """
    settings, given = with_objects(config_of(config), **objects)
    directory = Path(out) if out is not None else Path("runs") / f"{_stem(config)}-compare"
    watching = watched or (lambda which: Terminal(title=which))

    def told(which: str) -> Callbacks:
        return Callbacks([*make_trackers(settings.tracking), watching(which)])

    runs = compare_methods(settings, methods, seeds, directory, told, command, given, target)
    return ComparedRuns(directory, {(one.method, one.seed): one.directory for one in runs})


def tune(
    config: AnyConfig = "quickstart",
    *,
    methods: Sequence[str | Method] | None = None,
    rates: Sequence[float] | None = None,
    seeds: Sequence[int] = (100, 101),
    out: str | Path | None = None,
    notice: Callable[[str], None] = print,
    command: str = "rolora.tune",
    **objects: Any,
) -> TunedRates:
    """Find a learning rate for each method, on validation examples, at seeds that are not judged.

    Rates are compared after a ninth and a third of the rounds, the best go on, and the grid widens
    where the best lies at its end; from three rounds on this trains at most a third of what all
    rates to the end would. Done again with the same `out`, it goes on where it was.

    Args:
        config: as for :func:`stream`.
        methods: by name, or as objects; None: the config's own.
        rates: to begin with, ascending; None: five around the config's own, a factor of 3 apart.
        seeds: at which rates are compared, two at least, and not the config's own.
        out: the directory to write; None: ``runs/NAME-tune``.
        notice: told of each run in a line.
        command: noted in the summaries.
        objects: as for :func:`stream`, but ``method``.

    Raises:
        BadInput: an unknown method, rates or seeds that will not do, or `out` holds runs of another
            config.
    """
    settings, given = with_objects(config_of(config), **objects)
    directory = Path(out) if out is not None else Path("runs") / f"{_stem(config)}-tune"
    asked = methods or (settings.method.name,)
    tune_methods(settings, asked, rates, seeds, directory, notice, command, given)
    return TunedRates(directory)


def plan(
    config: AnyConfig = "quickstart",
    *,
    notice: Callable[[str], None] = warnings.warn,
    **objects: Any,
) -> RunPlan:
    """What a config would run: clients, parameters, bytes. Nothing is trained.

    Args:
        config: as for :func:`stream`.
        notice: told what is doubtful.
        objects: as for :func:`stream`.

    Raises:
        BadInput: it does not fit.
    """
    settings, given = with_objects(config_of(config), **objects)
    return plan_of(settings, given, notice)


def _directory(config: AnyConfig, out: str | Path | None, again: bool) -> Path:
    return Path(out) if out is not None else default_directory(_stem(config), again)


def _stem(config: AnyConfig) -> str:
    return Path(config).stem if isinstance(config, str | Path) else "run"


def default_directory(stem: str, again: bool) -> Path:
    """``runs/STEM``, numbered if it is taken; to go on or start over, the last one there is."""
    pattern = re.compile(re.escape(stem) + r"(?:-(\d+))?")
    found = {}
    for path in Path("runs").glob(f"{stem}*"):
        match = pattern.fullmatch(path.name)
        if match:
            found[int(match.group(1) or 1)] = path
    if again and found:
        return found[max(found)]
    return Path("runs") / (f"{stem}-{max(found) + 1}" if found else stem)
