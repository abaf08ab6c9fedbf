"""One process at a time writes to a directory."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from rolora.core.errors import BadInput
from rolora.records.atomic import write_atomic
from rolora.records.checkpoint import SCHEMA

LOCK, HOLDER = ".lock", ".holder.json"


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep other processes from running in `directory`, which is made if need be.

    The lock is the operating system's, which gives it back however a process ends. A directory in
    which nothing was written is removed again.

    Raises:
        BadInput: another process holds it; the message names its host and number.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BadInput(
            f"--out {directory}: {_holder(directory)} is running there; "
            "wait for it, stop it, or use another --out"
        ) from None
    try:
        holder = {"schema": SCHEMA, "host": socket.gethostname(), "pid": os.getpid()}
        write_atomic(directory / HOLDER, json.dumps(holder))
        yield
    finally:
        (directory / HOLDER).unlink(missing_ok=True)
        (directory / LOCK).unlink(missing_ok=True)  # whoever has it open already looks again
        lock.release()
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def is_held(directory: Path) -> bool:
    """Whether a process runs in `directory`, as it left word: nothing is locked to find out.

    A process that was killed leaves its word behind, so one of this host is looked for.
    """
    try:
        host, pid = _left(directory)
        if host == socket.gethostname():
            os.kill(pid, 0)
    except PermissionError:  # it is there, and another user's
        return True
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return False
    return True


def _holder(directory: Path) -> str:
    try:
        host, pid = _left(directory)
    except (OSError, ValueError, LookupError, TypeError):  # it has only just begun
        return "another process"
    return f"process {pid} on {host}"


def _left(directory: Path) -> tuple[str, int]:
    """Host and number of the process that holds `directory`."""
    holder = json.loads((directory / HOLDER).read_bytes())
    pid = int(holder["pid"])
    if pid <= 0:  # to the operating system a group of processes
        raise ValueError(pid)
    return str(holder["host"]), pid
