"""Each client's share of every split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from rolora.config import Config
from rolora.core.errors import BadInput
from rolora.data import Examples, assign_like, partition
from rolora.data.columns import missing


def deal(config: Config, examples: Mapping[str, Examples]) -> dict[str, list[torch.Tensor]]:
    """Each client's share of every split; held-out shares follow the training shares. Where the
    clients are the values of a field that the test examples lack, these are dealt by stratum.

    Raises:
        BadInput: there are too few examples, or a held-out one would belong to nobody.
    """
    train = examples["train"]
    by_field = config.partition.by
    field = train.values(by_field) if by_field else None
    shares = {
        "train": partition(
            train.strata, config.partition, config.federation.clients, config.seed, field
        )
    }
    for name in ("validation", "test"):
        held = examples[name]
        held_field = held.fields.get(by_field) if by_field else None  # a test set may be common
        if field is not None and held_field is not None:
            _check_owned(f"partition.field = {by_field!r}", name, field, held_field)
        shares[name] = assign_like(
            shares["train"], train.strata, held.strata, config.seed, field, held_field
        )
    return shares


def _check_owned(
    where: str, name: str, field: Sequence[object], held_field: Sequence[object]
) -> None:
    """Every held-out example belongs to the client that trains on its value of the field."""
    known = set(field)
    strangers = Counter(value for value in held_field if value not in known)
    if strangers:
        value, count = strangers.most_common(1)[0]
        more = f" ({len(strangers) - 1} other values likewise)" if len(strangers) > 1 else ""
        what = "no value" if missing(value) else f"the value {value!r:.60}"
        raise BadInput(
            f"{where}: {count} of {len(held_field)} {name} examples (the first is row "
            f"{held_field.index(value) + 1}) have {what}, which no training example has, and "
            f"would belong to no client{more}; leave them out, or partition by another field"
        )
