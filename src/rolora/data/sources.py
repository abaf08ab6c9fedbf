"""Where data lie: hub names, packages, directories and files, each read as a table a split."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from rolora.config import DataConfig
from rolora.core.errors import BadInput, nearest
from rolora.core.quiet import quiet
from rolora.core.reading import ReadOptions
from rolora.data.packaged import alpaca_demo, movie_reviews
from rolora.data.readers import READERS, Table, bad_input, columns, from_dataset, read_file

GIVEN = "given"
"""What data are called that a program hands over as objects."""
_SHARD = re.compile(r"-\d+-of-\d+$")


@dataclass(frozen=True)
class Source:
    """The columns to read, and for a known name where it lies and which split tests it."""

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    hub: str | None = None
    subset: str | None = None
    test_split: str | None = None


def _glue(subset: str, text: str, text_pair: str | None, test_split: str = "validation") -> Source:
    return Source(text, text_pair, "label", "nyu-mll/glue", subset, test_split)


_KNOWN: Mapping[str, Source] = {
    "rotten_tomatoes": Source(),
    "imdb": Source(),
    "sst2": _glue("sst2", "sentence", None),
    "qnli": _glue("qnli", "question", "sentence"),
    "mnli": _glue("mnli", "premise", "hypothesis", "validation_matched"),
    "qqp": _glue("qqp", "question1", "question2"),
    "rte": _glue("rte", "sentence1", "sentence2"),
    "stsb": _glue("stsb", "sentence1", "sentence2"),
    "alpaca": Source(hub="tatsu-lab/alpaca"),
    "code_alpaca": Source(hub="sahil2801/CodeAlpaca-20k"),
    "alpaca_gpt4": Source(hub="vicgalle/alpaca-gpt4"),
    "fingpt_sentiment": Source(hub="FinGPT/fingpt-sentiment-train"),
    "medical_flashcards": Source(hub="medalpaca/medical_meadow_medical_flashcards"),
    "boolq": Source(hub="google/boolq"),
    "piqa": Source(hub="ybisk/piqa"),
    "siqa": Source(hub="allenai/social_i_qa"),
    "hellaswag": Source(hub="Rowan/hellaswag"),
    "winogrande": Source(hub="allenai/winogrande", subset="winogrande_xl"),
    "arc_easy": Source(hub="allenai/ai2_arc", subset="ARC-Easy"),
    "arc_challenge": Source(hub="allenai/ai2_arc", subset="ARC-Challenge"),
    "openbookqa": Source(hub="allenai/openbookqa", subset="main"),
    "alpaca_demo": Source(),
}


Splits = Mapping[str, Callable[[], Table]]
"""What reads each split; a split that nobody asks for is never read."""


def source_of(config: DataConfig) -> Source:
    """The columns to read; what the config does not say, a known name does."""
    known = _KNOWN.get(config.name or "", Source())
    return Source(
        text=config.text or known.text,
        text_pair=config.text_pair or known.text_pair,
        label=config.label or known.label,
        hub=known.hub or config.name,
        subset=config.subset or known.subset,
        test_split=config.test_split or known.test_split,
    )


def open_splits(config: DataConfig, source: Source) -> Splits:
    """The splits of the data that `config` names, each read when it is asked for.

    Raises:
        BadInput: there are no such data, they cannot be reached, or a package is missing. Reading
            a split raises it where a file is damaged.
    """
    if config.path is not None:
        return _local(_home(config.path), config)
    if config.name in ("rotten_tomatoes", "imdb"):
        return {"train": partial(movie_reviews, config.name)}
    if config.name == "alpaca_demo":
        return {"train": alpaca_demo}
    if config.name == GIVEN:
        raise BadInput(
            f"data.name = {GIVEN!r}: these data were objects of the program that ran; hand them "
            "over again (clients, train), or name a file in data.path"
        )
    if config.name is None:
        raise BadInput(f"data: give name or path{nearest('', _KNOWN)}")
    return _hub(config.name, source)


def table_of(data: Any, source: str) -> Table:
    """Data that a program hands over, as a table.

    Args:
        data: a ``datasets.Dataset``, a pandas ``DataFrame``, a list of records, or a mapping of
            columns.
        source: what messages call it.

    Raises:
        BadInput: it is none of these.
    """
    import datasets
    import pandas as pd  # type: ignore[import-untyped]

    if isinstance(data, datasets.Dataset):
        return from_dataset(data, source)
    with bad_input(
        f"{source}: must be a datasets.Dataset, a pandas DataFrame, a list of records or a "
        "mapping of columns"
    ):
        if isinstance(data, pd.DataFrame):
            if not data.columns.is_unique:
                raise ValueError("has two columns of one name")
            return Table(source, {str(name): data[name].tolist() for name in data.columns})
        if isinstance(data, Mapping):
            return Table(source, columns({str(k): list(values) for k, values in data.items()}))
        return Table(source, columns([dict(row) for row in data]))


def _hub(name: str, source: Source) -> Splits:
    import datasets

    at = f"{source.hub} ({source.subset})" if source.subset else source.hub
    failed = f"data.name = {name!r}: {at} could not be loaded from the hub"
    advice = (
        f"{nearest(name, _KNOWN)}; without a connection give data.path, a file or directory, with "
        f"data.text and data.label"
    )
    with bad_input(failed, advice), quiet():
        found = datasets.load_dataset(source.hub, source.subset)
    return _dataset_splits(found, f"data.name = {name!r}")


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # ~name of nobody
        raise BadInput(
            f"data.path = '{path}': there is no user {path.parts[0]!r} here; write the path out"
        ) from None


def _local(path: Path, config: DataConfig) -> Splits:
    where = path / config.subset if config.subset and path.is_dir() else path
    if where.is_file():
        return {config.train_split: partial(read_file, where, config.options)}
    if not where.is_dir():
        raise BadInput(
            f"data.path = '{where.absolute()}': there is no such file or directory; a relative "
            "path is taken from where the config lies, one typed in the shell from the working "
            "directory"
        )
    if any((where / mark).exists() for mark in ("dataset_dict.json", "state.json")):
        return _saved(where, config.train_split)
    files: dict[str, list[Path]] = {}
    for file in sorted(where.iterdir()):
        if file.suffix.lower() in READERS and file.is_file():
            files.setdefault(_SHARD.sub("", file.stem), []).append(file)
    if not files:
        raise BadInput(
            f"data.path = '{where}': holds neither a saved dataset nor a file of the kinds "
            f"{', '.join(READERS)}"
        )
    return {name: partial(_read_shards, shards, config.options) for name, shards in files.items()}


def _read_shards(shards: Sequence[Path], options: ReadOptions) -> Table:
    kinds = {(shard.suffix, bool(_SHARD.search(shard.stem))) for shard in shards}
    if len(shards) > 1 and kinds != {(shards[0].suffix, True)}:
        names = ", ".join(shard.name for shard in shards)
        raise BadInput(f"data.path: {names} are one split in several files; keep one of them")
    tables = [read_file(shard, options) for shard in shards]
    columns = {
        name: list(chain.from_iterable(table.columns.get(name, []) for table in tables))
        for name in tables[0].columns
    }
    if any(table.classes != tables[0].classes for table in tables):
        raise BadInput(f"{tables[0].source}: its classes are not those of {shards[-1].name}")
    return Table(tables[0].source, columns, tables[0].classes)


def _saved(path: Path, alone: str) -> Splits:
    import datasets

    with bad_input(f"data.path = '{path}': not a dataset that can be read"), quiet():
        found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.Dataset):
        found = {alone: found}
    return _dataset_splits(found, f"data.path = '{path}'")


def _dataset_splits(found: Mapping[str, Any], source: str) -> Splits:
    return {
        str(name): partial(from_dataset, split, f"{source}, {name}")
        for name, split in found.items()
    }
