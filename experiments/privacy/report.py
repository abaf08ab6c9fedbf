"""What the runs under differential privacy say: tables, claims, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isinf
from statistics import fmean
from typing import Any

from experiments.claims import Claim, above, corrected, in_points, p_text, paired, percent
from experiments.contest import COLLAPSED, collapsed
from experiments.privacy.config import ROLORA, PrivacyStudy, title_of
from experiments.privacy.runs import Line, Lines
from experiments.report import Table
from experiments.tuning import rate_in_words


def at(lines: Lines, epsilon: float) -> list[Line]:
    """The lines of an epsilon."""
    return [line for (_, of), line in lines.items() if of == epsilon]


def epsilon_in_words(epsilon: float) -> str:
    """For people."""
    return "no privacy" if isinf(epsilon) else f"epsilon {epsilon:g}"


def p_values(lines: Lines, epsilon: float) -> dict[str, float | None]:
    """RoLoRA against each other method, after Holm's correction within the epsilon."""
    ours = lines[ROLORA, epsilon]
    others = [line for line in at(lines, epsilon) if line is not ours]
    return corrected({line.method: paired(ours.test, line.test) for line in others})


def tables(study: PrivacyStudy, lines: Lines) -> Iterator[Table]:
    """One an epsilon."""
    head = ("method", "rate", "test accuracy", "RoLoRA less it, points", "p, Holm", "collapsed")
    for epsilon in study.epsilons:
        p = p_values(lines, epsilon) if ROLORA in study.methods else {}
        rows = tuple(_row(line, lines, p) for line in at(lines, epsilon))
        yield Table(epsilon_in_words(epsilon), head, rows)


def _row(line: Line, lines: Lines, p: Mapping[str, float | None]) -> tuple[str, ...]:
    compared = line.method in p
    ours = lines[ROLORA, line.epsilon].test if compared else []
    return (
        title_of(line.method),
        rate_in_words(line.tried, line.rate),
        percent(line.test),
        in_points(paired(ours, line.test)) if compared else "-",
        p_text(p[line.method]) if compared else "-",
        f"{sum(map(collapsed, line.final))} of {len(line.final)}",
    )


def claims(study: PrivacyStudy, lines: Lines) -> Iterator[Claim]:
    """RoLoRA above each other method, at each epsilon."""
    if ROLORA not in study.methods:
        return
    for epsilon in study.epsilons:
        p = p_values(lines, epsilon)
        for line in at(lines, epsilon):
            if line.method in p:
                ours = lines[ROLORA, epsilon].test
                standing, evidence = above(ours, line.test, p[line.method])
                text = f"RoLoRA ends above {title_of(line.method)} ({epsilon_in_words(epsilon)})"
                yield Claim(text, "beyond the paper", standing, evidence)


def summary(study: PrivacyStudy, lines: Lines) -> str:
    """What was run, as a paragraph or two."""
    who = f"{study.clients} clients"
    if study.clients_per_round is not None:
        who += f", {study.clients_per_round} a round"
    dealt = "evenly" if study.alpha is None else f"by their labels, Dirichlet {study.alpha:g}"
    seconds = fmean(end["seconds"] for line in lines.values() for end in line.final)
    return (
        f"Differential privacy of each {study.unit} at delta {study.delta:g}, clip {study.clip:g}, "
        f"counted by {study.accountant}: {study.data.name or study.data.path} dealt {dealt} to "
        f"{who}; adapters of rank 4 in the pooler of {study.model}, over the mean of a text's "
        f"token states below the last layer; {study.rounds} rounds of {study.local_steps} steps of "
        f"AdamW on {study.batch_size} examples in the mean. Without privacy there is neither clip "
        f"nor noise, and batches are drawn without replacement. Each line has its own rate: that "
        f"with the best mean validation accuracy at seeds "
        f"{' and '.join(map(str, study.tuning_seeds))}, which are not judged; the grid was widened "
        f"where the best lay at its end. **What that search spends is not counted**, nor what "
        f"the choice of clip and shape by validation examples did: the epsilons are those of one "
        f"run whose settings are known. The test examples are looked at once, after "
        f"the last round. {COLLAPSED}\n\n"
        f"Paired t-tests over {len(study.seeds)} seeds, corrected by Holm's method within each "
        f"epsilon. Every run is on one thread, and took {seconds:.0f} seconds."
    )


def results(lines: Lines) -> Mapping[str, Any]:
    """All runs, JSON-able; no privacy is null."""
    return {
        "lines": [
            {
                "method": line.method,
                "epsilon": line.epsilon,
                "rate": line.rate,
                "tried": list(line.tried),
                "seeds": list(line.final),
            }
            for line in lines.values()
        ]
    }
