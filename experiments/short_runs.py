"""Runs of seconds or minutes, which are run again whole rather than resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypedDict

from rolora.config import Config
from rolora.core.errors import RunFailed
from rolora.core.noise import seeded
from rolora.core.types import Evaluation, Failure, ServerState, Update
from rolora.engines.preparation import Prepared, build_engine
from rolora.records.schema import RoundRecord
from rolora.server.engine import Engine
from rolora.server.ledger import Ledger
from rolora.server.pooling import scored
from rolora.server.protection import protection_of
from rolora.server.round import finished, rounds
from rolora.tasks import added

ACCURACY = "accuracy"
"""The score of the experiments that classify."""


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


class TrialResult(Ending):
    """What a run leaves. `accuracy`, over all clients' validation examples, and
    `bytes_up_by_round`, sent up by then, belong to the evaluated `rounds`. `client_accuracy` is
    each client's test accuracy, of those that have test examples. `constant` is what the best
    constant guess scores on the test examples, `top_share` the share of the commonest label among
    the predictions for them. None where the test was not asked for or nothing came of the run.
    """

    rounds: list[int]
    bytes_up_by_round: list[int]
    client_accuracy: dict[str, float] | None
    constant: float | None
    top_share: float | None


@dataclass
class Curve:
    """The rounds' metrics, kept in memory alone."""

    lines: list[RoundRecord] = field(default_factory=list)

    def round_finished(self, metrics: RoundRecord) -> None:
        """Keep the line."""
        self.lines.append(metrics)

    def checkpoint(
        self,
        state: ServerState,
        ledger: Ledger,
        engine: Engine,
        unseen: RoundRecord | None = None,
    ) -> None:
        """Nothing to do."""

    def evaluated(self, name: str = ACCURACY) -> dict[int, float]:
        """A score after the rounds in which the validation examples were looked at."""
        seen = {line.round: line.validation for line in self.lines if line.validation}
        return {number: score for number, of in seen.items() if (score := of[name]) is not None}

    def sent_up(self) -> list[int]:
        """Bytes sent up in all rounds until each, from round 0 on."""
        return [0, *accumulate(line.bytes_up for line in self.lines)]

    def sent_down(self) -> int:
        """Bytes sent down in all rounds."""
        return sum(line.bytes_down for line in self.lines)


def run_short(
    prepared: Prepared,
    state: ServerState,
    test: bool,
    answered: Callable[[Update | Failure], None] = lambda answer: None,
) -> TrialResult:
    """Run all rounds.

    A run in which no client's factors stay finite, or in which they grow until an SVD fails,
    ends there; it scores chance, one over the number of labels, from then on.

    Args:
        prepared: the run.
        state: before round 1.
        test: whether the final model is judged on the test examples.
        answered: told of every client's answer.
    """
    config, method, task = prepared.config, prepared.method, prepared.task
    engine = build_engine(prepared)
    curve, judged, begin = Curve(), None, time.perf_counter()
    with suppress(RunFailed):
        guard = protection_of(config, lambda: seeded(config.seed), engine.registered)
        state = finished(
            rounds(config, method, task, engine, state, Ledger(), curve, answered, protection=guard)
        )
        if test:
            judged = engine.evaluate(method.evaluation_plan(state), "test")

    def accuracy(*results: Evaluation) -> float:
        return scored(task, results, config.largest_share)[ACCURACY] or 0.0

    chance = 1.0 / len(prepared.examples["train"].names)
    sums = None if judged is None else added(one.sums for one in judged)
    seen, sent = curve.evaluated(), curve.sent_up()
    missed = [number for number in evaluated_rounds(config) if number > len(curve.lines)]
    return TrialResult(
        rounds=[*seen, *missed],
        accuracy=[*seen.values(), *[chance] * len(missed)],
        bytes_up_by_round=[sent[number] for number in seen] + [sent[-1]] * len(missed),
        test_accuracy=None if not test else chance if judged is None else accuracy(*judged),
        client_accuracy=(
            None if judged is None else {str(one.client): accuracy(one) for one in judged}
        ),
        constant=None if sums is None else task.constant(sums)[ACCURACY],
        top_share=None if sums is None else max(task.prediction_shares(sums)),
        diverged=judged is None if test else len(curve.lines) < config.rounds,
        bytes_up=sent[-1],
        bytes_down=curve.sent_down(),
        seconds=round(time.perf_counter() - begin, 2),
    )


def evaluated_rounds(config: Config) -> list[int]:
    """The rounds after which a run looks at the validation examples."""
    every, last = config.evaluation.every, config.rounds
    return sorted({*range(every, last + 1, every), last})
