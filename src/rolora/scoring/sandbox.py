"""A box for programs that a model wrote: no network, no files but Python's, limits on everything.

On Linux it is made of namespaces, by ``unshare`` and ``setpriv`` of util-linux, as an ordinary user
may make them; a run as root becomes the user nobody first. Every program has a process, a process
table, a file system and a ``/tmp`` of its own, which end with it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO

from rolora.core.errors import BadInput

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null")
"""What a program sees of the machine, beside Python's own directories."""
NAMESPACES = tuple(
    f"--{kind}" for kind in ("user", "map-root-user", "mount", "pid", "net", "ipc", "uts")
)
ISOLATED, UNCONFINED = "isolated", "unconfined"
_INSIDE = files("rolora.scoring").joinpath("boxed.py").read_text(encoding="utf-8")
_PROBE = """\
import os, socket
assert {name for _, name in socket.if_nameindex()} <= {"lo"}, "it sees a network"
assert not [path for path in HIDDEN if os.path.exists(path)], "it sees the machine's files"
try:
    assert not os.listdir(HOME), "it sees the home directory"
except OSError:
    pass
assert os.getpid() == 1, "it sees other processes"
open("/tmp/file", "w").close()
"""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Args:
        seconds: of time on a clock, and of a processor by each process.
        memory_mb: of address space, by each process.
        processes: and threads, at the same time.
        file_mb: of each file, and of all of them together.
    """

    seconds: int = 5
    memory_mb: int = 1024
    processes: int = 8
    file_mb: int = 16

    def as_resources(self, confined: bool) -> dict[str, int]:
        """By their names in :mod:`resource`. Outside the box the user's other processes would count
        as the program's, so that their number is not limited.
        """
        limits = {
            "AS": self.memory_mb * 2**20,
            "CPU": self.seconds,
            "FSIZE": self.file_mb * 2**20,
            "NOFILE": 64,
            "CORE": 0,
        }
        return limits | ({"NPROC": self.processes} if confined else {})


class Sandbox:
    """Runs programs; made by :func:`sandbox`.

    Args:
        room: an empty directory, which the box is mounted on.
        limits: of each program.
        isolation: ``isolated`` or ``unconfined``.
    """

    def __init__(self, room: Path, limits: Limits, isolation: str):
        self.room, self.limits, self.isolation = room, limits, isolation

    def passes(self, program: str) -> bool:
        """Whether a program runs to its end within the limits, without an exception or an exit."""
        return self.run(program)[0]

    def passing(self, programs: Sequence[str]) -> list[bool]:
        """The same of several, a few at the same time."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self.passes, programs))

    def run(self, program: str) -> tuple[bool, str]:
        """Whether a program passes, and what the box itself said where it could not be made."""
        word = secrets.token_hex(16)  # an exit code alone could be a program's that left early
        source = f"{word}\n{program}".encode("utf-8", "surrogateescape")
        with tempfile.TemporaryFile() as given, self._directory() as directory:
            given.write(source)
            given.seek(0)
            try:
                process = subprocess.Popen(
                    self._command(),
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=directory,
                    env=_environment(directory),
                    start_new_session=True,
                )
            except OSError as error:
                return False, str(error)
            with process:
                return self._outcome(process, word)

    def _outcome(self, process: subprocess.Popen[bytes], word: str) -> tuple[bool, str]:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.wait(self.limits.seconds)
        except subprocess.TimeoutExpired:
            return False, f"no end after {self.limits.seconds} seconds"
        finally:  # with its group whatever it started ends as well
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said, complaint = _held(process.stdout, 64), _held(process.stderr, 2000)
        return process.returncode == 0 and said == word, complaint.strip()

    def _command(self) -> list[str]:
        confined = self.isolation == ISOLATED
        limits = json.dumps(self.limits.as_resources(confined))
        inside = [sys.executable, "-I", "-c", _INSIDE, limits]
        if not confined:
            return inside
        paths = [*SYSTEM, *_pythons()]
        box = [*_script("enclose"), str(self.room), str(self.limits.file_mb), *paths, "--", *inside]
        return [*_ordinary(self.room), "unshare", *NAMESPACES, "--fork", "--kill-child", *box]

    @contextmanager
    def _directory(self) -> Iterator[str]:
        """Where a program starts: outside a box a directory that is thrown away."""
        if self.isolation == ISOLATED:
            yield "/"
            return
        path = tempfile.mkdtemp(dir=self.room)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def sandbox(limits: Limits = Limits(), unconfined: bool = False) -> Iterator[Sandbox]:
    """A box, tried before it is used.

    Args:
        limits: of each program.
        unconfined: where no box can be had, run programs as this user in a plain directory, under
            limits of time, memory and file size alone.

    Raises:
        BadInput: no box can be had here, and `unconfined` is not set.
    """
    with tempfile.TemporaryDirectory(prefix="rolora-box-") as name:
        room = Path(name)
        room.chmod(0o755)  # nobody has to enter it
        for part in ("root", "seen"):
            (room / part).mkdir(mode=0o755)
        box = Sandbox(room, limits, ISOLATED)
        sound, why = box.run(
            f"HIDDEN, HOME = {[name, *_private()]!r}, {str(Path.home())!r}\n{_PROBE}"
        )
        if not sound and not unconfined:
            said = why.splitlines()[-1][:200] if why else "what is tried inside sees too much"
            raise BadInput(
                f"--allow-code: code cannot be isolated here ({said}); it takes Linux with user "
                "namespaces and util-linux (unshare, setpriv), and a Python that every user can "
                "read; --unconfined runs it as you, with all that you may do, under limits alone"
            )
        yield box if sound else Sandbox(room, limits, UNCONFINED)


def _held(pipe: IO[bytes], most: int) -> str:
    """What is in a pipe, which somebody may still hold open."""
    os.set_blocking(pipe.fileno(), False)
    with suppress(BlockingIOError):
        return os.read(pipe.fileno(), most).decode(errors="replace")
    return ""


def _private() -> list[str]:
    """Some of what lies in the user's home, but the way to this Python."""
    shown = [Path(path) for path in _pythons()]
    with suppress(OSError):
        inside = sorted(Path.home().iterdir())[:20]
        return [str(p) for p in inside if not any(to.is_relative_to(p) for to in shown)]
    return []


def _ordinary(room: Path) -> list[str]:
    """What makes root an ordinary user: root of a box would be root of all that it sees."""
    if os.geteuid() != 0:
        return []
    return ["unshare", "--mount", *_script("lend"), str(room), *_pythons(), "--"]


def _script(name: str) -> list[str]:
    """A script of this package for the shell; as text, since nobody may not reach its file."""
    text = files("rolora.scoring").joinpath(f"{name}.sh").read_text(encoding="utf-8")
    return ["sh", "-c", text, name]


def _pythons() -> list[str]:
    """Where this Python lies, each directory once, the outer before the inner."""
    found = sorted({sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix})
    return [path for path in found if not Path(path).is_relative_to("/usr")]


def _environment(directory: str) -> dict[str, str]:
    """The variables of a program: none of this process's."""
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp" if directory == "/" else directory,
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
