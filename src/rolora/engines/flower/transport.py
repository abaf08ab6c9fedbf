"""Requests to clients and their answers, over Flower's Grid."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from rolora.engines.flower import payload
from rolora.engines.flower.inbox import Answer, Inbox, Unreadable
from rolora.engines.flower.worker import Frames

_REASONS = {
    2: "client_error",  # CLIENT_APP_RAISED_EXCEPTION
    3: "expired",  # MESSAGE_UNAVAILABLE
    4: "expired",  # REPLY_MESSAGE_UNAVAILABLE
    5: "node_lost",  # NODE_UNAVAILABLE
    8: "client_crashed",  # CLIENT_APP_CRASHED
}
_HELLO_TTL_S = 300.0
_PRESENCE_S = 1.0


@dataclass(frozen=True)
class Reply:
    """An answer: who gave it, and how many seconds after the request was sent."""

    client: int
    node: int
    frames: list[bytes]
    seconds: float


@dataclass(frozen=True)
class NodeError:
    """No answer from `client`, and why.

    `reason` is one of ``absent`` (not connected), ``deadline``, ``node_lost`` (no heartbeat for
    60 s, or signed off), ``replaced`` (the client came back on another node), ``client_error``
    (its worker raised), ``client_crashed``, ``expired``, ``malformed``, ``too_large``,
    ``incomplete`` (its sender went away in the middle), ``flower`` (any other error of Flower's).
    """

    client: int
    node: int | None
    reason: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class _InFlight:
    client: int
    node: int


class FlowerTransport:
    """Addresses clients by their id, wherever they are connected.

    Args:
        grid: Flower's connection to the nodes, from the ServerApp.
        hello: what every node is sent when it is first seen; its answer is in `clients`.
        max_bytes: the largest answer taken.
        poll_s: seconds between two looks for answers.
    """

    def __init__(self, grid: Grid, hello: Frames, max_bytes: int = 2**31, poll_s: float = 0.05):
        self._grid, self._hello, self._poll_s = grid, hello, poll_s
        self._inbox = Inbox(grid, max_bytes)
        self._greeted: dict[str, int] = {}  # message id -> node, for unanswered hellos
        self._nodes: dict[int, int] = {}  # client -> node
        self._seen: set[int] = set()
        self._looked_at = 0.0
        self.clients: dict[int, list[bytes]] = {}
        """Per connected client: its answer to the hello."""

    def wait_for(self, clients: int, timeout_s: float) -> None:
        """Return once that many clients are connected, or after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while len(self.clients) < clients and time.monotonic() < end:
            self._look_around()
            self._collect({})
            time.sleep(self._poll_s)

    def send_and_receive(
        self, requests: Mapping[int, Frames], deadline_s: float
    ) -> Iterator[Reply | NodeError]:
        """Send each client its request and yield one result a client, as the answers come.

        Clients that connect meanwhile are greeted, and are in `clients` from then on. A request
        that nobody has taken up by the deadline is never carried out.
        """
        start = time.monotonic()
        self._look_around(force=True)
        present = {client: frames for client, frames in requests.items() if client in self._nodes}
        for client in requests.keys() - present.keys():
            yield NodeError(client, None, "absent", "not connected", 0.0)
        waiting = self._push(present, deadline_s)
        while waiting:
            for target, answer in self._collect(waiting):
                yield _result(target, answer, time.monotonic() - start)
            self._look_around()
            yield from self._give_up(waiting, time.monotonic() - start, deadline_s)
            if waiting:
                time.sleep(self._poll_s)

    def _push(self, requests: Mapping[int, Frames], ttl_s: float) -> dict[str, _InFlight]:
        targets = [_InFlight(client, self._nodes[client]) for client in requests]
        messages = [
            Message(payload.pack(requests[target.client]), target.node, "train", ttl=ttl_s)
            for target in targets
        ]
        return dict(zip(self._grid.push_messages(messages), targets, strict=True))

    def _collect(self, waiting: dict[str, _InFlight]) -> list[tuple[_InFlight, Answer]]:
        """Take the answers that have come: hellos are noted, the others taken out of `waiting`."""
        answers = []
        for sent, answer in self._inbox.take({*waiting, *self._greeted}):
            if sent in self._greeted:
                self._welcome(self._greeted.pop(sent), answer)
            else:
                answers.append((waiting.pop(sent), answer))
        return answers

    def _welcome(self, node: int, answer: Answer) -> None:
        """Note a new client; the newest node that speaks for a client is the client's."""
        try:
            if isinstance(answer, Unreadable):
                raise ValueError(answer.detail)
            client = payload.sender(answer.content)
            self.clients[client] = payload.unpack(answer.content)
            self._nodes[client] = node
        except ValueError:  # an error instead of an answer: greet the node again
            self._seen.discard(node)

    def _look_around(self, force: bool = False) -> None:
        """Greet nodes not yet seen, forget those gone; at most once a second unless forced."""
        if not force and time.monotonic() - self._looked_at < _PRESENCE_S:
            return
        self._looked_at = time.monotonic()
        online = set(self._grid.get_node_ids())
        for client in [c for c, node in self._nodes.items() if node not in online]:
            del self._nodes[client], self.clients[client]
        self._greeted = {m: node for m, node in self._greeted.items() if node in online}
        new = sorted(online - self._seen)
        self._seen = online
        if new:
            hellos = [Message(payload.pack(self._hello), n, "train", ttl=_HELLO_TTL_S) for n in new]
            self._greeted.update(zip(self._grid.push_messages(hellos), new, strict=True))

    def _give_up(
        self, waiting: dict[str, _InFlight], seconds: float, deadline_s: float
    ) -> Iterator[NodeError]:
        """End the requests whose deadline has passed or whose node is gone or replaced."""
        for sent, (client, node) in [(s, (t.client, t.node)) for s, t in waiting.items()]:
            now_at = self._nodes.get(client)
            if seconds >= deadline_s:
                reason, detail = "deadline", f"no answer within {deadline_s:g} s"
            elif now_at is None:
                reason, detail = "node_lost", f"node {node} went away"
            elif now_at != node:
                reason, detail = "replaced", f"node {node} was replaced by {now_at}"
            else:
                continue
            del waiting[sent]
            yield NodeError(client, node, reason, detail, seconds)


def _result(target: _InFlight, answer: Answer, seconds: float) -> Reply | NodeError:
    client, node = target.client, target.node
    if isinstance(answer, Unreadable):
        return NodeError(client, node, answer.reason, answer.detail, seconds)
    if answer.has_error():
        error = answer.error
        reason = _REASONS.get(error.code, "flower")
        return NodeError(client, node, reason, error.reason or "", seconds)
    try:
        if (claimed := payload.sender(answer.content)) != client:
            raise ValueError(f"client {claimed} answered in place of {client}")
        return Reply(client, node, payload.unpack(answer.content), seconds)
    except ValueError as error:
        return NodeError(client, node, "malformed", str(error), seconds)
