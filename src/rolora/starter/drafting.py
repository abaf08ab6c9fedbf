"""From a file to a draft of its config."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rolora.config import Config, DataConfig, parse_config
from rolora.core.errors import BadInput, nearest
from rolora.core.parsing import parse_section
from rolora.core.reading import ReadOptions
from rolora.core.yaml_text import YamlError, parse_yaml
from rolora.data import Examples, load_data
from rolora.data.deal import deal
from rolora.data.readers import Table
from rolora.data.sources import Splits, open_splits, source_of
from rolora.presets import preset_text
from rolora.starter.columns import profiles
from rolora.starter.roles import Choice, Guess, Roles, guess_roles, guess_task, listed
from rolora.starter.sizes import fitting_length, fitting_range, fitting_schedule
from rolora.starter.wording import worded
from rolora.tasks import TASKS, make_task

NAME = "rolora.yaml"


@dataclass(frozen=True)
class Draft:
    """A config that is not written yet.

    Args:
        path: where it belongs.
        text: commented YAML.
        config: what it says.
        said: what was guessed and why, by the option that says otherwise.
        others: the columns that are not used, and what they hold.
    """

    path: Path
    text: str
    config: Config
    said: Mapping[str, Guess]
    others: Mapping[str, str]

    def write(self) -> Path:
        """Write the file; nothing is overwritten.

        Raises:
            BadInput: there is one.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(self.text)
        except FileExistsError:
            raise _taken(self.path) from None
        return self.path


def draft(
    directory: Path,
    data: Path | None = None,
    choice: Choice = Choice(),
    clients: int | None = None,
    model: str = "minilm",
    encoding: str | None = None,
) -> Draft:
    """A config for `data`, or the quickstart's; it is checked against the data, not yet written.

    With one label a row it is the quickstart's method, which goes by label shares; else RoLoRA as
    in the paper.

    Args:
        directory: where it will lie; ``data.path`` is relative to it.
        data: a csv, tsv, json, jsonl or parquet file, or a directory of ``datasets``.
        choice: what a person named; the rest is guessed.
        clients: how many; None: the sites of the data, or as many as their rows allow.
        model: a short name, a hub name or a directory.
        encoding: of a text file; None: utf-8.

    Raises:
        BadInput: there is a config already, the data cannot be read, or a column that is needed
            can neither be guessed nor was named.
    """
    path = directory / NAME
    if directory.exists() and not directory.is_dir():
        raise BadInput(f"{directory}: is a file; name the directory to write {NAME} into")
    if os.path.lexists(path):
        raise _taken(path)
    if choice.task is not None and choice.task not in TASKS:
        raise BadInput(f"--task {choice.task!r}: unknown task{nearest(choice.task, TASKS)}")
    if data is not None:
        return _for_data(path, data, choice, clients, model, _options(data, encoding))
    if encoding is not None:
        raise BadInput(f"--encoding {encoding!r}: is about --data FILE")
    if choice != Choice():
        raise BadInput("--text, --text-pair, --label, --field, --task: are about --data FILE")
    raw = _base("quickstart", model)
    if clients is not None:
        raw["federation"] |= {"clients": clients, "clients_per_round": clients}
    text = worded(raw, _head("The quickstart: MiniLM on the packaged film sentences."), {})
    return Draft(path, text, parse_config(raw), {}, {})


def _taken(path: Path) -> BadInput:
    return BadInput(f"{path}: is there already, and is not overwritten; name another DIR")


def _head(first: str) -> str:
    return f"{first}\nRun it: rolora run {NAME}; what it would do: rolora validate {NAME}."


def _base(preset: str, model: str) -> dict[str, Any]:
    """The preset, with another model if one is named."""
    raw = parse_yaml(preset_text(preset))
    if model != raw["model"]["name"]:
        raw["model"]["name"] = model
        for key in ("target_modules", "layers"):  # those of MiniLM; each architecture has its own
            del raw["lora"][key]
    assert isinstance(raw, dict)
    return raw


def _for_data(
    path: Path,
    data: Path,
    choice: Choice,
    clients: int | None,
    model: str,
    options: ReadOptions,
) -> Draft:
    split, table, splits = _training(data, options)
    columns = profiles(table.columns, table.classes)
    roles = guess_roles(columns, choice, clients)
    named = Guess(choice.task, "as you named it") if choice.task else None
    task = named or guess_task(columns[roles.label.value])
    raw = _base("quickstart" if task.value == "classification" else "paper", model)
    raw["data"], length = _data(path, data, split, table, roles, model)
    raw["data"] |= {"options": kept} if (kept := options.model_dump(exclude_none=True)) else {}
    raw["task"] = {"name": task.value}
    said = _said(roles, task) | {"max_length": length}
    if task.value == "regression":
        low, high = fitting_range(_numbers(roles.label.value, table, splits))
        raw["task"]["range"] = [low, high]
        said["range"] = Guess(f"[{low:g}, {high:g}]", "what there is, rounded outwards")
    sites = len(columns[roles.field.value].counts) if roles.field else clients
    _fit(raw, len(next(iter(table.columns.values()))), sites)
    raw["partition"] = {"name": "iid"}
    if roles.field:
        raw["partition"] = {"name": "field", "field": roles.field.value}
    head = _head(f"What rolora init made of {data.name}: columns as guessed, and why.")
    text = worded(raw, head, _notes(said, roles.others))
    with _explained(data, roles):
        config = parse_config(parse_yaml(text), source=NAME)
        _check(config, data)
    return Draft(path, text, config, said, roles.others)


def _options(data: Path, encoding: str | None) -> ReadOptions:
    """How a file is read where it is not the usual way."""
    if not os.path.exists(data):
        raise BadInput(f"--data {data}: there is no such file or directory")
    raw = {"sep": _separator(data), "encoding": encoding}
    return parse_section(ReadOptions, raw, "--data")


def _training(data: Path, options: ReadOptions) -> tuple[str, Table, Splits]:
    """The split to train on, its table, and all splits."""
    config = DataConfig(path=data, text="text", label="label", options=options)
    splits = open_splits(config, source_of(config))
    name = next(iter(splits)) if len(splits) == 1 else config.train_split
    if name not in splits:
        raise BadInput(
            f"--data {data}: holds the splits {', '.join(splits)}; name the file to train on, or "
            f"call one {config.train_split}"
        )
    table = splits[name]()
    if not table.columns or not next(iter(table.columns.values())):
        raise BadInput(f"--data {data}: holds no rows")
    return name, table, splits


def _separator(data: Path) -> str | None:
    """What stands between the cells of a csv whose header has no comma."""
    if data.suffix.lower() != ".csv" or not data.is_file():
        return None
    with data.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    others = [other for other in (";", "\t", "|") if other in header]
    return others[0] if others and "," not in header else None


def _data(
    path: Path, data: Path, split: str, table: Table, roles: Roles, model: str
) -> tuple[dict[str, Any], Guess]:
    """The section ``data``, and why ``max_length`` is what it is."""
    pair = roles.text_pair.value if roles.text_pair else None
    texts = [str(value) for value in table.columns[roles.text.value]]
    pairs = None if pair is None else [str(value) for value in table.columns[pair]]
    length = fitting_length(texts, pairs, model)
    relative = Path(os.path.relpath(data, path.parent)).as_posix()
    raw: dict[str, Any] = {"path": relative, "text": roles.text.value}
    raw |= {"text_pair": pair} if pair else {}
    raw |= {"label": roles.label.value, "max_length": int(length.value)}
    return raw | ({"train_split": split} if split != "train" else {}), length


def _numbers(label: str, table: Table, splits: Splits) -> list[float]:
    """The label's numbers in all splits that have some; hidden ones, all -1, are none."""
    found: list[float] = []
    for each in [table, *(read() for read in splits.values())]:
        numbers = profiles({label: each.columns.get(label, [])}, {})[label].numbers
        found += numbers if set(numbers) != {-1.0} else []
    if not found:
        raise BadInput(f"--label {label!r}: regression needs a column of numbers")
    return found


def _fit(raw: dict[str, Any], rows: int, clients: int | None) -> None:
    """Clients, rounds and steps for so many rows."""
    fitting = fitting_schedule(rows, clients)
    raw["rounds"] = fitting.rounds
    raw["federation"] |= {"clients": fitting.clients, "clients_per_round": fitting.per_round}
    raw["optimizer"] |= {"local_steps": fitting.local_steps, "batch_size": fitting.batch_size}


_KEYS = {
    "text": "data.text",
    "text-pair": "data.text_pair",
    "label": "data.label",
    "task": "task.name",
    "range": "task.range",
    "field": "partition.field",
    "max_length": "data.max_length",
}


def _said(roles: Roles, task: Guess) -> dict[str, Guess]:
    found = {
        "text": roles.text,
        "text-pair": roles.text_pair,
        "label": roles.label,
        "task": task,
        "field": roles.field,
    }
    return {name: guess for name, guess in found.items() if guess is not None}


def _notes(said: Mapping[str, Guess], others: Mapping[str, str]) -> dict[str, str]:
    """The comments of single keys."""
    notes = {_KEYS[name]: guess.why for name, guess in said.items()}
    return notes | ({"data.path": f"other columns: {listed(others)}"} if others else {})


def _check(config: Config, data: Path) -> None:
    """Read the data as a run would, and deal them out."""
    section = config.data.model_copy(update={"path": data})
    raw = load_data(section, config.seed, make_task(config.task))
    examples = {
        name: Examples(
            targets=torch.from_numpy(split.targets),
            strata=torch.from_numpy(split.strata),
            names=split.names,
            fields=split.fields,
        )
        for name, split in raw.by_name.items()
    }
    deal(config, examples)


@contextmanager
def _explained(data: Path, roles: Roles) -> Iterator[None]:
    """What a run would refuse, with what was guessed before."""
    try:
        yield
    except (BadInput, YamlError) as error:
        columns = [f"text {roles.text.value!r}", f"label {roles.label.value!r}"]
        columns += [f"field {roles.field.value!r}"] if roles.field else []
        raise BadInput(
            f"--data {data}: with {', '.join(columns)} it cannot run: {error}; name other columns "
            "(--text, --label, --field), or change the data"
        ) from None
