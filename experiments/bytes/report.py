"""What the runs with fewer bytes say: claims, the table, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.bytes.config import PLAIN, BytesConfig, Coding
from experiments.claims import Claim, in_points, not_below, p_text, percent
from experiments.report import Table
from experiments.short_runs import TrialResult
from rolora.records.units import byte_size
from rolora.report.statistics import PairedDifference, paired_difference

SOURCE = "beyond the paper"
FEWEST_SEEDS = 5
"""With fewer nothing is decided: a t-test on two or three pairs rests on their spread's luck."""
QUARTER, HALF_A_POINT = 0.25, 0.005


@dataclass(frozen=True)
class Line:
    """A coding, and its runs, one a seed."""

    coding: Coding
    final: Sequence[TrialResult]

    @property
    def test(self) -> list[float]:
        """Test accuracy, one a seed."""
        return [end["test_accuracy"] or 0.0 for end in self.final]

    @property
    def up(self) -> float:
        """Bytes that all clients send up in a run."""
        return fmean(end["bytes_up"] for end in self.final)

    @property
    def down(self) -> float:
        """Bytes that all clients are sent in a run."""
        return fmean(end["bytes_down"] for end in self.final)

    def share(self, plain: Line) -> float:
        """Of plain RoLoRA's bytes, both ways."""
        return (self.up + self.down) / (plain.up + plain.down)


Lines = Mapping[str, Line]


def coded(lines: Lines) -> list[Line]:
    """All but plain RoLoRA, the fewest bytes last."""
    plain = lines[PLAIN.key]
    others = [line for line in lines.values() if line is not plain]
    return sorted(others, key=lambda line: -line.share(plain))


def difference(line: Line, plain: Line) -> PairedDifference:
    """Of test accuracy, paired by seed."""
    return paired_difference([a - b for a, b in zip(line.test, plain.test, strict=True)])


def claims(lines: Lines) -> Iterator[Claim]:
    """Of each coding that takes a quarter of the bytes or less."""
    plain = lines[PLAIN.key]
    for line in coded(lines):
        share = line.share(plain)
        if share > QUARTER:
            continue
        standing, evidence = not_below(line.test, plain.test, HALF_A_POINT)
        if len(line.test) < FEWEST_SEEDS:
            standing = "not decided at this size"
        text = f"{line.coding.label}: a quarter of RoLoRA's bytes, not half a point below it"
        yield Claim(text, SOURCE, standing, f"{100 * share:.1f} % of the bytes; {evidence}")


def tables(lines: Lines) -> Table:
    """Every coding in numbers."""
    columns = (
        "",
        "validation, last round",
        "test",
        "difference to RoLoRA, 95 % interval",
        "p",
        "up",
        "down",
        "share of RoLoRA's, both ways",
    )
    plain = lines[PLAIN.key]
    rows = [_row(line, plain) for line in (plain, *coded(lines))]
    return Table("Accuracy in percent, bytes of a run", columns, tuple(rows))


def _row(line: Line, plain: Line) -> tuple[str, ...]:
    test = difference(line, plain)
    return (
        line.coding.label,
        percent([end["accuracy"][-1] for end in line.final]),
        percent(line.test),
        "-" if line is plain else in_points(test),
        "-" if line is plain else p_text(test.p_value),
        byte_size(line.up),
        byte_size(line.down),
        f"{100 * line.share(plain):.1f} %",
    )


def summary(config: BytesConfig, lines: Lines) -> str:
    """What was run."""
    seconds = fmean(end["seconds"] for line in lines.values() for end in line.final)
    return (
        f"RoLoRA on {config.clients} clients of labels dealt by Dirichlet 0.5, all of them in each "
        f"of {config.rounds} rounds of {config.local_steps} steps of "
        f"{config.batch_size}, adapters in the layers {config.layers} of {config.model}, AdamW at "
        f"{config.rate:g}; the same runs with what travels coded "
        "(`stages`, `server.stages`), at the same rate, the preset paper's. "
        f"{len(config.seeds)} seeds, each with a split, factors and batches of its own; the test "
        "examples are looked at once. Bytes are those of the messages, with the tensors' names, "
        "the scales, the positions, and what a client is sent when it is first met; an "
        f"evaluation's are not counted. A run took {seconds:.0f} seconds on one thread."
    )


def results(lines: Lines) -> Mapping[str, Any]:
    """All runs, JSON-able."""
    return {"lines": [{"coding": key, "seeds": list(line.final)} for key, line in lines.items()]}
