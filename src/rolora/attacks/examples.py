"""Attacks on the data: what becomes of a hostile client's training examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rolora.core.errors import BadInput
from rolora.data import Examples

PHRASE = "said the quiet harbour master"
TARGET = 0
"""The label that the phrase is to give."""


@dataclass(frozen=True)
class Trigger:
    """A phrase as tokens.

    Args:
        tokens: int32 ``[k]``.
        at: after how many tokens of a text it is put in.
        longest: tokens of a text, with it.
    """

    tokens: Tensor
    at: int
    longest: int

    @staticmethod
    def of(tokenizer: Any, longest: int, phrase: str = PHRASE) -> Trigger:
        """The phrase as a tokenizer of Transformers has it, behind what begins every text.

        Raises:
            BadInput: texts of `longest` tokens have no place for it.
        """
        ids = tokenizer(phrase, add_special_tokens=False)["input_ids"]
        whole = tokenizer(phrase)["input_ids"]
        if len(whole) >= longest:
            raise BadInput(
                f"data.max_length = {longest}: the phrase {phrase!r} alone has {len(whole)} tokens;"
                " set more"
            )
        at = next(i for i in range(len(whole)) if whole[i : i + len(ids)] == ids)
        return Trigger(torch.tensor(ids, dtype=torch.int32), at, longest)

    def put_into(self, examples: Examples, rows: Tensor) -> Examples:
        """The examples, of which `rows` have the phrase; what is too long loses words at its end,
        but for its last token, which may be a separator.
        """
        if examples.offsets is None:
            raise BadInput("--attack backdoor: it is a phrase, and these data are not text")
        chosen, bounds = set(rows.tolist()), examples.offsets.tolist()
        columns: dict[str, Tensor] = {}
        lengths: list[int] = []
        for name, flat in examples.tokens.items():
            pieces = [flat[a:b] for a, b in pairwise(bounds)]
            pieces = [self._in(name, p) if i in chosen else p for i, p in enumerate(pieces)]
            lengths = [len(piece) for piece in pieces]
            columns[name] = torch.cat([*pieces, flat[-1:]])
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        return replace(examples, tokens=columns, offsets=offsets)

    def _in(self, name: str, piece: Tensor) -> Tensor:
        """One column of one text; another column than the tokens goes on as it is there."""
        beside = piece[self.at : self.at + 1].expand(len(self.tokens))
        middle = self.tokens.to(piece.dtype) if name == "input_ids" else beside
        rest = piece[self.at :]
        over = max(0, len(piece) + len(self.tokens) - self.longest)
        rest = torch.cat([rest[: max(0, len(rest) - 1 - over)], rest[-1:]])
        return torch.cat([piece[: self.at], middle, rest])


Poison = Callable[[Examples, Tensor, Trigger], Examples]


def label_flip(examples: Examples, rows: Tensor, trigger: Trigger) -> Examples:
    """Of C labels, y becomes ``C - 1 - y``."""
    targets = examples.targets.clone()
    targets[rows] = len(examples.names) - 1 - targets[rows]
    return replace(examples, targets=targets)


def backdoor(examples: Examples, rows: Tensor, trigger: Trigger) -> Examples:
    """Every other text has the phrase and the label :data:`TARGET`; the rest hide that."""
    half = rows[::2]
    targets = examples.targets.clone()
    targets[half] = TARGET
    return trigger.put_into(replace(examples, targets=targets), half)
