"""Draws that nobody can repeat who does not hold their key: the noise and the sampling of a private
run.

They come from SHAKE-256 of the key and the names of what is drawn, so that they are the same again
after a restart and, without the key, look like any others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from rolora.core.seeds import joined

KEY_BYTES = 32
KEPT = "privacy/key"
"""Under this name a client keeps its key."""


@dataclass(frozen=True)
class Noise:
    """Draws from a key that others may know, such as a seed: for studies, and for nothing else."""

    key: bytes

    def uniform(self, n: int, *names: str | int) -> np.ndarray:
        """`n` numbers in (0, 1), of 52 bits each; float64."""
        stream = hashlib.shake_256(self.key + joined(*names).encode()).digest(8 * n)
        return ((np.frombuffer(stream, "<u8") >> 12) + 0.5) / 2.0**52

    def gaussian(self, n: int, *names: str | int) -> Tensor:
        """`n` standard normal numbers, by the inverse of the distribution function; float64."""
        return torch.from_numpy(np.asarray(ndtri(self.uniform(n, *names))))

    def over(self, values: Tensor, *names: str | int) -> tuple[str | int, ...]:
        """The names of the noise that hides `values`."""
        return names


class SecretNoise(Noise):
    """Draws from a key that nobody else knows.

    Were one noise put over two different values, as where a round is done again after a kill with
    other answers, their difference would show. So its names have a digest of what it hides.
    """

    def over(self, values: Tensor, *names: str | int) -> tuple[str | int, ...]:
        """With a digest of `values`."""
        content = values.detach().cpu().contiguous().numpy().tobytes()
        return (*names, hashlib.sha256(content).hexdigest())


def seeded(seed: int, *names: str | int) -> Noise:
    """Draws of a seed."""
    return Noise(hashlib.sha256(joined(seed, "privacy", *names).encode()).digest())


def own_noise(
    seed: int | None, client: int, kept: Mapping[str, Tensor]
) -> tuple[Noise, dict[str, Tensor]]:
    """A client's draws, and what it keeps for its next round.

    Args:
        seed: for a study; None: a key of the client's own.
        client: its id.
        kept: what it kept before.
    """
    if seed is not None:
        return seeded(seed, "client", client), {}
    held = kept.get(KEPT)
    key = os.urandom(KEY_BYTES) if held is None else bytes(held.tolist())
    return SecretNoise(key), {KEPT: torch.tensor(list(key), dtype=torch.uint8)}
