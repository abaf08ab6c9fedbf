"""The page on every key of a config, made of the pydantic models that check it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from roles import plain

from rolora.config import Config
from rolora.core.section import Section
from rolora.engines.flower.settings import ServerConfig, SiteConfig
from rolora.methods import METHODS, Options
from rolora.reducers import REDUCERS, ReducerOptions
from rolora.stages import STAGES
from rolora.tasks import TASKS

HEAD = """# Every key of a config

Made of the models that check a config. A key that is not here is refused, with the nearest that is.
Every key can be set in the shell as well: `rolora run CONFIG optimizer.lr=2e-3`. What stands under
"bounds" is checked key by key; what does not go together is refused before round 1.
"""
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "pattern": "matches",
    "minLength": "length at least",
    "maxLength": "length at most",
    "minItems": "entries: at least",
    "maxItems": "entries: at most",
}


MACHINES = """## Settings of a federation's machines

`server.yaml` and `site.yaml` are files of their own, beside the run's config
([a federation across machines](../deploy.md))."""


def config_page() -> str:
    """The page, as markdown."""
    return "\n\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    yield HEAD
    yield from _section("The run", Config, 2)
    sections = {name: f.annotation for name, f in Config.model_fields.items()}
    for name, annotation in sections.items():
        if name in ("method", "task"):
            continue
        for kind in (annotation, *get_args(annotation)):
            if inspect.isclass(kind) and issubclass(kind, Section):
                yield from _section(f"`{name}`", kind, 2)
                yield from _inner(name, kind)
    yield from _section("`method`", Options, 2)
    for name, method in METHODS.own.items():
        if method.Options is not Options:
            yield from _section(f"`method: {{name: {name}}}`", method.Options, 3, but=Options)
    yield from _section("`task`", Config.model_fields["task"].annotation, 2)
    for name, task in TASKS.own.items():
        if task.Options.model_fields:
            yield from _section(f"`task: {{name: {name}}}`", task.Options, 3)
    yield "## `server.reducer`\n\nA name, or a mapping with the reducer's options."
    for name, reducer in REDUCERS.items():
        if reducer.Options is not ReducerOptions:
            title = f"`server: {{reducer: {{name: {name}}}}}`"
            yield from _section(title, reducer.Options, 3, but=ReducerOptions)
    yield "## `stages`\n\nA list; each entry is a name, or a mapping with the stage's options."
    for name, stage in STAGES.items():
        yield from _section(f"`stages: [{{name: {name}}}]`", stage.Options, 3)
    yield MACHINES
    for file, model in {"server.yaml": ServerConfig, "site.yaml": SiteConfig}.items():
        yield from _section(f"`{file}`", model, 2)
        yield from _inner(file, model)


def _inner(name: str, model: type[Section]) -> Iterator[str]:
    """The sections within a section, but for ``data`` of a site, which is the run's."""
    for key, info in model.model_fields.items():
        for kind in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if inspect.isclass(kind) and issubclass(kind, Section) and key != "data":
                yield from _section(f"`{name}`: `{key}`", kind, 3)


def _section(title: str, model: Any, level: int, but: type[Section] | None = None) -> Iterator[str]:
    """A heading, the model's docstring, and a line for each key that `but` does not have."""
    yield f"{'#' * level} {title}"
    yield plain(inspect.getdoc(model) or "")
    schema, lacking = model.model_json_schema(), _lacking(model)
    rows = [
        _row(key, field, None if key in lacking else model.model_fields[key])
        for key, field in schema.get("properties", {}).items()
        if but is None or key not in but.model_fields
    ]
    if rows:
        yield "\n".join(["| key | type | default | bounds |", "| --- | --- | --- | --- |", *rows])


def _lacking(model: type[Section]) -> set[str]:
    """The keys without which it is refused: they have no default, or one that is no value."""
    try:
        model()
    except ValidationError as error:
        return {str(each["loc"][0]) for each in error.errors()}
    return set()


def _row(key: str, field: dict[str, Any], info: FieldInfo | None) -> str:
    default = "must be given" if info is None else _value(info)
    kind = (
        f"[a section](#{key})" if "$ref" in field and key in Config.model_fields else _type(field)
    )
    cells = [f"`{key}`", kind, default, ", ".join(dict.fromkeys(_bounds(field)))]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(info: FieldInfo) -> str:
    """A default as YAML has it; a section's stands in its own table."""
    default = info.get_default(call_default_factory=True)
    if isinstance(default, Section):
        return "its own"
    return f"`{json.dumps(to_jsonable_python(default))}`"


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return "a section"
    if "anyOf" in field:
        return " or ".join(map(_type, field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return "a list of " + " and ".join(map(_type, field["prefixItems"]))
    if "items" in field:
        return f"a list of {_type(field['items'])}"
    if field.get("format") == "path":
        return "path"
    return str(field.get("type", "any"))


def _bounds(field: dict[str, Any]) -> Iterable[str]:
    for name, words in BOUNDS.items():
        if name in field:
            yield f"{words} {_bound(field[name])}"
    for inner in [*field.get("anyOf", ()), *([field["items"]] if "items" in field else [])]:
        yield from _bounds(inner)


def _bound(value: float | str) -> str:
    if isinstance(value, str):
        return f"`{value}`"
    return f"2^{int(value).bit_length() - 1}" if value >= 2**31 else f"{value:g}"
