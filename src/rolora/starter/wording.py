"""A config as a person would write it: sections in order, each with a line on what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import yaml

from rolora.config import Config

SECTIONS = {
    "seed": "Every random draw comes from it: the same config gives the same adapter.",
    "rounds": "RoLoRA trains and sends the factor B in odd rounds, A in even ones.",
    "model": "minilm (of rolora[demo]), a hub name or a directory; head: frozen, train or local.",
    "lora": "The adapter: rank, scale, where it sits (layers: all, 3-5 or 0,3,5).",
    "data": "The texts, and what is learned of them; path is taken from where this file lies.",
    "task": "classification, regression (with its range: [low, high]) or multilabel.",
    "partition": "How rows are dealt out to clients: field (a column of sites), iid, dirichlet, "
    "shards.",
    "federation": "Clients, how many train in a round, and the share of them that a round needs.",
    "method": "What is trained and sent: rolora, or another that `rolora methods` lists.",
    "objective": "logit_adjustment: 1 calibrates a client's loss by its own label shares.",
    "optimizer": "On the clients: steps of batch_size rows each round. Try another lr first.",
    "server": "What the mean weighs (examples, information, uniform), and what is made of it.",
    "evaluation": "Validation every so many rounds, and after the last.",
    "engine": "Where clients run: in_process (here) or flower (across machines).",
}


def worded(raw: Mapping[str, Any], head: str, notes: Mapping[str, str]) -> str:
    """The YAML of `raw` with comments.

    Args:
        raw: values by section; those of a section by key.
        head: comment at the top.
        notes: a comment by ``section.key``, written above that key.
    """
    parts = [_comment(head)]
    for name in (name for name in Config.model_fields if name in raw):
        parts.append(_comment(SECTIONS[name]) + _section(name, raw[name], notes))
    return "\n".join(parts)


def _section(name: str, value: Any, notes: Mapping[str, str]) -> str:
    if not isinstance(value, Mapping):
        return f"{name}: {_value(value)}\n"
    lines = [f"{name}:\n"]
    for key, inner in value.items():
        note = notes.get(f"{name}.{key}")
        lines += [_comment(note, "  ")] if note else []
        lines.append(f"  {key}: {_value(inner)}\n")
    return "".join(lines)


def _comment(text: str, indent: str = "") -> str:
    """Lines of comment; of what a comment may not hold, as names of columns might, a ``?``."""
    lines = [line for line in text.split("\n") for line in wrap(line, 96 - len(indent))]
    plain = ("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    return "".join(f"{indent}# {line}\n" for line in plain)


def _value(value: Any) -> str:
    """YAML in one line; what cannot be printed is escaped."""
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=str(value).isprintable(), width=10**6
    )
    return text.removesuffix("\n").removesuffix("\n...")
