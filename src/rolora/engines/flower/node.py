"""A Flower node that hands every message straight to the site's worker.

It speaks Flower's Fleet API as ``flower-supernode`` does, with the same registration, heartbeat,
TLS and node authentication, and differs in two things. It looks for work often while a round is
likely, where a SuperNode sleeps three seconds, and it starts no process for a message. And it runs
none of the code that comes with a run: a site executes what is installed there, nothing else.

Run as a program: ``python -m rolora.engines.flower.node --help``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from rolora.core.errors import BadInput
from rolora.engines.flower import payload
from rolora.engines.flower.bound import end_with_parent
from rolora.engines.flower.client_app import carried
from rolora.engines.flower.compat import UNKNOWN_FLOWER
from rolora.engines.flower.worker import WorkerError

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

    from rolora.engines.flower.compat.node import Keys, NodeConnection, Server

MIN_POLL_S, MAX_POLL_S = 0.1, 3.0

log = logging.getLogger("rolora.node")  # the module is run as __main__


class Node:
    """Answers what comes over `connection` as `client`, with the help of the worker there."""

    def __init__(self, connection: NodeConnection, client: int, worker: Path):
        self._connection, self._client, self._worker = connection, client, worker

    def serve(self) -> None:
        """Answer messages until the process is ended."""
        idle_since = time.monotonic()
        while True:
            asked = time.monotonic()
            worked = self._connection.answer_one(self._carry_out)
            now = time.monotonic()
            if worked:
                idle_since = now
            else:
                # A tenth of the wait so far is added to it at most, and a server that is slow to
                # say that there is nothing is asked less often.
                pause = max(0.1 * (now - idle_since), 10 * (now - asked))
                time.sleep(min(max(pause, MIN_POLL_S), MAX_POLL_S))

    def _carry_out(self, message: Message) -> RecordDict | str:
        try:
            return payload.pack(carried(message, self._worker), client=self._client)
        except WorkerError as error:
            log.warning("message %s: %s", message.metadata.message_id[:8], error)
            return error.reason


def main() -> None:
    """Connect and serve until SIGINT or SIGTERM; Flower reports a refused connection as 305."""
    arguments = _parser().parse_args()
    logging.getLogger("rolora").setLevel(logging.INFO)
    logging.getLogger("rolora").addHandler(logging.StreamHandler(sys.stdout))
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: sys.exit(0))  # unwinds, so that the node signs off
    end_with_parent()
    try:
        from rolora.engines.flower.compat.node import Server, node_connection
    except BadInput as error:
        sys.exit(f"Exit Code: {UNKNOWN_FLOWER}\n{error}")
    keys = _keys(arguments.node_key)
    server = Server(arguments.superlink, arguments.insecure, arguments.root_certificates, keys)
    if arguments.session.exists():
        _end_session(arguments.session, server)
    with node_connection(server) as connection:
        log.info("node %s serves client %s", connection.node, arguments.client)
        arguments.session.write_text(str(connection.node))
        Node(connection, arguments.client, arguments.worker).serve()


def _keys(path: Path | None) -> Keys | None:
    if path is None:
        return None
    try:
        private = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        sys.exit(f"Exit Code: 302\nthe key {path} cannot be used: {error}")
    return private, private.public_key()


def _end_session(session: Path, server: Server) -> None:
    """Sign off the node that last used this key and died, or the SuperLink, which takes it for
    alive until a minute has passed without heartbeat, would refuse a second one.
    """
    from rolora.engines.flower.compat.node import sign_off

    with contextlib.suppress(ValueError):
        sign_off(int(session.read_text()), server)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rolora.engines.flower.node", description=__doc__)
    parser.add_argument("--superlink", required=True, help="host:port")
    parser.add_argument("--client", type=int, required=True, help="the client's id")
    parser.add_argument("--worker", type=Path, required=True, help="the worker's socket")
    parser.add_argument("--session", type=Path, required=True, help="file for the node's id")
    parser.add_argument("--insecure", action="store_true", help="no TLS, no authentication")
    parser.add_argument("--root-certificates", help="the authority's certificate")
    parser.add_argument("--node-key", type=Path, help="the site's private key (OpenSSH, P-384)")
    return parser


if __name__ == "__main__":
    main()
