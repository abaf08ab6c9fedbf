"""What every task is made of: what is learned, and how it is scored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from rolora.config import Config, DataConfig, ModelConfig, PartitionConfig
from rolora.core.errors import BadInput
from rolora.core.section import Section
from rolora.core.types import Sums
from rolora.data import (
    Examples,
    RawSplits,
    check_known,
    load_data,
    tell_cut,
    tell_dropped,
    tell_lacking,
    tokenize,
)
from rolora.data.readers import Table
from rolora.data.sources import Source, Splits
from rolora.model.checks import check_positions
from rolora.model.loading import Kind, Pretrained, build_lora_model, load_pretrained
from rolora.model.lora import LoraModel
from rolora.records.bounds import MOST_LOSS
from rolora.records.detail import DetailRecord, alone
from rolora.records.schema import Metric

Score = Callable[[np.ndarray, np.ndarray], float]
"""A score of true labels and predicted ones, both int64 ``[n]``, in whatever order of rows."""


class Task(ABC):
    """What is learned, and how it is scored. It knows no client, no round and no file.

    Everything that belongs to a task alone stands in one class: how targets are read, which model
    is loaded and where LoRA goes in it, the loss of a row, and the scores. What is said of data and
    model here holds for texts and a model of Transformers; a task of another kind brings its own.

    Scores are made of sums over rows (:data:`rolora.core.types.Sums`), which add over batches,
    clients and machines; an example never leaves its site. A task is a function of its options:
    what the data add, the `names` of the model's outputs, it is handed.

    Class attributes: `name`; `title`, for people; `metrics`, the scores, of which the first
    chooses between rounds and compares runs; `kind`, which model of Transformers is loaded and
    what PEFT calls it; `Options`, the keys that the section ``task`` may have beside ``name``;
    `one_label`, whether a row's target is one of the outputs, int64 ``[n]``, so that a client has
    label shares.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    kind: ClassVar[Kind]
    Options: ClassVar[type[Section]] = Section
    one_label: ClassVar[bool] = False

    def __init__(self, options: Section):
        self.options = options

    # What is learned ----------------------------------------------------------------------

    def load(
        self,
        config: DataConfig,
        seed: int,
        splits: Splits | None = None,
        partition: PartitionConfig | None = None,
    ) -> RawSplits[Any]:
        """Training, validation and test examples (:func:`rolora.data.load_data`).

        Args:
            config: the section ``data``.
            seed: the run's seed.
            splits: the data themselves, where a program hands them over.
            partition: how they will be dealt out, where that is known.

        Raises:
            BadInput: they cannot be had or do not fit.
        """
        return load_data(config, seed, self, splits, partition)

    @abstractmethod
    def read(self, table: Table, source: Source, known: tuple[str, ...] | None, train: Any) -> Any:
        """One table as a split.

        Args:
            table: as it was read.
            source: the columns to read.
            known: the names of training, or ``data.labels``; None: take them from the column.
            train: the training examples, where these are others.

        Raises:
            BadInput: a column or a text is missing, or a target does not fit.
        """

    @abstractmethod
    def answered(self, table: Table, source: Source) -> bool:
        """Whether what is to be learned is in a table."""

    def encode(
        self,
        raw: RawSplits[Any],
        pretrained: Pretrained,
        config: DataConfig,
        notice: Callable[[str], None],
    ) -> dict[str, Examples]:
        """The splits by name, as the model takes them (:func:`rolora.data.tokenize`).

        Args:
            raw: what :meth:`load` gave.
            pretrained: what :meth:`backbone` gave, still without LoRA.
            config: the section ``data``.
            notice: told what is doubtful in the data.

        Raises:
            BadInput: texts may be longer than the model takes, or it knows nothing of them.
        """
        check_positions(pretrained.module, config.max_length)
        examples = {
            name: self.tokens(split, pretrained.tokenizer, config.max_length)
            for name, split in raw.by_name.items()
        }
        check_known(examples["train"], pretrained.tokenizer, notice)
        tell_cut(examples, config.max_length, notice)
        tell_dropped(examples, config.max_length, notice)
        for name, split in examples.items():
            tell_lacking(name, *self.support(split.targets, split.names), notice)
        return examples

    def tokens(self, raw: Any, tokenizer: Any, max_length: int) -> Examples:
        """A split as tokens (:func:`rolora.data.tokenize`).

        Args:
            raw: what :meth:`read` gave.
            tokenizer: one of Transformers'.
            max_length: in tokens, special ones included.

        Raises:
            BadInput: the tokenizer does not take so many, or a text has none.
        """
        return tokenize(raw, tokenizer, max_length)

    @abstractmethod
    def strata(self, targets: np.ndarray, train: np.ndarray) -> np.ndarray:
        """The stratum of each row, by which splits and clients are dealt, int64 ``[n]`` from 0.

        Args:
            targets: ``[n, ...]``.
            train: the targets of training, by which strata may be drawn up.
        """

    def support(
        self, targets: Tensor, names: tuple[str, ...]
    ) -> tuple[Sequence[int], Sequence[str]]:
        """How many targets have each label, and the labels; both empty where there are none."""
        return (), ()

    def check_own(self, train: Examples) -> None:  # noqa: B027
        """See whether a site of a federation can tell the strata of its own examples by itself.

        Raises:
            BadInput: it cannot.
        """

    @abstractmethod
    def strata_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The name of each stratum."""

    # The model ----------------------------------------------------------------------------

    def backbone(self, config: ModelConfig, names: tuple[str, ...], seed: int) -> Pretrained:
        """The pretrained model with an output for each of `names`.

        Raises:
            BadInput: it cannot be loaded.
        """
        return load_pretrained(config, names, seed, self.kind)

    def adapted(self, pretrained: Pretrained, config: Config) -> LoraModel:
        """The model with LoRA layers, in place (:func:`rolora.model.loading.build_lora_model`).

        Raises:
            BadInput: ``lora`` does not fit it.
        """
        return build_lora_model(pretrained, config)

    def outputs(
        self,
        model: LoraModel,
        data: Examples,
        rows: Tensor,
        again: bool,
        streams: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the model says of `rows`, and their targets on its device.

        The one place where a model is asked, in training and in evaluation.

        Args:
            model: with its adapters mounted.
            data: the examples.
            rows: int64 ``[b]``.
            again: these rows come again in later rounds, as those of training do, so that what
                frozen layers make of them is worth keeping.
            streams: int64 ``[b]``, what each row's dropout is drawn from; None drops nothing.
        """
        kept = data.keys(rows) if again and model.prefix is not None else None
        output = model.logits(data.batch(rows), kept, streams)
        return output, data.targets[rows].to(output.device)

    @abstractmethod
    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The loss of each row, ``[b]``, to be trained on; a client's loss is their mean, weighted
        by :meth:`weight`.
        """

    def weight(self, targets: Tensor) -> Tensor | None:
        """What each row counts for in its client's mean loss over a batch: ``[n]``, not below 0.

        Args:
            targets: ``[n, ...]``.

        Returns:
            None: all rows count alike.
        """
        return None

    def predictions(self, output: Tensor, names: tuple[str, ...]) -> dict[str, list[Any]]:
        """What is said of new rows, as columns: ``prediction``, and what is known beside it.

        Args:
            output: of the model, on the CPU.
            names: of its outputs.
        """
        return {"prediction": output.tolist()}

    # Scores -------------------------------------------------------------------------------

    @abstractmethod
    def outcome(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """All that scores need to know of each row: columns ``[b, ...]`` by name."""

    @abstractmethod
    def sums(
        self, outcome: Mapping[str, Tensor], targets: Tensor, names: tuple[str, ...]
    ) -> dict[str, tuple[float, ...]]:
        """The statistics of a group of rows, ``loss`` (sum and weight) among them.

        Args:
            outcome: of the rows, on the CPU.
            targets: ``[n, ...]``.
            names: of the model's outputs.
        """

    @abstractmethod
    def scores(self, sums: Sums) -> dict[str, float]:
        """The scores of added-up sums, one for each of `metrics`; nan where one is undefined."""

    @abstractmethod
    def constant(self, sums: Sums) -> dict[str, float]:
        """What the best prediction that ignores the text would score, where that is defined; each
        score by the constant that is best for it.
        """

    def prediction_shares(self, sums: Sums) -> tuple[float, ...]:
        """The share of predictions that fall into each stratum; empty where none do."""
        return ()

    def scored_by(self, metrics: Mapping[str, Score]) -> Task:
        """The same task with scores beside its own.

        Args:
            metrics: by name.

        Raises:
            BadInput: what clients send of this task does not tell predictions and targets.
        """
        raise BadInput(
            f"metrics = {list(metrics)}: {self.title.lower()} sends sums that do not hold each "
            "prediction; derive a task of your own from it, with sums and scores as you need them"
        )

    def collapsed(self, sums: Sums, names: Sequence[str]) -> str | None:
        """What is predicted, where it is the same for all rows or nearly all, in words; else None.

        Args:
            sums: of a model's predictions.
            names: of the model's outputs.
        """
        return alone(self.prediction_shares(sums), self.strata_names(tuple(names)))

    def detail(self, sums: Sums, names: Sequence[str]) -> DetailRecord | None:
        """The scores of each of `names`; None where the task has no such thing."""
        return None

    # Sums from elsewhere ------------------------------------------------------------------

    @abstractmethod
    def sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        """How many numbers each of the sums has."""

    @abstractmethod
    def possible(self, sums: Sums, n: int) -> bool:
        """Whether sums of the right form can be those of `n` rows."""

    def check(self, sums: Sums, n: int, names: tuple[str, ...]) -> None:
        """See whether sums that somebody sent can be those of `n` rows.

        Raises:
            ValueError: they cannot.
        """
        sizes = self.sizes(names)
        found = {name: len(values) for name, values in sums.items()}
        if found != sizes:
            raise ValueError(f"{self.title} has the sums {sizes}, not {found}"[:500])
        if not all(math.isfinite(value) for values in sums.values() for value in values):
            raise ValueError("sums that are not finite")
        if n < 1 or not self.possible(sums, n):
            raise ValueError(f"sums that cannot be those of {n} examples")
        loss, weight = sums["loss"]
        if loss > MOST_LOSS * weight:
            raise ValueError(f"a mean loss of {loss / weight:g}; none is above {MOST_LOSS:g}")


def added(groups: Iterable[Sums]) -> dict[str, tuple[float, ...]]:
    """The sums of all groups together; of none: empty."""
    total: dict[str, tuple[float, ...]] = {}
    for sums in groups:
        if not total:
            total = dict(sums)
        else:
            total = {
                name: tuple(a + b for a, b in zip(total[name], values, strict=True))
                for name, values in sums.items()
            }
    return total


def counts(values: Iterable[float], most: float) -> bool:
    """Whether all `values` are whole numbers from 0 to `most`."""
    return all(0 <= value <= most and value == int(value) for value in values)


def ratio(part: float, whole: float) -> float:
    """`part` of `whole`; nan of nothing."""
    return part / whole if whole else math.nan
