"""What a language model learns from: turns, of which some are learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OTHERS, LEARNED = ("prompt", "system", "user"), ("completion", "assistant")


@dataclass(frozen=True)
class Turn:
    """A part of an example.

    Args:
        role: ``system``, ``user`` or ``assistant``, which a template writes; ``prompt`` or
            ``completion``, which stand as they are.
        content: the text.
        context: what a user's turn is about, as Alpaca's ``input``.
    """

    role: str
    content: str
    context: str = ""

    @property
    def learned(self) -> bool:
        """Whether it is what the model is to say."""
        return self.role in LEARNED


Dialogue = tuple[Turn, ...]
"""One example: its turns in order."""


@dataclass(frozen=True)
class DialogueSplit:
    """`n` dialogues as they were read.

    Args:
        dialogues: `n` of them.
        strata: int64 ``[n]``, the stratum of each.
        names: of the strata, where they are a column's values or topics; else none.
        format: what kind of records these are, in words.
        fields: every other column of plain values, by name.
    """

    dialogues: list[Dialogue]
    strata: np.ndarray
    names: tuple[str, ...]
    format: str
    fields: Mapping[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.dialogues)

    @property
    def identities(self) -> Iterator[tuple[Any, ...]]:
        """What makes two examples the same question: all turns before the first that is learned;
        the text itself where there are none.
        """
        for dialogue in self.dialogues:
            asked = next((i for i, turn in enumerate(dialogue) if turn.learned), 0)
            yield dialogue[: asked or 1]

    def select(self, rows: np.ndarray) -> DialogueSplit:
        """The given rows, in that order."""
        chosen = rows.tolist()
        return DialogueSplit(
            dialogues=[self.dialogues[i] for i in chosen],
            strata=self.strata[rows],
            names=self.names,
            format=self.format,
            fields={name: [column[i] for i in chosen] for name, column in self.fields.items()},
        )
