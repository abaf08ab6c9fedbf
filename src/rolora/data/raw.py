"""Texts with targets as they were read, before they are tokenised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from rolora.core.errors import BadInput, nearest
from rolora.data.columns import check_whole, missing
from rolora.data.readers import Table
from rolora.data.sources import Source

Split = TypeVar("Split")
TOKEN_COLUMNS = ("input_ids", "token_type_ids")
"""The inputs of a model that a table may hold in place of texts; masks are made of lengths."""


class RawRows(Protocol):
    """What is asked of examples of any kind to hold some out and to deal them."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the model's outputs, or else the strata, stand for."""

    @property
    def strata(self) -> np.ndarray:
        """The stratum of each, int64 ``[n]``."""

    @property
    def fields(self) -> Mapping[str, list[Any]]:
        """Columns of plain values by name."""

    @property
    def identities(self) -> Iterator[tuple[Any, ...]]:
        """What makes two rows the same."""

    def __len__(self) -> int:
        """How many there are."""

    def select(self, rows: np.ndarray) -> Self:
        """The given rows, in that order."""


@dataclass(frozen=True)
class RawSplit:
    """`n` texts with targets.

    Args:
        text: `n` texts; none where they come as `tokens`.
        text_pair: their second texts, where the task has pairs.
        targets: ``[n, ...]``, in the task's own form.
        strata: int64 ``[n]``, the stratum of each.
        names: what the model's outputs stand for, in order.
        fields: every other column of plain values, and the target's own, by name.
        tokens: columns of the model's inputs, `n` arrays ``[length]`` each, where the texts have
            been tokenised before.
    """

    text: list[str]
    text_pair: list[str] | None
    targets: np.ndarray
    strata: np.ndarray
    names: tuple[str, ...]
    fields: Mapping[str, list[Any]] = field(default_factory=dict)
    tokens: Mapping[str, list[np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def identities(self) -> Iterator[tuple[Any, ...]]:
        """What makes two rows the same to a model: text, text and pair, or tokens."""
        if self.tokens:
            return ((ids.tobytes(),) for ids in self.tokens["input_ids"])
        if self.text_pair is None:
            return zip(self.text)
        return zip(self.text, self.text_pair, strict=True)

    @staticmethod
    def of_texts(text: list[str], text_pair: list[str] | None, names: tuple[str, ...]) -> RawSplit:
        """Texts of which nothing else is known.

        Raises:
            BadInput: one is no text, or there is another number of second texts.
        """
        for key, column in (("texts", text), ("text_pairs", text_pair or [])):
            texts_of(Table(key, {key: column}), key, key)
        if text_pair is not None and len(text_pair) != len(text):
            raise BadInput(f"text_pairs: holds {len(text_pair)}, and texts {len(text)}")
        nothing = np.zeros(len(text), dtype=np.int64)
        return RawSplit(text, text_pair, nothing, nothing, names)

    def select(self, rows: np.ndarray) -> RawSplit:
        """The given rows, in that order."""
        chosen = rows.tolist()
        return RawSplit(
            text=[self.text[i] for i in chosen] if self.text else [],
            text_pair=None if self.text_pair is None else [self.text_pair[i] for i in chosen],
            targets=self.targets[rows],
            strata=self.strata[rows],
            names=self.names,
            fields={name: [column[i] for i in chosen] for name, column in self.fields.items()},
            tokens={name: [column[i] for i in chosen] for name, column in self.tokens.items()},
        )


@dataclass(frozen=True)
class RawSplits(Generic[Split]):
    """Training, validation and test examples as they were read, :class:`RawSplit` where they are
    texts; `test_from` says where the last come from, `held_out` whether that is the training data.
    """

    train: Split
    validation: Split
    test: Split
    test_from: str
    held_out: bool

    @property
    def by_name(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def text_columns(table: Table, source: Source) -> tuple[list[str], list[str] | None]:
    """The texts of a table, and their second texts where the task has pairs.

    Raises:
        BadInput: there is no such column, or a cell holds no text.
    """
    text = texts_of(table, source.text, "data.text")
    pair = None if source.text_pair is None else texts_of(table, source.text_pair, "data.text_pair")
    return text, pair


def token_columns(table: Table, source: Source) -> dict[str, list[np.ndarray]]:
    """The model's inputs of a table whose texts have been tokenised before, as for a Trainer,
    without what its ``attention_mask`` leaves out; none where it has the texts.

    Raises:
        BadInput: a cell is no list of whole numbers, or two of a row differ in length.
    """
    if source.text in table.columns or "input_ids" not in table.columns:
        return {}
    names = [name for name in (*TOKEN_COLUMNS, "attention_mask") if name in table.columns]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for row, cells in enumerate(zip(*(table.columns[name] for name in names), strict=True), 1):
        for name, cell in zip(names, cells, strict=True):
            rows[name].append(_numbers(cell, f"{name}: row {row} of {table.source}"))
        lengths = {name: len(rows[name][-1]) for name in names}
        if len(set(lengths.values())) > 1:
            raise BadInput(f"row {row} of {table.source}: its columns differ in length, {lengths}")
    mask = rows.pop("attention_mask", None)
    if mask is None:
        return rows
    return {
        name: [cell[kept > 0] for cell, kept in zip(column, mask, strict=True)]
        for name, column in rows.items()
    }


def _numbers(cell: Any, where: str) -> np.ndarray:
    found = np.asarray(cell if isinstance(cell, list | tuple | np.ndarray) else [])
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu" or found.min() < 0:
        raise BadInput(f"{where} is {cell!r:.60}; must be a list of whole numbers from 0")
    return found.astype(np.int32)


def column_of(table: Table, name: str, key: str) -> list[Any]:
    """The column `name` of a table; `key` is the setting that names it.

    Raises:
        BadInput: there is no such column.
    """
    if name not in table.columns:
        raise BadInput(
            f"{key} = {name!r}: {table.source} has no such column{nearest(name, table.columns)}"
        )
    return table.columns[name]


def texts_of(table: Table, name: str, key: str) -> list[str]:
    """The same for a column of texts.

    Raises:
        BadInput: there is no such column, or a cell holds no text.
    """
    column = column_of(table, name, key)
    for row, value in enumerate(column, 1):
        if not isinstance(value, str):
            found = "is missing" if missing(value) else f"is {value!r:.60}, not text"
            raise BadInput(f"{key} = {name!r}: row {row} of {table.source} {found}")
        check_whole(value, f"{key} = {name!r}: row {row} of {table.source}")
    return column
