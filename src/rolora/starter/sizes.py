"""Numbers of a first config that follow from the data: lengths, the range, clients and rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rolora.config import ModelConfig
from rolora.core.errors import BadInput
from rolora.model.loading import load_tokenizer
from rolora.starter.roles import Guess

_SAMPLE = 2000
_STEP = 32
_MOST = 512
_TOKENS_A_WORD = 1.5
_BATCH = 8
_PER_CLIENT = 50


def fitting_length(texts: Sequence[str], pairs: Sequence[str] | None, model: str) -> Guess:
    """The length that 95 of 100 texts keep to, rounded up to a multiple of 32.

    Args:
        texts: all of training.
        pairs: their second texts.
        model: by whose tokenizer lengths are measured; where it cannot be loaded, a word counts
            as one and a half tokens.
    """
    rows = np.unique(np.linspace(0, len(texts) - 1, _SAMPLE).astype(int)).tolist()
    first = [texts[i] for i in rows]
    second = None if pairs is None else [pairs[i] for i in rows]
    try:
        tokenizer = load_tokenizer(ModelConfig(name=model))
    except BadInput:
        words = [_words(a) + _words(b) for a, b in zip(first, second or first, strict=True)]
        if second is None:
            words = [n // 2 for n in words]
        return _rounded(np.ceil(np.array(words) * _TOKENS_A_WORD) + 3, _MOST, "by their words")
    encoded = tokenizer(first, second, verbose=False)
    most = min(_MOST, tokenizer.model_max_length)
    return _rounded(np.array([len(ids) for ids in encoded["input_ids"]]), most, "tokens")


def _words(text: str) -> int:
    return len(text.split())


def _rounded(lengths: Any, most: int, unit: str) -> Guess:
    usual = math.ceil(np.quantile(lengths, 0.95))
    tokens = min(most, -(-usual // _STEP) * _STEP)
    what = f"95 of 100 texts have at most {usual} tokens"
    if unit != "tokens":
        what += f" ({unit}: the model is not here)"
    return Guess(str(tokens), what + ("; longer ones are cut" if lengths.max() > tokens else ""))


def fitting_range(values: Sequence[float]) -> tuple[float, float]:
    """The range that `values` span, widened to round numbers.

    Raises:
        BadInput: they are all the same.
    """
    low, high = min(values), max(values)
    if low == high:
        raise BadInput(f"--label: every row has {low:g}; there is nothing to learn of it")
    if not 1e-9 < high - low < 1e15:
        return low, high
    step = 10.0 ** math.floor(math.log10(high - low))
    wide = _neat(math.floor(low / step) * step), _neat(math.ceil(high / step) * step)
    return wide if wide[0] <= low and high <= wide[1] else (low, high)


def _neat(value: float) -> float:
    return float(f"{value:.12g}")


@dataclass(frozen=True)
class Schedule:
    """How many clients, rounds and steps suit so many rows."""

    clients: int
    per_round: int | None
    rounds: int
    local_steps: int
    batch_size: int = _BATCH


def fitting_schedule(rows: int, clients: int | None) -> Schedule:
    """Ten clients where each gets 50 rows, fewer else; about one pass over a client's rows a
    round, of at most ten steps, and more rounds where those are few.

    Args:
        rows: of training, validation and test together.
        clients: where their number is known.
    """
    number = clients or min(10, max(2, rows // _PER_CLIENT))
    steps = min(10, max(2, round(0.8 * rows / number / _BATCH)))
    per_round = 10 if number > 20 else None
    return Schedule(number, per_round, 20 if steps >= 5 else 40, steps)
