"""Each client's share of every split."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rolora.config import Config
from rolora.data import (
    Examples,
    assign_like,
    partition,
)


def deal(config: Config, examples: Mapping[str, Examples]) -> dict[str, list[torch.Tensor]]:
    """Each client's share of every split; held-out shares follow the training shares."""
    train = examples["train"]
    by_field = config.partition.name == "field" and config.partition.field
    field = train.values(by_field) if by_field else None
    shares = {
        "train": partition(
            train.strata, config.partition, config.federation.clients, config.seed, field
        )
    }
    for name in ("validation", "test"):
        held = examples[name]
        held_field = held.values(by_field) if by_field else None
        shares[name] = assign_like(
            shares["train"], train.strata, held.strata, config.seed, field, held_field
        )
    return shares
