"""Named seeds: every random draw comes from the run's seed and the name of what is drawn."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for what `names` say, independent between names and the same everywhere.

    A number and its digits are one name; other names, or names joined otherwise, are others.
    """
    return int.from_bytes(hashlib.sha256(joined(seed, *names).encode()).digest()[:8], "big") >> 1


def joined(*names: str | int) -> str:
    """One text for the names and for no others: one that begins with a bracket cannot be a plain
    one, which begins with the seed.
    """
    texts = [str(name) for name in names]
    return json.dumps(texts) if any("/" in text for text in texts) else "/".join(texts)


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator of torch for what `names` say."""
    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A generator of numpy for what `names` say."""
    return np.random.default_rng(derive(seed, *names))
