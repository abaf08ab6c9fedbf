"""Settings as YAML, read in one way wherever they stand: a run's, a site's, a server's, an
override's.

Plain YAML, without aliases (nine lines of them stand for a billion values) and with every key once.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from rolora.core.errors import BadInput


class YamlError(ValueError):
    """A text that is not YAML as it is read here; the message is one line."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with no aliases, no key twice and no half characters."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _wrong(f"*{event.anchor} is an alias; write the value out", event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                continue  # refused below
            if key in lines:
                raise _wrong(f"the key {key!r} stands twice, first in line {lines[key]}", key_node)
            lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            raise _wrong("an escape stands for half a character (a lone surrogate)", node)
        return value


def _wrong(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        YamlError: it is not valid, or holds an alias, a key twice or a lone surrogate.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        raise YamlError(f"{line}{error.problem or error.context}") from None
    except RecursionError:
        raise YamlError("nested too deeply") from None
    # A value that does not fit its explicit tag, as in `!!int x`, makes PyYAML trip over itself.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise YamlError((str(error).splitlines() or [type(error).__name__])[0]) from None


def read_mapping(path: Path, source: str) -> dict[Any, Any]:
    """The mapping that a YAML file holds; an empty file holds an empty one.

    Args:
        path: the file.
        source: what messages call it.

    Raises:
        BadInput: the file cannot be read, or is not YAML, or holds something else.
    """
    try:
        raw = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{source}: cannot be read ({error})") from None
    except YamlError as error:
        raise BadInput(f"{source}: not valid YAML ({error})") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        kind = {"list": "a list", "str": "text"}.get(type(raw).__name__, type(raw).__name__)
        raise BadInput(f"{source}: holds {kind}; it must be a mapping of keys to values")
    return raw
