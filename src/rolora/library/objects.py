"""A program's own objects, and the config as they change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from rolora.config import Config, load_config, parse_config
from rolora.core.errors import BadInput
from rolora.data.readers import Table
from rolora.data.sources import GIVEN, table_of
from rolora.engines.given import Given
from rolora.methods import Method, named_options
from rolora.model.adopted import labels_of, name_of
from rolora.tasks import Task

Data = Any
"""A ``datasets.Dataset``, a pandas ``DataFrame``, a list of records, or a mapping of columns."""
Metrics = Mapping[str, Callable[..., float]]
"""Scores by name, each a function of true labels and predicted ones."""


def config_of(config: Config | Mapping[str, Any] | str | Path) -> Config:
    """A config as it is, from a mapping, from a file, or a shipped preset by name.

    Raises:
        BadInput: it cannot be read, or holds a wrong key or value.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return parse_config(config)
    return load_config(Path(config))


def with_objects(
    config: Config,
    *,
    model: Any = None,
    tokenizer: Any = None,
    clients: Sequence[Data] | None = None,
    train: Data | None = None,
    test: Data | None = None,
    method: Method | type[Method] | None = None,
    task: Task | None = None,
    metrics: Metrics | None = None,
) -> tuple[Config, Given]:
    """The config as the objects change it, and the objects as a run takes them.

    Args:
        config: of the run.
        model: a model of Transformers, in place of ``model.name``.
        tokenizer: its tokenizer.
        clients: the training data of each client, in place of ``data`` and ``partition``.
        train: training data, dealt out as ``partition`` says, in place of ``data``.
        test: test data; else a part of the training data is held out.
        method: in place of ``method.name``.
        task: in place of ``task``.
        metrics: scores beside the task's own.

    Raises:
        BadInput: they do not go together.
    """
    changes: dict[str, Any] = {}
    if tokenizer is not None and model is None:
        raise BadInput("tokenizer: is that of a model; give model, too, or model.name in a config")
    if model is not None:
        changes["model"] = {"name": name_of(model)}
    labels = None if model is None else labels_of(model)
    splits = _tables(config, clients, train, test, labels)
    if splits is not None:
        changes |= _sections(splits, clients, test)
        if labels and not config.data.labels and not splits["train"].classes:
            changes["data"]["labels"] = labels
    if task is not None:
        changes["task"] = {"name": task.name}
    config = _changed(config, changes)
    made = method() if isinstance(method, type) else method
    if made is not None:
        config = config.model_copy(update={"method": named_options(made)})
    return config, Given(
        task=task,
        method=None if made is None else type(made),
        model=model,
        tokenizer=tokenizer,
        splits=None if splits is None else {n: partial(_same, t) for n, t in splits.items()},
        metrics=dict(metrics or {}),
    )


def _same(table: Table) -> Table:
    return table


def _changed(config: Config, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """The config with other values in some sections, checked as a whole."""
    raw = config.model_dump(mode="json")
    for section, values in changes.items():
        raw[section] = {**raw[section], **values}
    return parse_config(raw) if changes else config


def _sections(
    splits: Mapping[str, Table], clients: Sequence[Data] | None, test: Data | None
) -> dict[str, dict[str, Any]]:
    """What the config says of data that are handed over."""
    data: dict[str, Any] = {"name": GIVEN, "path": None, "subset": None, "train_split": "train"}
    data |= {"options": {}, "test_split": None if test is None else "test"}
    if clients is None:
        return {"data": data}
    *_, field = splits["train"].columns
    return {
        "data": data,
        "federation": {"clients": len(clients)},
        "partition": {"name": "field", "field": field},
    }


def _tables(
    config: Config,
    clients: Sequence[Data] | None,
    train: Data | None,
    test: Data | None,
    labels: tuple[str, ...] | None,
) -> dict[str, Table] | None:
    """The data that are handed over, by split; None where there are none."""
    if clients is None and train is None:
        if test is not None:
            raise BadInput("test: goes with clients or train; name the data's own in data.path")
        return None
    if clients is not None and train is not None:
        raise BadInput("clients and train: give the data by client, or all in one to deal out")
    if clients is not None:
        whole = _joined([table_of(data, f"clients[{i}]") for i, data in enumerate(clients)])
    else:
        whole = table_of(train, "train")
    splits = {"train": whole}
    if test is not None:
        splits["test"] = table_of(test, "test")
    column = config.data.label or "label"
    return {name: named_labels(table, column, labels) for name, table in splits.items()}


def _joined(tables: Sequence[Table]) -> Table:
    """One table of all clients' rows, whose last column says whose each is."""
    if not tables:
        raise BadInput("clients: is empty; give the data of each client")
    first = tables[0]
    for table in tables[1:]:
        if set(table.columns) != set(first.columns):
            raise BadInput(
                f"{table.source}: has the columns {', '.join(table.columns)}, and "
                f"{first.source} has {', '.join(first.columns)}; all clients' must be the same"
            )
        if table.classes != first.classes:
            raise BadInput(f"{table.source}: its classes are not those of {first.source}")
    sizes = [len(next(iter(table.columns.values()), [])) for table in tables]
    columns = {
        name: list(chain.from_iterable(table.columns[name] for table in tables))
        for name in first.columns
    }
    owner = "client"
    while owner in columns:
        owner += "_"
    columns[owner] = [i for i, size in enumerate(sizes) for _ in range(size)]
    return Table("clients", columns, first.classes)


def named_labels(table: Table, column: str, labels: tuple[str, ...] | None) -> Table:
    """The table, whose numbered labels stand for the names that the model gives its outputs.

    Raises:
        BadInput: a number is that of no output.
    """
    values = table.columns.get(column, [])
    numbered = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if labels is None or column in table.classes or not values or not numbered:
        return table
    if not all(0 <= value < len(labels) for value in values):
        raise BadInput(
            f"data.label = {column!r}: {table.source} has the labels {min(values)} to "
            f"{max(values)}, and the model has {len(labels)} outputs ({', '.join(labels[:10])})"
        )
    return Table(table.source, table.columns, {**table.classes, column: labels})
