"""The long-lived worker of a site: it holds the model and answers requests over a Unix socket.

Whoever receives a message for the site forwards its bytes here, so that the model is loaded once
and stays loaded, whatever becomes of the process that carried the message.

On the socket a message is one status byte, the number of frames, the length of each frame, then
the frames; one request and one answer per connection.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rolora.core.errors import BadInput
from rolora.engines.flower.told import WHY, Declined, reason_of

Frames = Sequence[bytes]
"""A payload: a few opaque byte strings."""

Handler = Callable[[Frames], Frames]

OK, FAILED = 0, 1
_MAX_FRAMES = 1024

log = logging.getLogger(__name__)


class WorkerError(Exception):
    """The worker could not be reached, or its handler raised; `reason` is one of
    :data:`rolora.engines.flower.told.WHY`.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(detail or WHY[reason])
        self.reason = reason


class Worker:
    """Serves one request at a time on a socket in a private directory.

    Args:
        handle: called with the frames of a request, returns those of the answer. What it raises is
            logged here, and the caller is told the kind of it alone; the worker goes on.
    """

    def __init__(self, handle: Handler):
        self._handle = handle
        self._directory = tempfile.mkdtemp(prefix="rolora-")  # mode 0700
        self.path = Path(self._directory) / "worker.sock"
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen(16)

    def run(self) -> None:
        """Serve until :meth:`close` is called from another thread or an exception such as
        KeyboardInterrupt ends it.
        """
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            # A caller that died while we worked is no reason to stop.
            with connection, contextlib.suppress(ConnectionError, EOFError):
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        _, request = _receive(connection)
        try:
            answer = self._handle(request)
        except Exception as error:
            reason = reason_of(error)
            if isinstance(error, Declined | BadInput):
                log.warning("%s: %s", reason, error)
            else:
                log.exception("the request failed")
            _send(connection, FAILED, [reason.encode()])
        else:
            _send(connection, OK, answer)

    def close(self) -> None:
        """Stop serving and remove the socket and its directory."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(path: str | Path, request: Frames) -> list[bytes]:
    """Send `request` to the worker at `path` and wait for its answer.

    Raises:
        WorkerError: nobody listens there, the worker died meanwhile, or its handler raised.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
            _send(connection, OK, request)
            status, answer = _receive(connection)
        except (OSError, EOFError) as error:
            detail = f"the site's worker does not answer ({error})"
            raise WorkerError("site_away", detail) from None
    if status != OK:
        raise WorkerError(answer[0].decode())
    return answer


def _send(connection: socket.socket, status: int, frames: Frames) -> None:
    lengths = [len(frame) for frame in frames]
    connection.sendall(struct.pack(f"!BI{len(frames)}Q", status, len(frames), *lengths))
    for frame in frames:
        if frame:  # of an empty one nobody reads: who has all the others may have hung up
            connection.sendall(frame)


def _receive(connection: socket.socket) -> tuple[int, list[bytes]]:
    status, count = struct.unpack("!BI", _read(connection, 5))
    if count > _MAX_FRAMES:
        raise EOFError(f"a message of {count} frames")
    lengths = struct.unpack(f"!{count}Q", _read(connection, 8 * count))
    return status, [_read(connection, length) for length in lengths]


def _read(connection: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    view, done = memoryview(buffer), 0
    while done < size:
        received = connection.recv_into(view[done:])
        if received == 0:
            raise EOFError("connection closed in the middle of a message")
        done += received
    return bytes(buffer)
