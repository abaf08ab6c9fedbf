"""What is doubtful in data that can be had: said once, before the first round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from rolora.config import Config
from rolora.data.examples import Examples

Notice = Callable[[str], None]
MOST_NAMES = 5
WORDS = {"train": "training"}


def tell_cut(examples: Mapping[str, Examples], max_length: int, notice: Notice) -> None:
    """Say how many texts of each split were cut to `max_length` tokens."""
    cut = [
        f"{e.cut:,} of {len(e) + e.dropped:,} {word_of(name)}"
        for name, e in examples.items()
        if e.cut
    ]
    if cut:
        notice(
            f"data.max_length = {max_length}: {_and(cut)} texts are longer than {max_length} "
            "tokens and were cut"
        )


def tell_dropped(examples: Mapping[str, Examples], max_length: int, notice: Notice) -> None:
    """Say how many examples of each split were dropped, their answers being cut off whole."""
    found = [
        f"{e.dropped:,} of {len(e) + e.dropped:,} {word_of(name)}"
        for name, e in examples.items()
        if e.dropped
    ]
    if found:
        notice(
            f"data.max_length = {max_length}: {_and(found)} examples were dropped, as no token of "
            f"their answers is within {max_length} tokens"
        )


def tell_lacking(split: str, counts: Sequence[int], names: Sequence[str], notice: Notice) -> None:
    """Say which labels no example of a split has.

    Args:
        split: its name.
        counts: how many examples have each of `names`.
        names: of the labels.
        notice: told.
    """
    lacking = [name for name, count in zip(names, counts, strict=True) if not count]
    if len(lacking) == 1:
        notice(f"data: no {word_of(split)} example has the label {lacking[0]!r}")
    elif lacking:
        which = ", ".join(map(repr, lacking[:MOST_NAMES]))
        more = ", ..." if len(lacking) > MOST_NAMES else ""
        notice(
            f"data: of {len(names)} labels no {word_of(split)} example has {len(lacking)}: "
            f"{which}{more}"
        )


def tell_shares(
    config: Config,
    examples: Mapping[str, Examples],
    shares: Mapping[str, Sequence[Tensor]],
    notice: Notice,
) -> None:
    """Say whose data were merged, and what was dropped or is missing.

    Args:
        config: of the run.
        examples: the splits by name.
        shares: per split, each client's example numbers.
        notice: told.
    """
    field = config.partition.field if config.partition.name == "field" else None
    if field is not None:
        values = len(set(examples["train"].values(field)))
        clients = len(shares["train"])
        if values > clients:
            notice(
                f"partition.field = {field!r}: its {values:,} values were merged into "
                f"{clients:,} clients, of which some hold several"
            )
    for name, held in shares.items():
        nobody = len(examples[name]) - sum(map(len, held))
        if nobody:
            notice(
                f"partition: {nobody:,} of {len(examples[name]):,} {word_of(name)} examples "
                "belong to no client and are left out"
            )
        without = sum(not len(rows) for rows in held)
        if without:
            notice(
                f"partition: {without:,} of {len(held):,} clients have no {word_of(name)} examples"
            )


def word_of(split: str) -> str:
    """The split's name before a noun."""
    return WORDS.get(split, split)


def _and(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
