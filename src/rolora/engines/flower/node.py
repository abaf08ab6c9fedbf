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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.run import RunNotRunningException
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from rolora.engines.flower import payload
from rolora.engines.flower.bound import end_with_parent
from rolora.engines.flower.worker import WorkerError, ask

MIN_POLL_S, MAX_POLL_S = 0.1, 3.0
_BACKOFF_S = 0.05

log = logging.getLogger("rolora.node")  # the module is run as __main__


class Node:
    """Connected to a SuperLink as `client`; `connection` is what Flower's connection yields."""

    def __init__(self, connection: tuple[Any, ...], client: int, worker: Path):
        self.id, self._receive, self._send, _, _, self._pull, self._push, self._confirm = connection
        self._client, self._worker = client, worker

    def serve(self) -> None:
        """Answer messages until the process is ended."""
        idle_since = time.monotonic()
        while True:
            asked = time.monotonic()
            try:
                worked = self._answer_one()
            except RunNotRunningException:  # the run ended meanwhile: nobody waits for the answer
                worked = True
            now = time.monotonic()
            if worked:
                idle_since = now
            else:
                # A tenth of the wait so far is added to it at most, and a server that is slow to
                # say that there is nothing is asked less often.
                pause = max(0.1 * (now - idle_since), 10 * (now - asked))
                time.sleep(min(max(pause, MIN_POLL_S), MAX_POLL_S))

    def _answer_one(self) -> bool:
        received = self._receive()
        if received is None:
            return False
        header, tree = received
        run = header.metadata.run_id
        message = pull_and_inflate_object_from_tree(
            tree,
            partial(self._pull, run),
            partial(self._confirm, run),
            return_type=Message,
            initial_backoff=_BACKOFF_S,
        )
        message.metadata.__dict__["_message_id"] = tree.object_id
        start = time.monotonic()
        self._reply(self._carry_out(message), time.monotonic() - start)
        return True

    def _carry_out(self, message: Message) -> Message:
        try:
            answer = ask(self._worker, payload.unpack(message.content))
        except (WorkerError, ValueError) as error:
            log.warning("message %s: %s", message.metadata.message_id[:8], error)
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code=code, reason=str(error)), reply_to=message)
        return Message(payload.pack(answer, client=self._client), reply_to=message)

    def _reply(self, reply: Message, seconds: float) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            objects = get_all_nested_objects(reply)
            wanted, session = self._send(reply, get_object_tree(reply), seconds)
            push: Callable[[str, bytes], None] = partial(self._push, reply.metadata.run_id, session)
            push_objects(objects, push, object_ids_to_push=wanted)


def main() -> None:
    """Connect and serve until SIGINT or SIGTERM; Flower reports a refused connection as 305."""
    arguments = _parser().parse_args()
    logging.getLogger("rolora").setLevel(logging.INFO)
    logging.getLogger("rolora").addHandler(logging.StreamHandler(sys.stdout))
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: sys.exit(0))  # unwinds, so that the node signs off
    end_with_parent()
    keys = _keys(arguments.node_key)
    if keys is not None and arguments.session.exists():
        _end_session(arguments, keys)
    with http_request_response(
        arguments.superlink,
        insecure=arguments.insecure,
        root_certificates=arguments.root_certificates,
        authentication_keys=keys,
    ) as connection:
        node = Node(connection, arguments.client, arguments.worker)
        log.info("node %s serves client %s", node.id, arguments.client)
        arguments.session.write_text(str(node.id))
        node.serve()


def _keys(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        private = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        sys.exit(f"Exit Code: 302\nthe key {path} cannot be used: {error}")
    return private, private.public_key()


def _end_session(arguments: argparse.Namespace, keys: Any) -> None:
    """Sign off the node that last used this key and died, or the SuperLink, which takes it for
    alive until a minute has passed without heartbeat, would refuse a second one.
    """
    with (
        contextlib.suppress(httpx.HTTPError, ValueError),
        FleetHttpClient.from_server_address(
            arguments.superlink,
            arguments.insecure,
            arguments.root_certificates,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(*keys),
            ],
        ) as client,
    ):
        node = int(arguments.session.read_text())
        client.DeactivateNode(DeactivateNodeRequest(node_id=node))


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
