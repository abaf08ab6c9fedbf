"""To be a node of a SuperLink without Flower's SuperNode: its Fleet API."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import httpx
from flwr.app import Error, Message, RecordDict

from rolora.engines.flower.compat import known_flower

with known_flower():
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

_BACKOFF_S = 0.05

log = logging.getLogger("rolora.node")

Keys: TypeAlias = tuple[Any, Any]
"""A node's private key and its public one, on the curve P-384."""


class Server(NamedTuple):
    """How a node reaches its SuperLink.

    `address` is ``host:port``; `insecure` says that there is no TLS; `authority` is the file of the
    certificate that the SuperLink's is signed with; by `keys` it knows the node, and without them
    it registers a new one.
    """

    address: str
    insecure: bool
    authority: str | None
    keys: Keys | None


class NodeConnection(NamedTuple):
    """What a node does: `receive` the next message, or None where there is none; `send` the answer
    to it with the seconds that it took.
    """

    node: int
    receive: Callable[[], Message | None]
    send: Callable[[Message, float], None]

    def answer_one(self, carry_out: Callable[[Message], RecordDict | str]) -> bool:
        """Answer the next message with what `carry_out` makes of it: the content of the answer, or
        in words why there is none. Returns whether there was a message.
        """
        try:
            message = self.receive()
            if message is None:
                return False
            start = time.monotonic()
            self.send(_reply(message, carry_out(message)), time.monotonic() - start)
        except RunNotRunningException:  # the run ended meanwhile: nobody waits for the answer
            pass
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.REQUEST_ENTITY_TOO_LARGE:
                raise
            log.warning("the server does not take the answer: it is more than was asked for")
        return True


def _reply(message: Message, answer: RecordDict | str) -> Message:
    if isinstance(answer, str):
        answer = Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=answer)
    return Message(answer, reply_to=message)


@contextlib.contextmanager
def node_connection(server: Server) -> Iterator[NodeConnection]:
    """Be a node, with heartbeats, for as long as the context lasts.

    A connection that is refused ends the process; Flower prints why, with the exit code 305. An
    error within the context is logged and ends it.
    """
    with http_request_response(
        server.address,
        insecure=server.insecure,
        root_certificates=server.authority,
        authentication_keys=server.keys,
    ) as (node, announced, announce, _, _, pull, push, confirm):

        def receive() -> Message | None:
            found = announced()
            if found is None:
                return None
            header, tree = found
            run = header.metadata.run_id
            message = pull_and_inflate_object_from_tree(
                tree,
                partial(pull, run),
                partial(confirm, run),
                return_type=Message,
                initial_backoff=_BACKOFF_S,
            )
            message.metadata.__dict__["_message_id"] = tree.object_id
            return message

        def send(reply: Message, seconds: float) -> None:
            reply.metadata.__dict__["_message_id"] = reply.object_id
            with no_object_id_recompute():
                objects = get_all_nested_objects(reply)
                wanted, session = announce(reply, get_object_tree(reply), seconds)
                to = partial(push, reply.metadata.run_id, session)
                push_objects(objects, to, object_ids_to_push=wanted)

        yield NodeConnection(node, receive, send)


def sign_off(node: int, server: Server) -> None:
    """Have the SuperLink take `node`, which died, for gone, if it can be reached."""
    if server.keys is None:  # it was registered for that once
        return
    interceptors = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(*server.keys),
    ]
    with (
        contextlib.suppress(httpx.HTTPError),
        FleetHttpClient.from_server_address(
            server.address, server.insecure, server.authority, interceptors=interceptors
        ) as client,
    ):
        client.DeactivateNode(DeactivateNodeRequest(node_id=node))
