"""What a column holds, as far as can be seen from its cells."""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Literal

from rolora.data.columns import missing

Kind = Literal["empty", "lists", "numbers", "dates", "words", "text", "others"]

_NEARLY_ALL = 0.95
_MOST_LABELS = 200
_WORD = re.compile(r"[!-~]+")
"""One run of ASCII: a word, a code, an address. Scripts without spaces are text."""
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}( .*)?")
_SEPARATOR = re.compile(r"[|;]")


@dataclass(frozen=True)
class Profile:
    """A column's cells, and what they are.

    Args:
        name: of the column.
        values: its cells, one a row.
        classes: the names of the classes that its numbers stand for, where the data bring them.
    """

    name: str
    values: Sequence[Any]
    classes: tuple[str, ...] | None = None

    @cached_property
    def filled(self) -> list[Any]:
        """The cells that hold something."""
        return [value for value in self.values if not missing(value) and value != ""]

    @cached_property
    def texts(self) -> list[str]:
        """The filled cells in words."""
        return [_written(value) for value in self.filled]

    @cached_property
    def numbers(self) -> list[float]:
        """The filled cells as numbers; none where not all are."""
        found = [_number(value) for value in self.filled]
        return [] if None in found else [value for value in found if value is not None]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each value comes."""
        return Counter(self.texts)

    @cached_property
    def kind(self) -> Kind:
        """What nearly all cells are."""
        if not self.filled:
            return "empty"
        if all(isinstance(value, list | tuple) for value in self.filled):
            return "lists"
        if self.numbers:
            return "numbers"
        if self._share(_is_date) >= _NEARLY_ALL:
            return "dates"
        if not all(isinstance(value, str | int | float) for value in self.filled):
            return "others"
        one_word = self._share(lambda v: _WORD.fullmatch(_written(v).strip()) is not None)
        return "words" if one_word >= _NEARLY_ALL else "text"

    @cached_property
    def length(self) -> float:
        """Characters of a filled cell, in the mean."""
        return fmean(map(len, self.texts)) if self.texts else 0.0

    @cached_property
    def words(self) -> float:
        """Words of a filled cell, in the mean."""
        return fmean(len(text.split()) for text in self.texts) if self.texts else 0.0

    @property
    def whole(self) -> bool:
        """Whether the cells are whole numbers."""
        return bool(self.numbers) and all(number.is_integer() for number in self.numbers)

    @property
    def few(self) -> bool:
        """Whether few values come again and again, as labels and sites do."""
        if self.kind in ("empty", "lists", "others") or self.words > 6:
            return False
        if self.numbers and not self.whole:
            return False
        most = min(_MOST_LABELS, max(2, len(self.filled) // 3), len(self.filled) - 1)
        return 2 <= len(self.counts) <= most

    @property
    def numbered(self) -> bool:
        """Whether it numbers the rows: whole, no value twice, one after the other."""
        n, found = len(self.filled), self.numbers
        if not self.whole or n < 3 or len(set(found)) < n:
            return False
        return max(found) - min(found) == n - 1 or found == sorted(found)

    @cached_property
    def parts(self) -> Counter[str]:
        """The labels in lists, or between ``|`` or ``;``; none where cells hold no such thing."""
        if self.kind == "lists":
            return Counter(_written(part) for value in self.filled for part in value)
        if self.kind not in ("words", "text"):
            return Counter()
        cells = [[p.strip() for p in _SEPARATOR.split(text) if p.strip()] for text in self.texts]
        found = Counter(part for cell in cells for part in cell)
        several = sum(len(cell) > 1 for cell in cells) >= 0.05 * len(cells)
        short = bool(found) and fmean(len(part.split()) for part in found) <= 4
        again = len(found) <= min(_MOST_LABELS, max(2, len(cells) // 2))
        return found if several and short and again else Counter()

    def described(self) -> str:
        """The column in a few words, after its name."""
        distinct = len(self.counts)
        if self.kind == "empty":
            return "empty"
        if self.kind == "text":
            return f"text of {self.words:.0f} words" if self.words >= 2 else "text"
        if self.kind == "numbers" and not self.few:
            return "row numbers" if self.numbered else _span(self.numbers)
        return f"{self.kind}, {distinct} different" if self.kind != "lists" else "lists"

    def _share(self, test: Any) -> float:
        return sum(map(test, self.filled)) / len(self.filled)


def profiles(
    columns: Mapping[str, Sequence[Any]], classes: Mapping[str, tuple[str, ...]]
) -> dict[str, Profile]:
    """A profile of each column, by name."""
    return {name: Profile(name, values, classes.get(name)) for name, values in columns.items()}


def _written(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and "_" in value:  # 1_000 is Python's
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_date(value: Any) -> bool:
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return True
    return isinstance(value, str) and _DATE.fullmatch(value.strip()) is not None


def _span(numbers: Sequence[float]) -> str:
    return f"numbers, {min(numbers):g} to {max(numbers):g}"
