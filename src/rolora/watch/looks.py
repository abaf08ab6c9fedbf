"""Run directories as they lie on disk now: which there are, and how far each is."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rolora.core.errors import BadInput
from rolora.records.files import RunFiles, read_run
from rolora.records.lock import is_held
from rolora.records.units import THIN, count, duration

FILES = ("config.yaml", "start.json", "metrics.jsonl", "summary.json")
DEPTH = 3
"""Of runs below a directory that holds some: ``runs/NAME-compare/METHOD/seed-N``."""
LAST = 10
"""Rounds, by which is guessed how long the others take."""

Stamp = tuple[tuple[int, int, int] | None, ...]
"""Of each of :data:`FILES` when it was written, its size and its place; None: there is none."""


@dataclass(frozen=True)
class Look:
    """One run, as it was when somebody looked.

    Args:
        name: by which the page calls it.
        files: what was read; None where there is nothing to read, or it is damaged.
        state: ``preparing``, ``waiting``, ``running``, ``stopped``, ``finished``, ``gone`` or
            ``damaged``.
        words: the state, in words.
        stamp: differs where the files do.
    """

    name: str
    files: RunFiles | None
    state: str
    words: str
    stamp: Stamp

    @property
    def changed(self) -> int:
        """When a file of it was last written."""
        return max((at for at, _, _ in filter(None, self.stamp)), default=0)


class Runs:
    """The runs in `paths`: each a run, or a directory that holds runs.

    A run once seen keeps its place, whatever comes and goes beside it.

    Raises:
        BadInput: one of them is no directory, or holds no run and nobody is about to write one.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths
        self._names: dict[Path, str] = {}
        self._read: dict[Path, tuple[Stamp, RunFiles | str | None]] = {}
        for path in paths:
            if not path.is_dir():
                raise BadInput(f"RUN {path}: no such directory; name a run's, as --out did")
            if not any(_within(path, DEPTH)):
                raise BadInput(
                    f"RUN {path}: holds no run; name a run directory, or one that holds some"
                )

    def look(self) -> tuple[Look, ...]:
        """All runs as they are now."""
        for path in self.paths:
            for directory in _within(path, DEPTH):
                self._names.setdefault(directory, _name(directory, path))
        often = Counter(self._names.values())
        return tuple(
            self._look(directory, name if often[name] == 1 else str(directory))
            for directory, name in self._names.items()
        )

    def _look(self, directory: Path, name: str) -> Look:
        running, stamp = is_held(directory), _stamp(directory)  # before the files: a later change
        if directory not in self._read or self._read[directory][0] != stamp:  # is seen next time
            self._read[directory] = (stamp, _files(directory))
        found = self._read[directory][1]
        files = found if isinstance(found, RunFiles) else None
        if isinstance(found, str):
            state, words = "damaged", found
        elif files is not None:
            state, words = _progress(files, running)
            words += ", collapsed" if _collapsed(files) else ""
        elif running:
            state, words = "preparing", "reading model and data"
        else:
            state, words = "gone", "its directory holds no run any more"
        return Look(name, files, state, words, stamp)


def _within(path: Path, depth: int) -> Iterator[Path]:
    """The runs in `path`, or `path` itself; nothing below a run is looked at."""
    if (path / "config.yaml").is_file() or is_held(path):
        yield path
        return
    try:
        below = [entry for entry in path.iterdir() if depth and entry.is_dir()]
    except OSError:  # gone, or not ours to read
        return
    for entry in sorted(below, key=_natural):
        yield from _within(entry, depth - 1)


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts ``seed-10`` behind ``seed-9``."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _name(directory: Path, path: Path) -> str:
    """What a run is called that was found in `path`."""
    return directory.relative_to(path).as_posix() if directory != path else path.resolve().name


def _stamp(directory: Path) -> Stamp:
    return tuple(_stamped(directory / name) for name in FILES)


def _stamped(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _files(directory: Path) -> RunFiles | str | None:
    """What the directory holds; None where there is no run, or a sentence on why it is not read."""
    if not (directory / "config.yaml").is_file():
        return None
    try:
        return read_run(directory)
    except (BadInput, OSError) as error:  # a file may go between being found and being read
        return str(error).replace(f"{directory}{os.sep}", "")


def _progress(files: RunFiles, running: bool) -> tuple[str, str]:
    """The state of a run that was read, and the words for it."""
    done, planned = len(files.rounds), files.config.rounds
    if files.summary is not None:
        return "finished", f"in {duration(files.total_seconds)}"
    if not running:
        return "stopped", f"after round {count(done)}" if done else "before round 1"
    if not done:
        return "waiting", "for round 1"
    if done >= planned:
        return "running", "the test"
    last = files.rounds[-LAST:]
    left = (planned - done) * sum(record.total_seconds for record in last) / len(last)
    return "running", f"for about {_about(left)} more"


def _collapsed(files: RunFiles) -> bool:
    """Whether one label alone was predicted when the model was last looked at."""
    looked = [record for record in files.rounds if record.validation]
    return bool(looked) and looked[-1].collapsed is not None


def _about(seconds: float) -> str:
    """A guess at a time, without decimals."""
    return duration(seconds) if seconds >= 100 else f"{max(1, round(seconds))}{THIN}s"
