"""What a client does beside plain training: the rules that methods and options bring along."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rolora.core.types import EMPTY, Adapter, Key, Part, Plan, Update


@dataclass(frozen=True)
class Job:
    """One client's work in a round.

    Args:
        plan: what it was told.
        start: its tensors before training: ``A``, ``B`` and a head where one trains.
        rows: the numbers of its examples.
        kept: what rules and stages kept from its earlier rounds, as ``optimizer/B.exp_avg``.
        given: side parts that it was sent, as ``control.B``.
        delta: ``D``, which is part of the base and one for all.
    """

    plan: Plan
    start: Adapter
    rows: Tensor
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    given: Adapter = field(default_factory=lambda: EMPTY)
    delta: Adapter = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True)
class Trained:
    """What local training leaves: the update, all trained parts, and what rules want kept."""

    update: Update
    parts: Adapter
    kept: Mapping[str, Tensor] = field(default_factory=dict)


Draw = Callable[..., Adapter]
"""``draw(rank, *names)``: initial factors of a rank, from the run's seed and these names."""


class Stack(Protocol):
    """K clients' trained parts side by side (:class:`rolora.client.stack.Stack`).

    Attributes:
        jobs: the K clients' work.
        values: their trained parts, ``[K P]``; gradients: theirs, ``[K P]``.
    """

    jobs: Sequence[Job]
    values: Tensor
    gradients: Tensor

    def parts(self) -> list[Part]:
        """The trained parts, in the buffers' order: the optimiser has one group for each."""

    def part(self, buffer: Tensor, part: Part) -> Tensor:
        """The piece of a buffer like `values` that holds `part`."""

    def views(self, buffer: Tensor) -> Mapping[Key, Tensor]:
        """Every tensor of a buffer like `values`, K at a time: ``[K, *shape]``."""

    def gather(self, adapters: Sequence[Adapter]) -> Tensor:
        """K adapters of the trained parts as a buffer like `values`."""

    def own(self, buffer: Tensor, k: int) -> Adapter:
        """Client k's piece of a buffer like `values`, on the CPU, at its own rank."""


class Steps:
    """What one rule does while a stack of clients trains; this one does nothing."""

    def gradient(self) -> None:
        """Before every optimiser step: change the stack's gradients in place."""

    def finish(self, k: int, trained: Trained) -> Trained:
        """After client k's last step: what it uploads and keeps."""
        return trained


class ClientRule:
    """A rule's four moments, of which it takes those that it needs. It holds no client's state:
    what a client keeps comes with its job and goes back with what it trained.
    """

    def shared(self, plan: Plan, parts: Adapter) -> Adapter:
        """What all clients of a rank start from, made of the global `parts` of `plan`. Parts that
        it makes anew are the plan's `derives`.
        """
        return parts

    def group(self, job: Job) -> Hashable:
        """Clients train side by side only where this is equal."""
        return None

    def start(self, job: Job, draw: Draw) -> Job:
        """One client, before it trains: another start, other kept tensors."""
        return job

    def steps(self, stack: Stack, optimizer: torch.optim.Optimizer) -> Steps:
        """K clients, before their first step."""
        return Steps()
