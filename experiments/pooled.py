"""Texts as what a frozen encoder makes of them, under adapters in BERT's pooler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from experiments.mnist.net import with_base_product
from rolora.config import Config, DataConfig
from rolora.core.section import Section
from rolora.data import Examples, RawSplits
from rolora.model.loading import Pretrained
from rolora.model.lora import LoraModel
from rolora.tasks.classification import Classification

TARGET = "pooler.dense"
"""What the adapters change."""


def pooled(texts: Examples, body: Any, states: dict[bytes, Tensor]) -> Tensor:
    """The mean of each text's token states below the last layer, ``[n, d]``: in a small encoder it
    tells more than the first token's alone. Texts of one length pass together, so that each is seen
    as if by itself, whatever run or split it comes from.

    Args:
        texts: as tokens.
        body: BERT with a classifier.
        states: what is known by a text's key; what is missing is added.
    """
    keys = texts.keys(torch.arange(len(texts)))
    new = {key: row for row, key in enumerate(keys) if key not in states}
    missing = torch.tensor(list(new.values()), dtype=torch.int64)
    for length in texts.lengths[missing].unique().tolist():
        rows = missing[texts.lengths[missing] == length]
        given = {k: v for k, v in texts.batch(rows).items() if k != "attention_mask"}
        with torch.no_grad():
            hidden = body.bert.embeddings(**given)
            for layer in body.bert.encoder.layer[:-1]:
                hidden = layer(hidden)
        states.update(zip((keys[row] for row in rows.tolist()), hidden.mean(1), strict=True))
    return torch.stack([states[key] for key in keys])


class Pooler(nn.Module):
    """``W_c tanh(W_p x + s B A x)``: BERT's pooler and classifier.

    Args:
        bert: with a classifier.
    """

    def __init__(self, bert: Any):
        super().__init__()
        self.pooler: Any = bert.bert.pooler
        self.classifier: nn.Module = bert.classifier

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """``x [n, d]`` to logits ``[n, labels]``; `base` is ``W_p x``, of the same shape."""
        logits: Tensor = self.classifier(torch.tanh(self.pooler.dense(x, base)))
        return logits


class PooledTexts(Classification):
    """Classification of texts that are no more than what a frozen encoder makes of them
    (:func:`pooled`), asked once for each.
    """

    title = "Pooled texts"

    def __init__(self) -> None:
        super().__init__(Section())
        self.states: dict[bytes, Tensor] = {}

    @classmethod
    def facts(cls) -> Mapping[str, Any]:
        """What a run's result depends on beside its config."""
        return {"task": cls.__name__, "adapters": "pooler, over means of the states below"}

    def encode(
        self,
        raw: RawSplits[Any],
        pretrained: Pretrained,
        config: DataConfig,
        notice: Callable[[str], None],
    ) -> dict[str, Examples]:
        """The splits with the columns ``x`` and ``base``, and no tokens."""
        splits = super().encode(raw, pretrained, config, notice)
        return {name: self._pooled(split, pretrained.module) for name, split in splits.items()}

    def _pooled(self, texts: Examples, body: Any) -> Examples:
        x = pooled(texts, body, self.states)
        seen = Examples(texts.targets, texts.strata, texts.names, dense={"x": x})
        return with_base_product(seen, body.bert.pooler.dense)

    def adapted(self, pretrained: Pretrained, config: Config) -> LoraModel:
        """The pooler alone."""
        return LoraModel(Pooler(pretrained.module), [TARGET])
