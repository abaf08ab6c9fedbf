"""The live page's server: on loopback, until it is told to end."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from rolora.core.errors import BadInput
from rolora.watch.looks import Runs

PORT = 6160
TRIED = 50
"""Ports from :data:`PORT` on, of which the first free one is taken."""


def serve(paths: Sequence[Path], port: int | None, notice: Callable[[str], None]) -> None:
    """Serve the page over the runs in `paths` until a signal ends it.

    Args:
        paths: run directories, or directories that hold some.
        port: on 127.0.0.1 and ::1; None: the first free one from :data:`PORT` on.
        notice: told of the page's address.

    Raises:
        BadInput: the extra ``rolora[watch]`` is not installed, a path holds no run, or the port is
            taken.
    """
    try:
        import uvicorn

        from rolora.watch.app import make_app
    except ImportError:
        raise BadInput(
            "rolora watch: Starlette and uvicorn are not installed; pip install 'rolora[watch]'"
        ) from None
    app = make_app(Runs(paths))
    sockets = listen(port) if port else first_free(notice)
    notice(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/ (Ctrl-C ends it)")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets)


def first_free(notice: Callable[[str], None]) -> list[socket.socket]:
    """Listen on the first free port from :data:`PORT` on, and say so where it is another.

    Raises:
        BadInput: none of :data:`TRIED` is free.
    """
    for port in range(PORT, PORT + TRIED):
        try:
            found = listen(port)
        except BadInput:
            continue
        if port != PORT:
            notice(f"port {PORT} is taken; {port} is free")
        return found
    raise BadInput(f"--port: {PORT} to {PORT + TRIED - 1} are all taken; name a free one")


def listen(port: int) -> list[socket.socket]:
    """Sockets of 127.0.0.1 and, where the machine has it, ::1.

    Raises:
        BadInput: another program has the port.
    """
    bound: list[socket.socket] = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            bound.append(_bound(family, address, port))
        except OSError as error:
            if bound and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a machine without IPv6
            for other in bound:
                other.close()
            raise BadInput(
                f"--port {port}: {address} cannot be bound ({error.strerror}); name a free one, "
                "or leave --port out"
            ) from None
    return bound


def _bound(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # one that has just ended does not keep the port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.listen()
    except OSError:
        made.close()
        raise
    return made
