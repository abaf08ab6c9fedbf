"""What the GLUE runs say: the paper's claims decided, tables, the report's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments import over_bytes
from experiments.claims import Claim, all_hold, greater, mean_std, not_below
from experiments.glue.config import GlueConfig
from experiments.glue.presets import (
    AVERAGE,
    MIXED,
    PAPER,
    Line,
    Setting,
    lines_of,
    settings_of,
)
from experiments.glue.runs import Case, Runs, rounds_of
from experiments.glue.tasks import TaskData
from experiments.methods import FFA, FLEXLORA, LORA, ROLORA
from experiments.report import Table
from experiments.short_runs import TrialResult
from experiments.tuning import rate_in_words
from rolora.records.units import byte_size


@dataclass(frozen=True)
class Outcome:
    """The experiment's settings, tasks and finished runs, and what the commonest label of each
    task's test examples scores, by the task's name.
    """

    config: GlueConfig
    tasks: Sequence[TaskData]
    runs: Runs
    majority: Mapping[str, float]

    @property
    def settings(self) -> list[Setting]:
        """The columns of the tables."""
        return settings_of(self.config)

    @property
    def lines(self) -> dict[str, Line]:
        """The rows by key."""
        return {line.key: line for line in lines_of(self.config)}

    def scopes(self) -> Iterator[tuple[str, Sequence[TaskData]]]:
        """Each task, and all together where there are several: in words and as a list."""
        for task in self.tasks:
            yield task.title, [task]
        if len(self.tasks) > 1:
            yield "mean of the tasks", self.tasks

    def accuracies(self, tasks: Sequence[TaskData], setting: Setting, line: str) -> list[float]:
        """Test accuracy, one a seed, in the mean over `tasks`."""
        found = [self.final(task, setting, line) for task in tasks]
        return [fmean(map(test_accuracy, seed)) for seed in zip(*found, strict=True)]

    def final(self, task: TaskData, setting: Setting, line: str) -> Sequence[TrialResult]:
        """The judged runs, one a seed."""
        return self.runs.final[Case(task, setting, self.lines[line]).key]

    def has(self, *lines: str) -> bool:
        """Whether all of these were run."""
        return set(lines) <= set(self.lines)


def test_accuracy(result: TrialResult) -> float:
    """Of a run that was judged."""
    assert result["test_accuracy"] is not None
    return result["test_accuracy"]


# -- claims -------------------------------------------------------------------------------------

Pick = Callable[[Setting, str], list[float]]
"""Accuracy, one a seed, of a line in a setting."""


def claims(outcome: Outcome) -> Iterator[Claim]:
    """What the paper says of the preset, task by task."""
    decide = CLAIMS[outcome.config.preset]
    for words, tasks in outcome.scopes():

        def pick(setting: Setting, line: str, tasks: Sequence[TaskData] = tasks) -> list[float]:
            return outcome.accuracies(tasks, setting, line)

        for claim in decide(outcome, pick):
            yield Claim(f"{words}: {claim.text}", claim.source, claim.standing, claim.evidence)


def _above(
    outcome: Outcome, pick: Pick, setting: Setting, ours: str, theirs: str, source: str
) -> Iterator[Claim]:
    if outcome.has(ours, theirs):
        names = outcome.lines[ours].label, outcome.lines[theirs].label
        standing, evidence = greater(pick(setting, ours), pick(setting, theirs))
        text = f"{names[0]} above {names[1]} ({setting.words})"
        yield Claim(text, source, standing, evidence)


def _table1(outcome: Outcome, pick: Pick) -> Iterator[Claim]:
    source = "Table 1"
    for settings in _by_rank(outcome):
        most = settings[-1]
        yield from _above(outcome, pick, most, ROLORA, LORA, source)
        if outcome.has(LORA, FFA, ROLORA):
            yield _between(pick, most, source)
        for other in (LORA, FFA, ROLORA):
            yield from _above(outcome, pick, most, other, FLEXLORA, source)
        if outcome.has(LORA, ROLORA) and len(settings) > 1:
            yield _growing_gap(pick, settings[0], most, source)


def _by_rank(outcome: Outcome) -> Iterator[list[Setting]]:
    """The settings of each rank, by their number of clients."""
    for r in outcome.config.ranks:
        same = [setting for setting in outcome.settings if setting.r == r]
        yield sorted(same, key=lambda setting: setting.clients)


def _between(pick: Pick, setting: Setting, source: str) -> Claim:
    lora, ffa, ours = (pick(setting, line) for line in (LORA, FFA, ROLORA))
    over, above_lora = greater(ffa, lora)
    under, below_ours = greater(ours, ffa)
    text = f"FFA-LoRA between LoRA and RoLoRA ({setting.words})"
    evidence = f"FFA-LoRA over LoRA: {above_lora}; RoLoRA over FFA-LoRA: {below_ours}"
    return Claim(text, source, all_hold(over, under), evidence)


def _growing_gap(pick: Pick, few: Setting, many: Setting, source: str) -> Claim:
    gaps = [_gap(pick(setting, ROLORA), pick(setting, LORA)) for setting in (many, few)]
    text = f"RoLoRA's lead over LoRA is greater at {many.words} than at {few.words}"
    return Claim(text, source, *greater(*gaps))


def _gap(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def _rank2(outcome: Outcome, pick: Pick) -> Iterator[Claim]:
    for setting in outcome.settings:
        for other in (LORA, FFA):
            yield from _above(outcome, pick, setting, ROLORA, other, "the table of rank 2")


def _dirichlet(outcome: Outcome, pick: Pick) -> Iterator[Claim]:
    for setting in outcome.settings:
        yield from _above(outcome, pick, setting, ROLORA, LORA, "the Dirichlet table")
        for other in (LORA, ROLORA):
            yield from _above(outcome, pick, setting, other, FLEXLORA, "the Dirichlet table")


def _local_steps(outcome: Outcome, pick: Pick) -> Iterator[Claim]:
    source = "the local-step table"
    for setting in outcome.settings:
        yield from _above(outcome, pick, setting, ROLORA, FFA, source)
    for few, many in zip(outcome.settings[::2], outcome.settings[1::2], strict=True):
        change = f"from {few.words} to {many.local_steps}"
        drops = {}
        for line in (FFA, ROLORA):
            if outcome.has(line):
                label = outcome.lines[line].label
                drops[line] = _gap(pick(few, line), pick(many, line))
                standing, evidence = greater(pick(few, line), pick(many, line))
                yield Claim(f"{label} loses {change}", source, standing, evidence)
        if len(drops) == 2:
            text = f"RoLoRA loses less than FFA-LoRA {change}"
            yield Claim(text, source, *greater(drops[FFA], drops[ROLORA]))


def _budget(outcome: Outcome, pick: Pick) -> Iterator[Claim]:
    source, near = "the figure over parameters", outcome.config.near
    for settings in _by_place(outcome):
        full = settings[0]
        for few in settings[1:]:
            if outcome.has(FFA):
                text = f"FFA-LoRA falls from {full.words} to {few.words}"
                yield Claim(text, source, *greater(pick(full, FFA), pick(few, FFA)))
            if outcome.has(ROLORA):
                text = f"RoLoRA holds, at most {near:g} lower, from {full.words} to {few.words}"
                yield Claim(text, source, *not_below(pick(few, ROLORA), pick(full, ROLORA), near))
            yield from _above(outcome, pick, few, ROLORA, FFA, source)


def _by_place(outcome: Outcome) -> Iterator[list[Setting]]:
    """The settings of each number of clients and rank, from most to fewest parameters."""
    groups: dict[tuple[int, int], list[Setting]] = {}
    for setting in outcome.settings:
        groups.setdefault((setting.clients, setting.r), []).append(setting)
    yield from groups.values()


def _equal_bytes(outcome: Outcome, pick: Pick) -> Iterator[Claim]:
    source = "the table of equal communication"
    for setting in outcome.settings:
        for other in (LORA, FFA):
            yield from _above(outcome, pick, setting, ROLORA, other, source)
        yield from _above(outcome, pick, setting, FFA, LORA, source)


def _mixing(outcome: Outcome, pick: Pick) -> Iterator[Claim]:
    for setting in outcome.settings:
        yield from _above(outcome, pick, setting, MIXED, FFA, "the figure of mixing")
        yield from _above(outcome, pick, setting, ROLORA, MIXED, "the figure of mixing")


CLAIMS: Mapping[str, Callable[[Outcome, Pick], Iterator[Claim]]] = {
    "table1": _table1,
    "rank2": _rank2,
    "dirichlet": _dirichlet,
    "local_steps": _local_steps,
    "budget": _budget,
    "equal_bytes": _equal_bytes,
    "mixing": _mixing,
}


# -- tables -------------------------------------------------------------------------------------


def tables(outcome: Outcome) -> Iterator[Table]:
    """Accuracy beside the paper's, then what each line took."""
    for words, tasks in outcome.scopes():
        yield _accuracy_table(outcome, words, tasks)
    for task in outcome.tasks:
        yield _cost_table(outcome, task)


def _accuracy_table(outcome: Outcome, words: str, tasks: Sequence[TaskData]) -> Table:
    columns = [""]
    for setting in outcome.settings:
        columns += [f"{setting.words}: paper", "here"]
    name = tasks[0].name if len(tasks) == 1 else AVERAGE
    paper = PAPER.get(outcome.config.preset, {})
    rows = []
    for line in outcome.lines.values():
        row = [line.label]
        for setting in outcome.settings:
            figure = paper.get((name, setting.words, line.key))
            ours = [100 * value for value in outcome.accuracies(tasks, setting, line.key)]
            row += ["-" if figure is None else f"{figure:.2f}", mean_std(ours)]
        rows.append(tuple(row))
    rows.append(_majority_row(outcome, tasks))
    return Table(f"Test accuracy in percent, {words}", tuple(columns), tuple(rows))


def _majority_row(outcome: Outcome, tasks: Sequence[TaskData]) -> tuple[str, ...]:
    share = fmean(outcome.majority[task.name] for task in tasks)
    pairs = ["-", f"{100 * share:.3g}"] * len(outcome.settings)
    return ("always the commonest label", *pairs)


def _cost_table(outcome: Outcome, task: TaskData) -> Table:
    columns = (
        "",
        "rate",
        "rounds",
        "sent up / down, all clients",
        "validation",
        "weakest client",
        "diverged",
        "minutes",
        *over_bytes.COLUMNS,
    )
    rows = tuple(row for setting in outcome.settings for row in _costs(outcome, task, setting))
    title = f"What a run took, and its accuracy in percent, {task.title} ({task.source})"
    return Table(title, columns, rows)


def _costs(outcome: Outcome, task: TaskData, setting: Setting) -> Iterator[tuple[str, ...]]:
    """A row a line."""
    finals = {key: outcome.final(task, setting, key) for key in outcome.lines}
    sent = over_bytes.cells(list(finals.values()), finals.get(ROLORA))
    for line, cells in zip(outcome.lines.values(), sent, strict=True):
        yield (*_cost_row(outcome, task, setting, line), *cells)


def _cost_row(outcome: Outcome, task: TaskData, setting: Setting, line: Line) -> tuple[str, ...]:
    config, found = outcome.config, outcome.final(task, setting, line.key)
    up, down = (fmean(r[way] for r in found) for way in ("bytes_up", "bytes_down"))
    weakest = [100 * min(r["client_accuracy"].values()) for r in found if r["client_accuracy"]]
    return (
        f"{line.label}, {setting.words}",
        rate_in_words(config.rates, outcome.runs.chosen[Case(task, setting, line).key]),
        str(rounds_of(config, task.name, setting)),
        f"{byte_size(up)} / {byte_size(down)}",
        mean_std([100 * result["accuracy"][-1] for result in found]),
        mean_std(weakest) if weakest else "-",
        f"{sum(result['diverged'] for result in found)} of {len(found)}",
        f"{fmean(result['seconds'] for result in found) / 60:.1f}",
    )


# -- words --------------------------------------------------------------------------------------


def summary(outcome: Outcome, missing: Mapping[str, str]) -> str:
    """What was run, as a paragraph or two."""
    config = outcome.config
    data = "; ".join(f"{task.title}: {task.source}" for task in outcome.tasks)
    left_out = "".join(f" {title} is left out: {why}." for title, why in missing.items())
    return (
        f"{config.model}, adapters of scaling {config.lora_alpha:g} / r, classification head "
        f"frozen as drawn from the seed, AdamW anew in every round, all clients in every round, "
        f"{len(config.seeds)} seeds. Data: {data}.{left_out} Each line's learning rate is, for "
        f"each task and setting, the best of {len(config.rates)} by validation accuracy at seed "
        f"{config.tuning_seed}, which is none of the seeds that are judged; validation examples "
        "are split off the training data, and the test examples are looked at once, after the last "
        "round. With more clients there are fewer rounds, so that all clients' batches together "
        "are as many. A run that diverges scores chance from then on.\n\n"
        "A claim is decided by a two-sided paired t-test over the seeds at 5 %, each by itself, "
        "not corrected for their number."
    )


def results(outcome: Outcome) -> Mapping[str, Any]:
    """All runs, JSON-able."""
    runs = outcome.runs
    final = [
        {**_named(place), "rate": runs.chosen[place], "seeds": list(found)}
        for place, found in runs.final.items()
    ]
    grid = [
        {
            **_named(place),
            "rate": rate,
            "validation": found["accuracy"][-1],
            "diverged": found["diverged"],
        }
        for (place, rate, _), found in runs.grid.items()
    ]
    return {"final": final, "grid": grid}


def _named(place: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("task", "setting", "line"), place, strict=True))
