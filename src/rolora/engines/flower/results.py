"""What becomes of a request to a client, and what carries requests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from rolora.engines.flower.worker import Frames


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
    60 s, or signed off), ``replaced`` (the client came back, on this node or another),
    ``client_crashed``, ``expired``, ``malformed``, ``too_large``, ``incomplete`` (its sender went
    away in the middle), one of :data:`rolora.engines.flower.told.WHY` that the site gave,
    ``client_error`` (it gave another), or ``flower`` (any other error of Flower's).
    """

    client: int
    node: int | None
    reason: str
    detail: str
    seconds: float


class Transport(Protocol):
    """Carries requests to clients (:class:`rolora.engines.flower.transport.FlowerTransport`).

    Attributes:
        max_bytes: the largest answer taken.
        outages: what failed between server and clients, in words; cleared by whoever reads it.
    """

    max_bytes: int
    outages: list[str]

    @property
    def clients(self) -> Mapping[int, list[bytes]]:
        """Per connected client: its answer to the hello."""

    @property
    def refusals(self) -> Mapping[int, str]:
        """Per connected node that did not join: why."""

    def wait_for(
        self, clients: int, timeout_s: float, among: Collection[int] | None = None
    ) -> bool:
        """Wait until that many clients are connected; says whether they are."""

    def send_and_receive(
        self,
        requests: Mapping[int, Frames],
        deadline_s: float,
        follow_up: Callable[[Reply], Frames | None] = lambda reply: None,
    ) -> Iterator[Reply | NodeError]:
        """Send each client its request and yield one result a client, as they come."""
