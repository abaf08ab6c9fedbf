"""What stands behind a round's scores: each label's own, and each client's part in the mean."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from rolora.records.base import Record, Score, Scores

COLLAPSED_SHARE = 0.98
"""Of the predictions, in one stratum: a model that says hardly anything else has collapsed."""


class ClassRecord(Record):
    """One label's scores.

    Args:
        name: of the label.
        precision: of the examples that were given it, the share that have it; None: none were.
        recall: of the examples that have it, the share that were given it; None: none have it.
        f1: the harmonic mean of both; None where neither is known.
        support: how many examples have it.
        predicted_share: the share of all examples that were given it.
    """

    name: str
    precision: Score
    recall: Score
    f1: Score
    support: int
    predicted_share: Score


class DetailRecord(Record):
    """The scores of every label.

    Args:
        classes: the labels in order.
        confusion: how many examples of each label (rows) were given which (columns); empty where
            an example may have several labels, or there are too many.
    """

    classes: tuple[ClassRecord, ...]
    confusion: tuple[tuple[int, ...], ...] = ()


class UpdateRecord(Record):
    """One client's part in a round.

    Args:
        client: its id.
        examples: that it trained on, as it says.
        weight: in the reduction.
        train_loss: mean over its batches, as it says.
        norms: for each uploaded part of the model, the Euclidean length of its change since the
            round's start, as the server decoded it; of the part itself where the client draws its
            own start.
    """

    client: int
    examples: int
    weight: Score
    train_loss: Score
    norms: Scores = Field(default_factory=dict)


def alone(shares: Sequence[float | None], names: Sequence[str]) -> str | None:
    """The name of the stratum into which hardly a prediction does not fall; None where there is
    no such one.
    """
    for number, share in enumerate(shares):
        if share is not None and share > COLLAPSED_SHARE:
            return names[number] if number < len(names) else str(number)
    return None


def turn(before: str | None, now: str | None, number: int) -> str | None:
    """What is to be said when a model begins to predict one label alone, or ends; None where
    neither is the case.

    Args:
        before: the label that alone was predicted when the model was last looked at.
        now: the same of now.
        number: of the round.
    """
    if now == before:
        return None
    if now is None:
        return f"round {number}: the model predicts more than {before!r} again"
    return f"round {number}: the model predicts hardly anything but {now!r}; it has collapsed"
