"""Pages as scripts: the blocks of a page of markdown, and how they are run."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shell import rolora

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A piece of a page in a language; with a title it is the file of that name."""

    language: str
    title: str | None
    text: str


def blocks(page: str, language: str | None = None) -> list[Block]:
    """The blocks of a page in order, of one language or of all."""
    found = [Block(*match.groups()) for match in BLOCK.finditer(page)]
    return [block for block in found if language in (None, block.language)]


def commands(text: str) -> list[list[str]]:
    """Every ``rolora`` line of a block of shell, without its comment, as arguments."""
    lines = [line.removeprefix(".venv/bin/") for line in text.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("rolora ")]


def script(page: str) -> Iterator[Block | list[str]]:
    """What a page does, in order: files to write, commands, and Python."""
    for block in blocks(page):
        if block.language == "sh":
            yield from commands(block.text)
        elif block.title or block.language == "python":
            yield block


def follow(page: str, said=lambda: "") -> dict:
    """Do what a page says, in the working directory; returns what its Python has left.

    Args:
        page: its markdown.
        said: what a command has printed, for the message where it fails.
    """
    names: dict = {}
    for step in script(page):
        if isinstance(step, list):
            assert rolora(*step) == 0, (step, said())
        elif step.title:
            Path(step.title).write_text(step.text)
        else:
            exec(compile(step.text, "page", "exec"), names)
    return names
