"""Who takes part in a round."""

from __future__ import annotations

from collections.abc import Sequence

from rolora.config import Config
from rolora.core.seeds import numpy_generator
from rolora.core.types import ClientInfo


def sample_cohort(
    config: Config, clients: Sequence[ClientInfo], round_number: int, attempt: int
) -> list[ClientInfo]:
    """The clients of a round, by id: a function of the seed, the round and the attempt."""
    size = min(config.federation.cohort_size, len(clients))
    if size == len(clients):
        return list(clients)
    generator = numpy_generator(config.seed, "cohort", round_number, attempt)
    chosen = generator.choice(len(clients), size=size, replace=False)
    return [clients[i] for i in sorted(chosen.tolist())]
