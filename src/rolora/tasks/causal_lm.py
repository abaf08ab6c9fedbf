"""Text that goes on: instructions to answer, prompts to complete, chats, plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from rolora.config import DataConfig, PartitionConfig
from rolora.core.errors import BadInput, nearest
from rolora.core.section import Section
from rolora.core.types import Sums
from rolora.data import Examples, RawSplits, load_data, plain_fields
from rolora.data.columns import missing
from rolora.data.completions import tokenize_dialogues
from rolora.data.dialogue import Dialogue, DialogueSplit
from rolora.data.formats import FORMATS, format_of
from rolora.data.readers import Table
from rolora.data.sources import Source, Splits
from rolora.data.templates import Template, template_of
from rolora.data.topics import by_topic
from rolora.model.completion import completion_loss
from rolora.model.loading import Kind, Pretrained
from rolora.model.lora import LoraModel
from rolora.records.schema import LOSS, Metric
from rolora.tasks.base import Task, counts, ratio

LENGTH, TOPIC = "length", "topic"
EDGES = (8, 16, 32, 64, 128, 256, 512)
"""The most learned tokens in each class of lengths but the last. Fixed, not quantiles: a site of a
federation knows nothing of the others' lengths, and a class must be the same at all.
"""
MOST_STRATA = 1000
WRITTEN: Mapping[Literal["chat", "plain"], str] = {
    "chat": "turns are written by the model's chat template",
    "plain": "turns are written plainly, as Alpaca's",
}


class CausalLMOptions(Section):
    """How records are read. `format` is one of :data:`rolora.data.formats.FORMATS`, ``auto`` tells
    it from the columns; `template` writes turns as the tokenizer's ``chat`` template does or as
    ``plain`` text, ``auto`` takes the first where there is one; `strata` is the column by whose
    values examples are dealt, or ``length``: the number of tokens that are learned, or ``topic``:
    where no column has that name, one of `topics` clusters of the training prompts
    (:func:`rolora.data.topics.fit_topics`).
    """

    format: str = "auto"
    template: Template = "auto"
    strata: str = LENGTH
    topics: Annotated[int, Field(ge=2, le=MOST_STRATA)] = 10

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        if name != "auto" and name not in FORMATS:
            raise ValueError(f"{name!r} is unknown{nearest(name, ('auto', *FORMATS))}")
        return name

    @model_validator(mode="after")
    def _topics_wanted(self) -> CausalLMOptions:
        if "topics" in self.model_fields_set and self.strata != TOPIC:
            raise ValueError(
                f"topics = {self.topics} is how many topics are looked for, and strata = "
                f"{self.strata!r}; set strata to {TOPIC!r}, or leave topics out"
            )
        return self


class CausalLM(Task):
    """The next token, of those that a record's answer has; scored by the mean loss of a token and
    its exponential, the perplexity.

    Targets are int64 ``[n]``, the number of learned tokens that can be predicted, with which rows
    are weighted: a client's loss is the mean over its batch's learned tokens. The names are those
    of the strata where these are a column's values or topics; the model's outputs have none.
    """

    name = "causal_lm"
    title = "Language modelling"
    metrics = (LOSS, Metric("perplexity", "perplexity", higher_is_better=False))
    kind = Kind(None, "AutoModelForCausalLM", "CAUSAL_LM")
    Options: ClassVar[type[Section]] = CausalLMOptions

    def __init__(self, options: CausalLMOptions):
        super().__init__(options)
        self.settings = options

    # What is learned ----------------------------------------------------------------------

    def load(
        self,
        config: DataConfig,
        seed: int,
        splits: Splits | None = None,
        partition: PartitionConfig | None = None,
    ) -> RawSplits[DialogueSplit]:
        """Records of any kind (:func:`rolora.data.formats.format_of`); identical questions stay on
        one side.
        """
        if config.text_pair is not None:
            raise BadInput(f"data.text_pair = {config.text_pair!r}: causal_lm has no second texts")
        raw = load_data(config, seed, self, splits, partition)
        return by_topic(raw, self.settings.topics, seed) if self._finds(raw.train.fields) else raw

    def _finds(self, columns: Container[str]) -> bool:
        """Whether topics are to be found, as no column names them."""
        return self.settings.strata == TOPIC and TOPIC not in columns

    def check_own(self, train: Examples) -> None:
        """Topics are found in all clients' prompts together."""
        if self._finds(train.fields):
            raise BadInput(
                f"task.strata = {TOPIC!r}: topics are found in all clients' prompts together, "
                "which no site of a federation sees; give the data a column of that name, or use "
                f"{LENGTH}"
            )

    def read(
        self,
        table: Table,
        source: Source,
        known: tuple[str, ...] | None,
        train: DialogueSplit | None,
    ) -> DialogueSplit:
        """One table of records."""
        kind = format_of(table, source, self.settings.format)
        dialogues = kind.read(table)
        columns = table.columns if train is None else train.fields
        if self.settings.strata == LENGTH or self._finds(columns):  # which is not known yet
            strata, names = np.zeros(len(dialogues), dtype=np.int64), tuple[str, ...]()
        else:
            strata, names = self._by_column(table, known)
        return DialogueSplit(
            dialogues, strata, names, kind.title, plain_fields(table, set(kind.texts))
        )

    def _by_column(
        self, table: Table, known: tuple[str, ...] | None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """The values of the column ``task.strata``."""
        name = self.settings.strata
        where = f"task.strata = {name!r}"
        if name not in table.columns:
            raise BadInput(
                f"{where}: {table.source} has no such column"
                f"{nearest(name, (LENGTH, *table.columns))}"
            )
        classes, found = table.classes.get(name), []
        for row, value in enumerate(table.columns[name], 1):
            if not isinstance(value, str | int | float) or missing(value):
                what = "is missing" if value is None or missing(value) else "is no plain value"
                raise BadInput(f"{where}: row {row} of {table.source} {what}")
            found.append(str(value if classes is None else classes[int(value)]))
        names = known or tuple(sorted(set(found)))
        if len(names) > MOST_STRATA:
            raise BadInput(f"{where}: has {len(names)} values; take a column of fewer")
        number = {value: i for i, value in enumerate(names)}
        for row, value in enumerate(found, 1):
            if value not in number:
                raise BadInput(
                    f"{where}: row {row} of {table.source} is {value!r:.60}, which training does "
                    f"not know (known: {', '.join(names[:20])})"
                )
        return np.array([number[value] for value in found], dtype=np.int64), names

    def answered(self, table: Table, source: Source) -> bool:
        """Whether a table's answers are there."""
        return format_of(table, source, self.settings.format).answered(table)

    def tokens(self, raw: Any, tokenizer: Any, max_length: int) -> Examples:
        """Dialogues as tokens (:func:`rolora.data.completions.tokenize_dialogues`)."""
        if not isinstance(raw, DialogueSplit):
            raise BadInput("a language model answers by generating: use rolora chat RUN")
        found = tokenize_dialogues(raw, tokenizer, max_length, self.settings.template)
        if self.settings.strata != LENGTH:
            return found
        strata = self.strata(found.targets.numpy(), found.targets.numpy())
        return found.with_strata(torch.from_numpy(strata))

    def encode(
        self,
        raw: RawSplits[Any],
        pretrained: Pretrained,
        config: DataConfig,
        notice: Callable[[str], None],
    ) -> dict[str, Examples]:
        """The splits as tokens; notice is given of how they were read."""
        examples = super().encode(raw, pretrained, config, notice)
        template = template_of(pretrained.tokenizer, self.settings.template)
        train = examples["train"]
        turns = any(turn.role == "user" for turn in raw.train.dialogues[0])
        notice(
            f"data: read as {raw.train.format}; {WRITTEN[template] + '; ' if turns else ''}"
            f"{int(train.targets.sum()):,} of {int(train.lengths.sum()):,} training tokens are "
            "learned"
        )
        if self._finds(raw.train.fields):
            sizes = np.bincount(raw.train.strata, minlength=len(raw.train.names))
            found = "; ".join(f"{n} ({k:,})" for n, k in zip(raw.train.names, sizes, strict=True))
            notice(f"data: topics of the training prompts: {found}")
        return examples

    def strata(self, targets: np.ndarray, train: np.ndarray) -> np.ndarray:
        """The class of lengths."""
        return np.searchsorted(EDGES, targets).astype(np.int64)

    def strata_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The column's values, the topics, or from how many learned tokens to how many."""
        if self.settings.strata != LENGTH:
            return names
        between = [f"{low + 1} to {high}" for low, high in pairwise((0, *EDGES))]
        return tuple(f"{span} tokens" for span in (*between, f"over {EDGES[-1]}"))

    # The model ----------------------------------------------------------------------------

    def outputs(
        self,
        model: LoraModel,
        data: Examples,
        rows: Tensor,
        again: bool,
        streams: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Each row's summed negative log-likelihood of its learned tokens, and their number."""
        batch = data.batch(rows)
        learned = batch.pop("learned")
        kept = data.keys(rows) if again and model.prefix is not None else None
        losses = completion_loss(model, batch, learned, streams, kept)
        return losses, data.targets[rows].to(losses.device)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean of a row's learned tokens."""
        return output / targets

    def weight(self, targets: Tensor) -> Tensor | None:
        """A row counts as often as it has learned tokens."""
        return targets

    def predictions(self, output: Tensor, names: tuple[str, ...]) -> dict[str, list[Any]]:
        """The summed loss of each row's answer."""
        return {"loss": output.tolist()}

    def questions(self, raw: DialogueSplit, most: int) -> list[tuple[Dialogue, str]]:
        """The first so many examples up to their last answer, and that answer."""
        found: list[tuple[Dialogue, str]] = []
        for dialogue in raw.dialogues:
            last = max(i for i, turn in enumerate(dialogue) if turn.learned)
            if last and len(found) < most:  # a plain text asks nothing
                found.append((dialogue[:last], dialogue[last].content))
        return found

    # Scores -------------------------------------------------------------------------------

    def outcome(self, output: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The summed loss of a row."""
        return {"loss": output}

    def sums(
        self, outcome: Mapping[str, Tensor], targets: Tensor, names: tuple[str, ...]
    ) -> dict[str, tuple[float, ...]]:
        """The loss of all learned tokens, their number, and that of the rows."""
        return {
            "loss": (float(outcome["loss"].double().sum()), float(targets.sum())),
            "rows": (float(len(targets)),),
        }

    def scores(self, sums: Sums) -> dict[str, float]:
        """``loss`` of a learned token, in nats, and ``perplexity``."""
        loss = ratio(*sums["loss"])
        return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else loss * math.inf}

    def constant(self, sums: Sums) -> dict[str, float]:
        """Nothing: what a prediction that ignores the text scores is not known from sums."""
        return {}

    def sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        """A loss, and a count."""
        return {"loss": 2, "rows": 1}

    def possible(self, sums: Sums, n: int) -> bool:
        """No negative loss, and a learned token a row."""
        (loss, tokens), (rows,) = sums["loss"], sums["rows"]
        return loss >= 0 and rows == n and n <= tokens and counts((tokens,), tokens)
