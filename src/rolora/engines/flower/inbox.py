"""Taking answers from the SuperLink without waiting for those still on their way."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from flwr.app import Message
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.superlink.grid import HttpGrid


@dataclass(frozen=True)
class Unreadable:
    """An answer that cannot be taken: ``too_large``, ``incomplete`` or ``malformed``, and
    how so.
    """

    reason: str
    detail: str


Answer: TypeAlias = "Message | Unreadable"


@dataclass
class _Arriving:
    """An answer whose objects are being fetched."""

    sent: str
    head: str
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    size: int = 0


class Inbox:
    """The answers to messages sent through `grid`.

    ``Grid.pull_messages`` fetches an announced answer to its end: a second's pause whenever a part
    is not uploaded yet, and up to three minutes if its sender died in the middle, with every other
    answer waiting behind it. Here an unfinished answer is set aside until the next look.

    Args:
        grid: the grid of a ServerApp; the one of Flower's simulation is simply asked.
        max_bytes: a larger answer is given up, so that it cannot fill the server's memory.
    """

    def __init__(self, grid: Grid, max_bytes: int):
        self._grid, self.max_bytes = grid, max_bytes
        self._arriving: list[_Arriving] = []

    def take(self, sent: Collection[str]) -> Iterator[tuple[str, Answer]]:
        """What has come since the last look: the id of the message sent, and its answer."""
        if not isinstance(self._grid, HttpGrid):
            for message in self._grid.pull_messages(list(sent)) if sent else ():
                yield message.metadata.reply_to_message_id, message
            return
        arriving = [answer for answer in self._arriving if answer.sent in sent]
        arriving += self._announced(self._grid, set(sent) - {answer.sent for answer in arriving})
        self._arriving = []
        for answer in arriving:
            finished = self._fetch(self._grid, answer)
            if finished is None:
                self._arriving.append(answer)
            else:
                yield answer.sent, finished

    def _announced(self, grid: HttpGrid, sent: Collection[str]) -> list[_Arriving]:
        if not sent:
            return []
        found = grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=sent))
        answers = []
        for header, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            objects = list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
            sent_id = header.metadata.reply_to_message_id
            answers.append(_Arriving(sent_id, tree.object_id, objects))
        return answers

    def _fetch(self, grid: HttpGrid, answer: _Arriving) -> Answer | None:
        """The finished answer, or None while a part of it is not there yet."""
        client, run = grid._runtime_client, grid.run.run_id
        pull = make_pull_object_fn_protobuf(client.PullObject, grid.node, run)
        while answer.missing:
            try:
                content = pull(answer.missing[-1])
            except ObjectUnavailableError:
                return None
            except ObjectPullError as error:
                return Unreadable("incomplete", str(error))
            answer.contents[answer.missing.pop()] = content
            answer.size += len(content)
            if answer.size > self.max_bytes:
                return Unreadable("too_large", f"more than {self.max_bytes} bytes")
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=grid.node, run_id=run, message_object_id=answer.head)
        )
        try:
            message = inflate_object_from_contents(answer.head, answer.contents)
        except Exception as error:  # whatever a node makes up must not end the round
            return Unreadable("malformed", f"{type(error).__name__}: {error}")
        return message if isinstance(message, Message) else Unreadable("malformed", "no message")
