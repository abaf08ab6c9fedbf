"""Flower's SuperLink as an application, and what of its nodes reaches it."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from rolora.engines.flower.compat import known_flower
from rolora.engines.flower.quota import Answer, Asked, OverQuota, Quota

with known_flower():
    from flwr.proto.fleet_pb2 import PushMessagesRequest
    from flwr.proto.message_pb2 import (
        ConfirmMessageReceivedRequest,
        ObjectTree,
        PullObjectRequest,
        PushObjectRequest,
    )
    from flwr.server.superlink.linkstate import LinkState
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.dependencies.runtime import get_runtime_state
    from flwr.supercore.http_logging import get_uvicorn_log_config
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
    from flwr.supercore.logger import console_handler
    from flwr.supercore.utils import int64_to_uint64
    from flwr.superlink.cli.flower_superlink import (
        SuperLinkLifespan,
        _parse_superlink_lifespan_config,
    )
    from flwr.superlink.dependencies.linkstate import get_linkstate
    from flwr.superlink.main import create_app

TOO_LARGE = 413
"""The HTTP status of what is over a quota."""

log = logging.getLogger("rolora.superlink")


def superlink_of_command_line() -> tuple[FastAPI, dict[str, Any]]:
    """The SuperLink for this program's command line, which has the options of
    ``flower-superlink``, and how uvicorn is to serve it.
    """
    config = _parse_superlink_lifespan_config()
    serving = {
        "host": config.host,
        "port": config.port,
        "log_config": get_uvicorn_log_config(console_handler.level),
        "ssl_keyfile": config.ssl_keyfile,
        "ssl_certfile": config.ssl_certfile,
    }
    return create_app(config, SuperLinkLifespan), serving


def bounded(app: FastAPI, quota: Quota) -> FastAPI:
    """The SuperLink with a quota for each node.

    Every handler of Flower's depends on the state that is asked for here, after the node that sends
    a request was authenticated and before anything of it is stored.
    """

    def of_nodes(request: Request) -> LinkState:
        state = get_linkstate(request)
        sent: Any = getattr(request.state, "protobuf_request", None)
        try:
            if isinstance(sent, PushMessagesRequest):
                answer, asked = _announced(state, sent)
                for root in quota.announce(sent.node.node_id, answer, asked):
                    state.object_store.delete(root)
            elif isinstance(sent, PushObjectRequest):
                quota.push(sent.node.node_id, sent.object_id, len(sent.object_content))
        except OverQuota as error:
            log.warning("node %s: %s", sent.node.node_id, error)
            if error.root:  # only its name is kept, for the run to ask about
                state.object_store.delete(error.root)
                state.object_store.preregister(sent.run_id, ObjectTree(object_id=error.root))
            raise HTTPException(TOO_LARGE, "over quota") from None
        return state

    def of_runs(request: Request) -> Any:
        state = get_runtime_state(request)
        sent: Any = getattr(request.state, "protobuf_request", None)
        if (
            isinstance(sent, PullObjectRequest)
            and quota.was_refused(sent.object_id)
            and not state.object_store.get(sent.object_id)
        ):
            raise HTTPException(TOO_LARGE, "over quota")
        if isinstance(sent, ConfirmMessageReceivedRequest):
            quota.taken(sent.message_object_id)
        return state

    app.dependency_overrides |= {get_linkstate: of_nodes, get_runtime_state: of_runs}
    return app


def _announced(state: LinkState, sent: PushMessagesRequest) -> tuple[Answer, Asked | None]:
    """The answer that a node announces, and what it was asked.

    Raises:
        OverQuota: it is no answer of this node's.
    """
    if len(sent.messages_list) != 1 or len(sent.message_object_trees) != 1:
        raise OverQuota("not one message")
    told, tree = sent.messages_list[0].metadata, sent.message_object_trees[0]
    if told.src_node_id != sent.node.node_id or not told.reply_to_message_id:
        raise OverQuota("a message that is no answer, or in another's name")
    if told.message_id != tree.object_id:
        raise OverQuota("a message of another's objects")
    objects = frozenset(node.object_id for node in iterate_object_tree(tree))
    answer = Answer(told.run_id, told.reply_to_message_id, tree.object_id, objects)
    return answer, _asked(state, told.reply_to_message_id)


def _asked(state: LinkState, name: str) -> Asked | None:
    """The request of that id, while it waits for its answer."""
    if isinstance(state, SqlLinkState):
        row = state.get_valid_message_ins(name)
        return row and Asked(int64_to_uint64(row["dst_node_id"]), _bytes(row["group_id"]))
    found = state.message_ins_store.get(name)
    return found and Asked(found.metadata.dst_node_id, _bytes(found.metadata.group_id))


def _bytes(group: str) -> int:
    """What :class:`rolora.engines.flower.transport.FlowerTransport` says in a message's group."""
    return int(group) if group.isdecimal() else 0
