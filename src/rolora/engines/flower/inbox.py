"""Taking answers from the SuperLink without waiting for those still on their way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from flwr.app import Message
from flwr.serverapp import Grid

from rolora.engines.flower.compat import answers


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
    max_bytes: int
    contents: dict[str, bytes] = field(default_factory=dict)
    size: int = 0


class Inbox:
    """The answers to messages sent through `grid`.

    ``Grid.pull_messages`` fetches an announced answer to its end: a second's pause whenever a part
    is not uploaded yet, and up to three minutes if its sender died in the middle, with every other
    answer waiting behind it. Here an unfinished answer is set aside until the next look.

    Args:
        grid: the grid of a ServerApp; the one of Flower's simulation is simply asked.
    """

    def __init__(self, grid: Grid):
        self._grid = grid
        self._arriving: list[_Arriving] = []

    def take(self, sent: Mapping[str, int]) -> Iterator[tuple[str, Answer]]:
        """What has come since the last look: the id of the message sent, and its answer.

        Args:
            sent: the ids of messages that wait for an answer, and how many bytes it may have; one
                that is larger is given up, so that it cannot fill the server's memory.
        """
        if not answers.is_networked(self._grid):
            for message in self._grid.pull_messages(list(sent)) if sent else ():
                yield message.metadata.reply_to_message_id, message
            return
        arriving = [answer for answer in self._arriving if answer.sent in sent]
        arriving += self._announced(sent, {answer.sent for answer in arriving})
        self._arriving = []
        for answer in arriving:
            finished = self._fetch(answer)
            if finished is None:
                self._arriving.append(answer)
            else:
                answers.confirm(self._grid, answer.head)  # so that nothing of it is kept there
                yield answer.sent, finished

    def _announced(self, sent: Mapping[str, int], known: Set[str]) -> list[_Arriving]:
        asked = sent.keys() - known
        found = answers.announced(self._grid, asked) if asked else []
        return [_Arriving(one.sent, one.head, one.objects, sent[one.sent]) for one in found]

    def _fetch(self, answer: _Arriving) -> Answer | None:
        """The finished answer, or None while a part of it is not there yet."""
        large = Unreadable("too_large", f"more than {answer.max_bytes} bytes")
        while answer.missing:
            try:
                content = answers.fetch(self._grid, answer.missing[-1])
            except answers.Lost as error:
                return Unreadable("incomplete", str(error))
            except answers.OverQuota:
                return large
            if content is None:
                return None
            answer.contents[answer.missing.pop()] = content
            answer.size += len(content)
            if answer.size > answer.max_bytes:
                return large
        try:
            message = answers.assembled(answer.head, answer.contents)
        except Exception as error:  # whatever a node makes up must not end the round
            return Unreadable("malformed", f"{type(error).__name__}: {error}")
        return message if isinstance(message, Message) else Unreadable("malformed", "no message")
