"""What the runs under differential privacy say: tables, claims, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isinf
from typing import Any

from experiments.claims import Claim, above, corrected, in_points, p_text, paired, percent
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
    head = ("method", "rate", "test accuracy", "RoLoRA less it, points", "p, Holm")
    for epsilon in study.epsilons:
        p = p_values(lines, epsilon) if ROLORA in study.methods else {}
        rows = tuple(_row(study, line, lines, p) for line in at(lines, epsilon))
        yield Table(epsilon_in_words(epsilon), head, rows)


def _row(
    study: PrivacyStudy, line: Line, lines: Lines, p: Mapping[str, float | None]
) -> tuple[str, ...]:
    compared = line.method in p
    ours = lines[ROLORA, line.epsilon].test if compared else []
    return (
        title_of(line.method),
        rate_in_words(study.rates, line.rate),
        percent(line.test),
        in_points(paired(ours, line.test)) if compared else "-",
        p_text(p[line.method]) if compared else "-",
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


def summary(study: PrivacyStudy) -> str:
    """What was run, as a paragraph or two."""
    who = f"{study.clients} clients"
    if study.clients_per_round is not None:
        who += f", {study.clients_per_round} a round"
    return (
        f"Differential privacy of each {study.unit} at delta {study.delta:g}, clip {study.clip:g}, "
        f"counted by {study.accountant}: {study.model} on {study.data.name or study.data.path}, "
        f"{who}, {study.rounds} rounds of {study.local_steps} steps of {study.batch_size}, labels "
        f"by Dirichlet 0.5, layers {study.layers}. Without privacy there is neither clip nor "
        f"noise, and batches are drawn without replacement. Each line has its own rate: that with "
        f"the best mean validation accuracy at seeds {' and '.join(map(str, study.tuning_seeds))}, "
        f"which are not judged. **What that search spends is not counted**: the epsilons are those "
        f"of one run whose rate is known. The test examples are looked at once, after the last "
        f"round.\n\nPaired t-tests over {len(study.seeds)} seeds, corrected by Holm's method "
        f"within each epsilon. Every run is on one thread."
    )


def results(lines: Lines) -> Mapping[str, Any]:
    """All runs, JSON-able; no privacy is null."""
    return {
        "lines": [
            {
                "method": line.method,
                "epsilon": line.epsilon,
                "rate": line.rate,
                "seeds": list(line.final),
            }
            for line in lines.values()
        ]
    }
