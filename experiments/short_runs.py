"""Runs of seconds or minutes, which are run again whole rather than resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypedDict

from rolora.core.types import ServerState
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

    lines: list[Mapping[str, Any]] = field(default_factory=list)

    def round_finished(self, metrics: dict[str, Any]) -> None:
        """Keep the line."""
        self.lines.append(metrics)

    def checkpoint(self, state: ServerState, ledger: Ledger, engine: Engine) -> None:
        """Nothing to do."""

    def evaluated(self) -> list[Mapping[str, Any]]:
        """The lines of the rounds after which the validation examples were looked at."""
        return [line for line in self.lines if line["eval_accuracy"] is not None]

    def sent_up(self) -> list[int]:
        """Bytes sent up in all rounds until each, from round 0 on."""
        return [0, *accumulate(line["bytes_up"] for line in self.lines)]

    def sent_down(self) -> int:
        """Bytes sent down in all rounds."""
        return sum(line["bytes_down"] for line in self.lines)
