"""The column of what is to be learned, and what reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rolora.core.errors import BadInput


@dataclass(frozen=True)
class Column:
    """A column as it was read.

    Args:
        name: of the column, ``data.label``.
        values: one a row.
        classes: the names of the classes that its numbers stand for, where the data bring them.
        source: where the rows lie, for messages.
    """

    name: str
    values: list[Any]
    classes: tuple[str, ...] | None
    source: str

    @property
    def where(self) -> str:
        """The column, for the beginning of a message."""
        return f"data.label = {self.name!r}: {self.source}"

    def at(self, row: int) -> str:
        """A row, counted from 1, for the beginning of a message."""
        return f"data.label = {self.name!r}: row {row} of {self.source}"


class LabelReader(Protocol):
    """What a loader of labelled texts asks of a task."""

    def targets(
        self, column: Column, known: tuple[str, ...] | None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """The targets ``[n, ...]`` in a column, and what the model's outputs stand for."""

    def strata(self, targets: np.ndarray, train: np.ndarray) -> np.ndarray:
        """The stratum of each of `targets`, int64 ``[n]``; `train` are those of training."""


def missing(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return value is None or value != value


def check_whole(text: str, where: str) -> None:
    """Refuse half a character.

    Raises:
        BadInput: `text` holds a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{where} holds half a character ({text[error.start]!r}, a lone surrogate), which is "
            "no text; write the whole character"
        ) from None
