"""Requests to clients and their answers, over Flower's Grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from math import inf
from typing import NamedTuple

from flwr.app import Message
from flwr.serverapp import Grid

from rolora.engines.flower import payload
from rolora.engines.flower.compat.answers import failure_reason
from rolora.engines.flower.inbox import Answer, Inbox, Unreadable
from rolora.engines.flower.launch import node_name
from rolora.engines.flower.results import NodeError, Reply
from rolora.engines.flower.told import WHY
from rolora.engines.flower.worker import Frames

_HELLO_TTL_S = 600.0  # in which a site loads the model
_HELLO_BYTES = 2**18
"""What a site may say of itself: a few kB, and names of labels if there are thousands."""
_GREET_AGAIN_S = 5.0
_MOMENT_S = 2.0
_LATE_S = 2.0  # so that the deadline is ours, and not Flower's, to report
_PRESENCE_S = 1.0

log = logging.getLogger(__name__)


class _Node(NamedTuple):
    """A node since it last connected; one that was restarted is another."""

    id: int
    since: str
    name: str


class _InFlight(NamedTuple):
    client: int
    node: _Node


class FlowerTransport:
    """Addresses clients by their id, wherever they are connected.

    Args:
        grid: Flower's connection to the nodes, from the ServerApp.
        hello: what every node is sent when it is first seen; its answer is in `clients`.
        outages: to which the run adds the times in which the SuperLink did not answer.
        max_bytes: the largest answer taken.
        poll_s: seconds between two looks for answers.
    """

    def __init__(
        self,
        grid: Grid,
        hello: Frames,
        outages: list[str],
        max_bytes: int = 2**31,
        poll_s: float = 0.05,
    ):
        self.outages = outages
        self._grid, self._hello, self._poll_s = grid, hello, poll_s
        self.max_bytes = max_bytes
        self._inbox = Inbox(grid)
        self._greeted: dict[str, _Node] = {}  # message id -> node, for unanswered hellos
        self._nodes: dict[int, _Node] = {}  # by client
        self._greet_at: dict[_Node, float] = {}  # node -> when to greet it, if it has not answered
        self._looked_at = 0.0
        self.refusals: dict[int, str] = {}
        """Per connected node that did not join: why."""
        self.clients: dict[int, list[bytes]] = {}
        """Per connected client: its answer to the hello."""

    def wait_for(
        self, clients: int, timeout_s: float, among: Collection[int] | None = None
    ) -> bool:
        """Return once that many clients, or that many of those in `among`, are connected, or
        after `timeout_s`; says whether they are.
        """
        end = time.monotonic() + timeout_s
        while True:
            self._look_around()
            self._collect({})
            connected = [c for c in self.clients if among is None or c in among]
            if len(connected) >= clients or time.monotonic() > end:
                return len(connected) >= clients
            time.sleep(self._poll_s)

    def _wait_for_greeted(self, clients: Set[int]) -> None:
        """Give those of `clients` that are just connecting a moment to answer the hello."""
        end = time.monotonic() + _MOMENT_S
        while self._greeted and clients - self._nodes.keys() and time.monotonic() < end:
            self._collect({})
            time.sleep(self._poll_s)

    def send_and_receive(
        self,
        requests: Mapping[int, Frames],
        deadline_s: float,
        follow_up: Callable[[Reply], Frames | None] = lambda reply: None,
    ) -> Iterator[Reply | NodeError]:
        """Send each client its request and yield one result a client, as the answers come.

        Clients that connect meanwhile are greeted, and are in `clients` from then on. A request
        that nobody has taken up soon after the deadline is never carried out. Where `follow_up`
        has more to say to a reply, that is sent to the client, and its answer takes the reply's
        place.
        """
        start = time.monotonic()
        self._look_around(force=True)
        self._wait_for_greeted(requests.keys())
        present = [_InFlight(c, self._nodes[c]) for c in requests if c in self._nodes]
        for client in requests.keys() - self._nodes.keys():
            yield NodeError(client, None, "absent", "not connected", 0.0)
        frames = [requests[target.client] for target in present]
        nodes = [target.node for target in present]
        sent = self._push(frames, nodes, deadline_s + _LATE_S, self.max_bytes)
        waiting = dict(zip(sent, present, strict=True))
        while waiting:
            for target, answer in self._collect(waiting):
                seconds = time.monotonic() - start
                result = self._result(target, answer, seconds)
                more = follow_up(result) if isinstance(result, Reply) else None
                if more is None:
                    yield result
                else:
                    left = max(deadline_s - seconds, 0.0) + _LATE_S
                    [again] = self._push([more], [target.node], left, self.max_bytes)
                    waiting[again] = target
            self._look_around()
            yield from self._give_up(waiting, time.monotonic() - start, deadline_s)
            if waiting:
                time.sleep(self._poll_s)

    def _push(
        self, requests: list[Frames], nodes: list[_Node], ttl_s: float, max_bytes: int
    ) -> list[str]:
        """Send each node its request; returns the ids of the messages. The SuperLink takes no
        answer that is larger than the message says.
        """
        packed: dict[int, payload.Chunks] = {}
        messages = [
            Message(
                payload.pack(frames, packed=packed),
                node.id,
                "train",
                ttl=ttl_s,
                group_id=str(max_bytes),
            )
            for frames, node in zip(requests, nodes, strict=True)
        ]
        # A message to a node that has just gone has no id. Asked for one that it does not know,
        # the SuperLink answers with an error, as for any other message that was lost.
        sent = self._grid.push_messages(messages) if messages else []
        return [name or f"unsent-{node.id}" for name, node in zip(sent, nodes, strict=True)]

    def _collect(self, waiting: dict[str, _InFlight]) -> list[tuple[_InFlight, Answer]]:
        """Take the answers that have come: hellos are noted, the others taken out of `waiting`."""
        answers = []
        greetings = dict.fromkeys(self._greeted, _HELLO_BYTES)
        for sent, answer in self._inbox.take(greetings | dict.fromkeys(waiting, self.max_bytes)):
            if sent in self._greeted:
                self._welcome(self._greeted.pop(sent), answer)
            else:
                answers.append((waiting.pop(sent), answer))
        return answers

    def _welcome(self, node: _Node, answer: Answer) -> None:
        """Note a new client; the newest node that speaks for a client is the client's. Whoever
        holds a registered key speaks for the one client that it was registered for.
        """
        try:
            if isinstance(answer, Unreadable):
                raise ValueError(answer.detail)
            if answer.has_error():
                reason = failure_reason(answer.error)
                raise ValueError(WHY.get(reason, reason))
            client = payload.sender(answer.content)
            if node.name and node.name != node_name(client):
                raise ValueError(f"it is registered as {node.name} and speaks for {client}")
            self.clients[client] = payload.unpack(answer.content, _HELLO_BYTES)
            self._nodes[client] = node
            self.refusals.pop(node.id, None)
        except Exception as error:  # whatever a node makes up keeps that node out, and no other
            self.refusals[node.id] = str(error)
            log.warning("node %s does not join: %s", node.id, error)
            self._greet_at[node] = time.monotonic() + _GREET_AGAIN_S

    def _look_around(self, force: bool = False) -> None:
        """Greet nodes not yet seen, forget those gone; at most once a second unless forced."""
        if not force and time.monotonic() - self._looked_at < _PRESENCE_S:
            return
        now = self._looked_at = time.monotonic()
        online = {
            _Node(info.node_id, info.last_activated_at, info.name)
            for info in self._grid.get_nodes()
        }
        for client in [c for c, node in self._nodes.items() if node not in online]:
            del self._nodes[client], self.clients[client]
        self._greeted = {m: node for m, node in self._greeted.items() if node in online}
        ids = {node.id for node in online}
        self.refusals = {node: why for node, why in self.refusals.items() if node in ids}
        due = sorted(node for node in online if self._greet_at.get(node, 0.0) <= now)
        self._greet_at = {node: self._greet_at.get(node, inf) for node in online}
        self._greet_at.update(dict.fromkeys(due, inf))
        hellos = self._push([self._hello] * len(due), due, _HELLO_TTL_S, _HELLO_BYTES)
        self._greeted.update(zip(hellos, due, strict=True))

    def _give_up(
        self, waiting: dict[str, _InFlight], seconds: float, deadline_s: float
    ) -> Iterator[NodeError]:
        """End the requests whose deadline has passed or whose node is gone or replaced."""
        for sent, (client, node) in list(waiting.items()):
            if seconds >= deadline_s:
                reason, detail = "deadline", f"no answer within {deadline_s:g} s"
            elif client not in self._nodes:
                reason, detail = "node_lost", "its node went away"
            elif self._nodes[client] != node:
                reason, detail = "replaced", "its node was started anew or replaced by another"
            else:
                continue
            del waiting[sent]
            yield NodeError(client, node.id, reason, detail, seconds)

    def _result(self, target: _InFlight, answer: Answer, seconds: float) -> Reply | NodeError:
        client, node = target.client, target.node.id
        if isinstance(answer, Unreadable):
            return NodeError(client, node, answer.reason, answer.detail, seconds)
        if answer.has_error():
            reason = failure_reason(answer.error)
            return NodeError(client, node, reason, WHY.get(reason, ""), seconds)
        try:
            if (claimed := payload.sender(answer.content)) != client:
                raise ValueError(f"client {claimed} answered in place of {client}")
            frames = payload.unpack(answer.content, self.max_bytes)
        except payload.TooLarge as error:
            return NodeError(client, node, "too_large", str(error), seconds)
        except Exception as error:  # whatever a node makes up must not end the round
            return NodeError(client, node, "malformed", str(error), seconds)
        return Reply(client, node, frames, seconds)
