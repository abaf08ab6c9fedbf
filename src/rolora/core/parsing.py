"""From what a person wrote to a checked section, or to one message that says what is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ValidationError,
)

from rolora.core.errors import BadInput, nearest
from rolora.core.section import Section
from rolora.core.yaml_text import YamlError, parse_yaml

S = TypeVar("S", bound=Section)
Chosen = TypeVar("Chosen", bound=Section)


def parse_section(section: type[S], raw: Mapping[Any, Any], source: str) -> S:
    """Validate a mapping as a `section`.

    Raises:
        BadInput: with one line a wrong field: its name, its value, and what would be right.
    """
    try:
        return section.model_validate(_numbers(raw))
    except ValidationError as error:
        lines = _lines(error, section)
        head = f"{source}: " if len(lines) == 1 else f"{source}:\n  "
        raise BadInput(head + "\n  ".join(lines)) from None
    except RecursionError:
        raise BadInput(f"{source}: nested too deeply") from None


def parse_overrides(section: type[S], overrides: Iterable[str], source: str) -> S:
    """A `section` of defaults and ``key.path=value`` overrides.

    Raises:
        BadInput: as :func:`parse_section`, or an override has another form.
    """
    raw: dict[Any, Any] = {}
    for override in overrides:
        apply_override(raw, override)
    return parse_section(section, raw, source)


def apply_override(raw: dict[Any, Any], override: str) -> None:
    """Write ``key.path=value`` into a mapping.

    Raises:
        BadInput: it has another form, or no place there.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise BadInput(f"override {override!r}: must have the form key.path=value")
    try:
        value = parse_yaml(text) if text.strip() else None
    except YamlError as error:
        raise BadInput(f"override {override!r}: not a YAML value ({error})") from None
    *parents, last = path.split(".")
    node = raw
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise BadInput(f"override {override!r}: {parent} is {child!r}, which has no keys")
        node = child
    node[last] = value


def place_path(raw: Mapping[Any, Any], path: str, directory: Path) -> None:
    """Write the path at ``section.key`` of a mapping out in full, if it is relative to
    `directory`; one that begins with ``~`` is left alone.
    """
    name, _, key = path.partition(".")
    section = raw.get(name)
    value = section.get(key) if isinstance(section, dict) else None
    if isinstance(section, dict) and isinstance(value, str) and value and value[0] != "~":
        section[key] = os.path.abspath(directory / value)


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads ``2e-3`` (no dot) as text; take it as the number that was meant."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


class _Within(ValueError):  # noqa: N818
    """What is wrong in a section that another value chose."""

    def __init__(self, section: type[Section], error: ValidationError):
        super().__init__(str(error))
        self.section, self.error = section, error


def chosen(section: type[Chosen], given: Mapping[str, Any]) -> Chosen:
    """A section that another value chose; what is wrong in it is told as if it stood there."""
    try:
        return section.model_validate(given)
    except ValidationError as error:
        raise _Within(section, error) from None


def _lines(error: ValidationError, root: type[Section], within: tuple[Any, ...] = ()) -> list[str]:
    """A line an error, those of a chosen section in its place."""
    lines = []
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, _Within):
            lines += _lines(cause.error, cause.section, (*within, *item["loc"]))
        else:
            lines.append(_explain(item, root, within))
    return lines


def _explain(item: Any, root: type[Section], within: tuple[Any, ...]) -> str:
    """One error of pydantic's in our words: the field, the value, what would be right."""
    where = ".".join(str(part) for part in (*within, *item["loc"])) or "config"
    if item["type"] == "extra_forbidden":
        *parents, last = item["loc"]
        return f"{where}: unknown key{nearest(str(last), _keys_at(root, parents))}"
    if item["type"] == "missing":  # its input is the whole section
        return f"{where}: must be given"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}.{message}" if message.startswith("name = ") else f"{where}: {message}"
    value = shown(item["input"])
    if item["type"] == "literal_error":
        expected = item["ctx"]["expected"]
        names = [name.strip("' ") for name in expected.replace(" or ", ", ").split(",")]
        hint = nearest(str(item["input"]), names, listing=False)
        return f"{where} = {value}: must be {expected}{hint}"
    return f"{where} = {value}: {message[:1].lower()}{message[1:]}"


def shown(value: Any) -> str:
    """A value as a message shows it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return "a value too long to show"
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_at(root: type[Section], parents: Iterable[Any]) -> list[str]:
    section: type[BaseModel] = root
    for parent in parents:
        annotation = section.model_fields[str(parent)].annotation
        if get_origin(annotation) in (Union, UnionType):
            annotation = get_args(annotation)[0]
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        section = annotation
    return list(section.model_fields)
