"""Runs of seconds or minutes, which are run again whole rather than resumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypedDict

from rolora.core.types import ServerState
from rolora.records.schema import RoundRecord
from rolora.server.ledger import Ledger
from rolora.server.round import Engine


class Ending(TypedDict):
    """What a run leaves: validation accuracy wherever it was looked at; of the final model the test
    accuracy (None where it was not asked for); whether it diverged, and scores chance from then on;
    bytes, over all clients; seconds.
    """

    accuracy: list[float]
    test_accuracy: float | None
    diverged: bool
    bytes_up: int
    bytes_down: int
    seconds: float


@dataclass
class Curve:
    """The rounds' metrics, kept in memory alone."""

    lines: list[RoundRecord] = field(default_factory=list)

    def round_finished(self, metrics: RoundRecord) -> None:
        """Keep the line."""
        self.lines.append(metrics)

    def checkpoint(self, state: ServerState, ledger: Ledger, engine: Engine) -> None:
        """Nothing to do."""

    def evaluated(self) -> dict[int, float]:
        """Validation accuracy by round, where the validation examples were looked at."""
        scores = {line.round: (line.validation or {}).get("accuracy") for line in self.lines}
        return {number: score for number, score in scores.items() if score is not None}

    def sent_up(self) -> list[int]:
        """Bytes sent up in all rounds until each, from round 0 on."""
        return [0, *accumulate(line.bytes_up for line in self.lines)]

    def sent_down(self) -> int:
        """Bytes sent down in all rounds."""
        return sum(line.bytes_down for line in self.lines)
