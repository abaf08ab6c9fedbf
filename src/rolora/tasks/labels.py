"""Labels as data write them: whole numbers, words or booleans."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from rolora.core.errors import BadInput
from rolora.data import Column
from rolora.data.columns import check_whole, missing


def label_name(value: Any, column: Column, row: int) -> str:
    """A label in words, by which files of different kinds agree.

    Raises:
        BadInput: it is missing, or no label.
    """
    where, classes = column.at(row), column.classes
    if missing(value):
        raise BadInput(f"{where} is missing")
    if isinstance(value, str):
        check_whole(value, where)
        return value
    if isinstance(value, float) and not value.is_integer():
        raise BadInput(f"{where} is {value}; a label is a whole number, a word, true or false")
    if not isinstance(value, int | float):
        raise BadInput(
            f"{where} is {value!r:.60}; a label is a whole number, a word, true or false"
        )
    if classes is None:
        return str(value if isinstance(value, bool) else int(value))
    if not 0 <= int(value) < len(classes):
        raise BadInput(f"{where} is {value}, which stands for no class (0 to {len(classes) - 1})")
    return classes[int(value)]


def label_names(
    column: Column, present: Iterable[str], known: tuple[str, ...] | None
) -> tuple[str, ...]:
    """All labels in order: the `known` ones, the data's own, or else those that are `present`,
    sorted, as numbers where all are numbers.
    """
    return known or column.classes or tuple(sorted(set(present), key=_natural))


def unknown(column: Column, row: int, name: str, names: tuple[str, ...]) -> BadInput:
    """A label that training does not have."""
    return BadInput(
        f"{column.at(row)} has the label {name!r}, which training does not know "
        f"(known: {', '.join(names[:20])})"
    )


def named_shares(names: tuple[str, ...], shares: Tensor) -> dict[str, list[float]]:
    """Columns ``p(NAME)`` of the probabilities ``[n, names]``."""
    return {f"p({name})": column.tolist() for name, column in zip(names, shares.T, strict=True)}


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbers in numerical order, then words."""
    number = re.fullmatch(r"-?\d{1,18}", name) is not None
    return (not number, int(name) if number else 0, name)
