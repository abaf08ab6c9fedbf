"""What the server asks of whatever runs the clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from rolora.core.types import (
    ClientInfo,
    Evaluation,
    Failure,
    Plan,
    RoundNotes,
    ServerState,
    Update,
)

PLAIN: Mapping[int, bytes] = MappingProxyType({})
"""Updates that are not masked."""


class Engine(Protocol):
    """Where clients run: in this process, or across machines."""

    @property
    def clients(self) -> Sequence[ClientInfo]:
        """All clients, by id."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the model's outputs stand for."""

    def registered(self, client: int) -> int:
        """The number of training examples that the client has said it holds; 0: not known."""

    def train(
        self, plans: Sequence[Plan], dealt: Mapping[int, bytes] = PLAIN
    ) -> Iterator[Update | Failure]:
        """Carry out the plans; one answer for each, as they come.

        Args:
            plans: of one round.
            dealt: in a secure sum, what a client's update is masked with, by client.
        """

    def exchange(
        self, step: str, round_number: int, texts: Mapping[int, bytes]
    ) -> Iterator[tuple[int, bytes | Failure]]:
        """Ask each client of `texts` for a step of a secure sum (:mod:`rolora.secure`); one answer
        for each, as they come.
        """

    def evaluate(self, plan: Plan, split: str) -> list[Evaluation]:
        """Evaluate the model of `plan` on every client's held-out examples of `split`."""

    def take_notes(self) -> RoundNotes:
        """What else is to be written down since this was last asked."""

    def tensors(self, round_number: int) -> dict[str, Tensor]:
        """What the engine must find again to go on after a round, by ``KIND/CLIENT/NAME``: the last
        one finished, though the next may have begun.
        """

    def restore(self, tensors: Mapping[str, Tensor], state: ServerState) -> None:
        """Take up :meth:`tensors` of an earlier process."""
