"""What reads a file, or an object of ``datasets``, as a table.

Text files are not read by ``datasets``' builders: those guess types (the label 007 becomes 7.0, NA
nothing, a text of digits and dashes a date), rename a second column of a name, do not say which
row is damaged, and leave a copy of the data in a cache on disk, where a site's data have no place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from rolora.core.errors import BadInput
from rolora.core.quiet import quiet
from rolora.core.reading import ReadOptions


@dataclass(frozen=True)
class Table:
    """One split as it was read: where from, its columns, and the names of class columns."""

    source: str
    columns: Mapping[str, list[Any]]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def from_dataset(dataset: Any, source: str) -> Table:
    """A ``datasets.Dataset`` without its pictures and sounds.

    Raises:
        BadInput: it cannot be read.
    """
    import datasets

    kinds = {name: kind for name, kind in dataset.features.items() if _of_plain_values(kind)}
    with bad_input(f"{source}: cannot be read"), quiet():
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
def bad_input(failed: str, advice: str = "") -> Iterator[None]:
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

    import pandas as pd  # type: ignore[import-untyped]

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
            return columns(json.loads(text))
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):
                raise
    return columns(
        [_json_line(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    )


def _json_line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error}") from None


def columns(content: Any) -> dict[str, list[Any]]:
    """The columns of records, or of a mapping of columns.

    Raises:
        ValueError: it is neither, or columns differ in length.
    """
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
    return from_dataset(datasets.Dataset(table), source)


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


READERS: Mapping[str, Callable[[Path, ReadOptions, str], Table]] = {
    ".csv": _of_text(_read_csv),
    ".tsv": _of_text(_read_csv),
    ".json": _of_text(_read_json),
    ".jsonl": _of_text(_read_json),
    ".parquet": _read_parquet,
}


def read_file(path: Path, options: ReadOptions) -> Table:
    """One file, by its suffix.

    Raises:
        BadInput: it is of no known kind, or damaged.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput(f"data.path = '{path}': must be a file of the kinds {', '.join(READERS)}")
    with bad_input(f"data.path = '{path}': not valid {path.suffix[1:].lower()}"):
        return reader(path, options, f"data.path = '{path}'")
