"""What a person sees in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from rolora.callbacks.terminal import named
from rolora.library.plan import RunPlan
from rolora.methods import METHODS
from rolora.records.schema import Summary
from rolora.records.spread import spread
from rolora.records.tuning import Tuning
from rolora.records.units import byte_size, duration, show
from rolora.report.expected import against_estimate
from rolora.server.budget import Bytes

if TYPE_CHECKING:
    from rolora.attacks import Attack
    from rolora.attacks.trial import Outcome, Trial
    from rolora.config import Config
    from rolora.library.taken import Taken

FEW = 12
"""Clients whose scores fit on a line."""


def summary_table(summary: Summary, directory: Path) -> Table:
    """The result of a run."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _results(summary):
        table.add_row(name, value)
    for name, value in _by_client(summary):
        table.add_row(name, value)
    up, down = summary.bytes_up, summary.bytes_down
    table.add_row("sent", f"{byte_size(up + down)} ({byte_size(up)} up, {byte_size(down)} down)")
    if summary.privacy is not None:
        table.add_row("privacy", summary.privacy.sentence)
    table.add_row("time", duration(summary.seconds.get("total")))
    for name, value in against_estimate(summary):
        table.add_row(name, value)
    table.add_row("report", escape(str(directory / "report.html")))
    table.add_row("adapter", f"{escape(str(directory / 'adapter'))} (PEFT)")
    missing = [f"client {f.client} ({escape(f.reason)})" for f in summary.test_failures]
    if missing:
        table.add_row("not tested", f"[red]{', '.join(missing)}[/]")
    return table


def _results(summary: Summary) -> Iterator[tuple[str, str]]:
    """The test scores, and the validation score by which rounds are compared."""
    task, final = summary.task, summary.final
    for number, metric in enumerate(task.metrics):
        score = show(final.test.get(metric.name), metric)
        against = ""
        if metric.name in summary.constant:
            against = f"  (a constant guess: {show(summary.constant[metric.name], metric)})"
        yield f"test {metric.title}", (f"[bold green]{score}[/]" if not number else score) + against
    if final.validation:
        score = show(task.first_of(final.validation), task.first)
        yield f"validation {task.first.title}", f"{score} after round {final.round}"


def _by_client(summary: Summary) -> Iterator[tuple[str, str]]:
    """What the clients' own scores are, each counted once, and which stands out."""
    first = summary.task.first
    seen = spread(summary.clients, first)
    if seen is None:
        return
    if len(summary.clients) <= FEW:
        each = (f"{c.client}: {show(c.scores.get(first.name), first)}" for c in summary.clients)
        yield "each client's", ", ".join(each)
    middle = f"mean {show(seen.mean, first)}, median {show(seen.median, first)}"
    out = f"  [red]{named(seen.outliers)} out of line[/]" if seen.outliers else ""
    yield "over clients", middle + out


def plan_table(plan: RunPlan) -> Table:
    """What a config would run."""
    sizes, config = sorted(plan.client_sizes), plan.config
    names = f" of {', '.join(plan.label_names)}" if plan.label_names else ""
    splits = ", ".join(f"{count} {name}" for name, count in plan.examples.items())
    rows = {
        "method": f"{config.method.name}: {plan.travels}{_pieces(config)}",
        "model": f"{plan.model}, {plan.architecture}, {plan.parameters:,} parameters, "
        f"{plan.device}",
        "adapter": f"{len(plan.modules)} modules, {plan.adapter_parameters:,} parameters, "
        f"{plan.trained_parameters:,} trained in round 1",
        "data": f"{splits}, {config.task.name}{names}",
        "clients": f"{len(sizes)} of {sizes[0]} to {sizes[-1]} examples "
        f"(median {sizes[len(sizes) // 2]}), {config.federation.cohort_size} a round",
        "round 1": f"{byte_size(plan.bytes_up)} up, {byte_size(plan.bytes_down)} down, about "
        f"{plan.estimate.seconds:.2g} s of training{_memory(plan)}",
    }
    if plan.whole is not None:
        rows[f"{config.rounds} rounds"] = _whole(plan.whole, config.server.byte_budget)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _pieces(config: Config) -> str:
    """What the method's name does not say: its options, how clients train, what they weigh."""
    options = config.method.model_dump(exclude_defaults=True, exclude={"name"})
    more = {
        "state": (config.optimizer.state, "reset"),
        "logit_adjustment": (config.objective.logit_adjustment, 0.0),
        "weighting": (config.server.weighting, "examples"),
    }
    said = options | {key: value for key, (value, usual) in more.items() if value != usual}
    return "".join(f"; {key} {value}" for key, value in said.items())


def _whole(whole: Bytes, budget: int | None) -> str:
    """The bytes of a run, and whether it may send them."""
    text = f"{byte_size(whole.up)} up, {byte_size(whole.down)} down"
    if budget is None:
        return text
    within = "within" if whole.both <= budget else "which it ends before, over"
    return f"{text}, {within} server.byte_budget = {byte_size(budget)}"


def _memory(plan: RunPlan) -> str:
    found = plan.estimate.memory
    return "" if found is None else f", {byte_size(found)} of memory"


def taken_table(taken: Taken) -> Table:
    """What a run would take of a site."""
    run, settings = taken.run, taken.run.optimizer
    length = (
        f"{settings.local_steps} steps"
        if settings.local_steps
        else f"{settings.local_epochs} passes over the data"
    )
    counts = ", ".join(f"{n} {split}" for split, n in taken.examples.items())
    told = [f"numbers of examples{f' ({counts})' if counts else ''}, names of labels"]
    told += ["how many there are of each label"] if taken.label_counts else []
    seen = "" if run.least_sum is None else f", seen in a sum over {run.least_sum} sites or more"
    told += [] if run.noised_by_clients else [f"training losses{seen}"]
    told += ["sums for scores"] if taken.scores else []
    rows = {
        "method": f"{run.method.name} ({taken.method}): {taken.travels}",
        "model": f"{run.model.name}, head {run.model.head}, rank {run.lora.max_rank}",
        "task": run.task.name,
        "rounds": f"{run.rounds}, each of {length}, {settings.batch_size} examples a step",
        **{
            f"leaves: {parts}": f"{byte_size(size)} in round {_rounds(rounds)}{seen}"
            for parts, (size, rounds) in taken.leaves.items()
        },
        "is told": "; ".join(told),
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(name, escape(value))
    for line in taken.refused:
        table.add_row("[red]refused[/]", escape(line))
    if not taken.refused:
        table.add_row("policy", "[green]allows all of it[/]")
    return table


def _rounds(rounds: tuple[int, ...]) -> str:
    """``1, 3, 5, ..., 19`` where there are many."""
    named = [str(number) for number in rounds]
    return ", ".join(named if len(named) < 6 else [*named[:3], "...", named[-1]])


def methods_table() -> Table:
    """Every method: what travels, whether it is exact, its citation."""
    table = Table(show_header=False, box=None, padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True)
    for name, method in METHODS.items():
        ranks = "clients' ranks may differ" if method.mixed_ranks else "one rank for all"
        facts = f"travels: {method.travels}; exact: {method.exactness}; {ranks}"
        about = f"{method.title}\n{facts}\n[dim]{escape(method.citation)}[/]"
        table.add_row(f"[bold]{escape(name)}[/]", about)
    return table


def tuning_table(tuning: Tuning) -> Table:
    """Each method's rate, its score, and what was tried."""
    metric = tuning.task.first
    table = Table(title=f"{tuning.model} on {tuning.data}, {tuning.rounds} rounds")
    table.title_justify = table.caption_justify = "left"
    for name in ("method", "rate", f"validation {metric.title}", "after rounds", "tried"):
        table.add_column(name, justify="left" if name in ("method", "tried") else "right")
    for method in tuning.methods.values():
        best = method.best
        rate = "all runs failed" if best is None else f"{best.rate:g}"
        score = best.mean(method.rung) if best else None
        table.add_row(
            escape(method.title),
            rate + (" (end of what was tried)" if best and method.at_end else ""),
            show(score, metric),
            str(method.rung),
            ", ".join(f"{one.rate:g}" for one in method.tried),
        )
    share = 100 * tuning.trained / tuning.full
    seeds = ", ".join(map(str, tuning.seeds))
    table.caption = (
        f"Means over seeds {seeds}. {tuning.trained:,} rounds were trained, {share:.0f} % of all "
        "rates to the end."
    )
    return table


def trials_table(attack: Attack, config: Config, trials: Sequence[Trial]) -> Table:
    """Runs with hostile clients beside the same without, a line a seed, and their means."""
    reducer = config.server.reducer.name
    table = Table(title=f"{attack.title}; server.reducer {reducer}")
    table.add_column("seed")
    table.add_column("hostile")
    names = [trials[0].metric, *(["phrase obeyed"] if attack.triggered else [])]
    for name in names:
        table.add_column(name, justify="right")
        table.add_column("attacked", justify="right")
    table.add_column("refused")
    for trial in trials:
        cells = _beside(trial.honest, trial.attacked, attack.triggered)
        refused = ", ".join(
            f"{who} ({times})" for who, times in sorted(trial.attacked.named.items())
        )
        table.add_row(str(trial.seed), ", ".join(map(str, trial.hostile)), *cells, refused)
    if len(trials) > 1:
        pairs = [(trial.honest, trial.attacked) for trial in trials]
        means = [
            _mean([getattr(o, key) for o in side])
            for key in ("score", "backdoor")
            for side in zip(*pairs, strict=True)
        ]
        table.add_row("mean", "", *map(_share, means[: 2 * len(names)]), "")
    for trial in trials:
        if trial.attacked.failed:
            table.caption = f"seed {trial.seed}: {escape(trial.attacked.failed)}"
    return table


def _beside(honest: Outcome, attacked: Outcome, triggered: bool) -> list[str]:
    """Score, and how far the phrase is obeyed, of both."""
    both = [honest.score, attacked.score]
    return [*map(_share, [*both, honest.backdoor, attacked.backdoor] if triggered else both)]


def _share(value: float | None) -> str:
    """A score, or that there is none."""
    return "failed" if value is None else f"{value:.3f}"


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
