"""Finished parts of an experiment, kept as files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rolora.records.atomic import write_atomic


class Cells:
    """Finished parts of an experiment, one JSON file each: a cell that is there is not run again.

    Args:
        directory: made where it is not there.
        say: told in words of cells reused and of damaged files.
    """

    def __init__(self, directory: Path, say: Callable[[str], None] = lambda _: None):
        self.directory, self.say = directory, say
        directory.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, settings: Mapping[str, Any], function: Callable[[], Any]) -> Any:
        """The result of `function`, from its file where that is whole and of these settings.

        Args:
            name: for people; the file's name with a hash of name and settings.
            settings: JSON-able; everything that the result depends on.
            function: returns something JSON-able; floats come back bit for bit.
        """
        path = self.path(name, settings)
        try:
            result = _read_cell(path)
        except FileNotFoundError:
            pass
        except ValueError as error:
            self.say(f"cell {path.name}: {error}; it is run again")
        else:
            self.say(f"cell {name}: finished before")
            return result
        result = function()
        body = {"name": name, "settings": settings, "result": result}
        write_atomic(path, json.dumps({**body, "sha256": _digest(body)}, indent=1) + "\n")
        return _read_cell(path)

    def kept(self, name: str, settings: Mapping[str, Any]) -> Any:
        """The result of a finished cell; None where there is none, or none that is whole."""
        try:
            return _read_cell(self.path(name, settings))
        except (FileNotFoundError, ValueError):
            return None

    def finished(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether the cell is there and whole; a damaged one is told of."""
        path = self.path(name, settings)
        try:
            _read_cell(path)
        except FileNotFoundError:
            return False
        except ValueError as error:
            self.say(f"cell {path.name}: {error}; it is run again")
            return False
        return True

    def path(self, name: str, settings: Mapping[str, Any]) -> Path:
        """Where the cell lies."""
        key = _digest({"name": name, "settings": settings})[:12]
        return self.directory / f"{re.sub(r'[^A-Za-z0-9.=+-]+', '_', name)}-{key}.json"


def _read_cell(path: Path) -> Any:
    """The result in a cell file; ValueError with what is wrong with it."""
    text = path.read_bytes()
    try:
        cell = json.loads(text)
        body = {key: cell[key] for key in ("name", "settings", "result")}
        whole = cell["sha256"] == _digest(body)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("damaged (not a whole cell file)") from None
    if not whole:
        raise ValueError("damaged (its checksum does not match)")
    return cell["result"]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
