"""The SuperLink's answers object by object: it announces an answer before all of it has come."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

import httpx
from flwr.app import Error
from flwr.serverapp import Grid

from rolora.engines.flower.compat import known_flower
from rolora.engines.flower.told import WHY

with known_flower():
    from flwr.common.constant import ErrorCode
    from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
    from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
    from flwr.supercore.inflatable.inflatable_utils import (
        ObjectPullError,
        ObjectUnavailableError,
        inflate_object_from_contents,
    )
    from flwr.superlink.grid import HttpGrid

NetworkGrid: TypeAlias = HttpGrid
"""The grid of :func:`rolora.engines.flower.compat.run.driven_run`; a simulation's is another."""

_REASONS = {
    ErrorCode.MESSAGE_UNAVAILABLE: "expired",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "expired",
    ErrorCode.NODE_UNAVAILABLE: "node_lost",
    ErrorCode.CLIENT_APP_CRASHED: "client_crashed",
}


class Lost(Exception):  # noqa: N818
    """A part of an answer that will not come any more."""


class OverQuota(Exception):  # noqa: N818
    """An answer that the SuperLink did not take, as it is larger than was asked for."""


@dataclass(frozen=True)
class Announced:
    """An answer on its way: the id of the message that it answers, its own, and its objects'."""

    sent: str
    head: str
    objects: list[str]


def is_networked(grid: Grid) -> bool:
    """Whether `grid` hands answers out object by object; a simulation's hands them out whole."""
    return isinstance(grid, HttpGrid)


def announced(grid: NetworkGrid, sent: Collection[str]) -> list[Announced]:
    """The answers to these messages that were not announced before."""
    found = grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=sent))
    return [
        Announced(
            sent=header.metadata.reply_to_message_id,
            head=tree.object_id,
            objects=list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree))),
        )
        for header, tree in zip(found.messages_list, found.message_object_trees, strict=True)
    ]


def fetch(grid: NetworkGrid, name: str) -> bytes | None:
    """The object of that id, or None while it is not there yet.

    Raises:
        Lost: it will not come any more.
        OverQuota: the SuperLink refused it.
    """
    pull = make_pull_object_fn_protobuf(grid._runtime_client.PullObject, grid.node, grid.run.run_id)
    try:
        content: bytes = pull(name)
    except ObjectUnavailableError:
        return None
    except ObjectPullError as error:
        raise Lost(str(error)) from None
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise
        raise OverQuota from None
    return content


def confirm(grid: NetworkGrid, head: str) -> None:
    """Tell the SuperLink that the whole of an answer was fetched, so that it may forget it."""
    grid._runtime_client.ConfirmMessageReceived(
        ConfirmMessageReceivedRequest(
            node=grid.node, run_id=grid.run.run_id, message_object_id=head
        )
    )


def assembled(head: str, contents: dict[str, bytes]) -> object:
    """The answer that these objects make, which are taken out of `contents`: a Message, or whatever
    its sender made up. Objects that do not fit together end in any exception.
    """
    made: object = inflate_object_from_contents(head, contents)
    return made


def failure_reason(error: Error) -> str:
    """The `reason` of a :class:`rolora.engines.flower.results.NodeError` for an error answer; its
    own words are taken where they are one of :data:`rolora.engines.flower.told.WHY`.
    """
    if error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION:
        return error.reason if error.reason in WHY else "client_error"
    return _REASONS.get(error.code, "flower")
