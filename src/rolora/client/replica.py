"""A client's copy of the global parts, by version."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from rolora.core.rules import ClientRule
from rolora.core.types import Adapter, Key, Part, Plan, ServerState, is_side, leading
from rolora.stages.chain import NO_STAGES, Chain
from rolora.stages.downlink import advanced


class MissingPart(ValueError):  # noqa: N818
    """A plan counts on a part that is not here; the sender must send it again."""


@dataclass(frozen=True)
class Start:
    """What a client's training starts from.

    Args:
        parts: of the model, without ``D``.
        given: side parts.
        delta: ``D``, which is part of the base and one for all.
    """

    parts: Adapter
    given: Adapter
    delta: Adapter

    @staticmethod
    def of(tensors: Adapter) -> Start:
        """The three kinds among `tensors`."""
        side = {part for part in tensors.parts if is_side(part)}
        beside = side | ({"D"} & tensors.parts)
        return Start(
            parts=tensors.without(beside) if beside else tensors,
            given=tensors.select(side),
            delta=tensors.select({"D"}),
        )


class Replica:
    """The parts that a client holds, each at its newest versions.

    In the simulator all clients of one rank share a replica: whoever holds a version of a part
    holds the same tensors.

    Args:
        down: the stages of the way down, in which increments are coded.
    """

    def __init__(self, down: Chain = NO_STAGES) -> None:
        self.down = down
        self.held: dict[tuple[Part, int], Adapter] = {}
        self.started: tuple[int, Start] | None = None

    def versions(self) -> dict[Part, list[int]]:
        """The versions held of each part."""
        found: dict[Part, list[int]] = {}
        for part, version in self.held:
            found.setdefault(part, []).append(version)
        return found

    def start(self, plan: Plan, rules: Sequence[ClientRule] = ()) -> Start:
        """Take in what `plan` sends and give the tensors that training starts from, one and the
        same object for every client that asks in a round.

        Raises:
            MissingPart: the plan counts on a version that is neither held nor sent.
        """
        if self.started is not None and self.started[0] == plan.round:
            self._receive(plan)
            return self.started[1]
        tensors = self.take(plan)
        for rule in rules:
            tensors = rule.shared(plan, tensors)
        for part in plan.derives:
            self.held[part, plan.round] = tensors.select({part})
        self.started = (plan.round, Start.of(tensors))
        return self.started[1]

    def take(self, plan: Plan) -> Adapter:
        """Take in what `plan` sends and give the global tensors at its versions.

        Raises:
            MissingPart: the plan counts on a version that is neither held nor sent.
        """
        self._receive(plan)
        self._forget(plan)
        parts: dict[Key, Tensor] = {}
        for part, version in plan.versions.items():
            if part not in ("U", "V"):
                parts.update(self.held[part, version])
        return Adapter.of(parts)

    def drop(self, part: Part, version: int) -> None:
        """Forget one version of a part, and what training was to start from."""
        del self.held[part, version]
        self.started = None

    def _receive(self, plan: Plan) -> None:
        """Take in all that is sent, then see whether anything is missing."""
        missing = []
        for part, version in plan.versions.items():
            if part in ("U", "V") or (part, version) in self.held:
                continue
            if part in plan.send.parts:
                self.held[part, version] = plan.send.select({part})
            elif part == "D" and "U" in plan.send.parts:
                self.held[part, version] = self._incremented(plan)
            elif reached := self._advanced(plan, part, version):
                self.held[part, version] = reached
            else:
                missing.append(f"part {part} in version {version}")
        if missing:
            raise MissingPart(
                f"round {plan.round}, client {plan.client}: {missing[0]} was not sent and is not "
                "held"
            )

    def _advanced(self, plan: Plan, part: Part, version: int) -> Adapter | None:
        """The part at `version`, from the newest version held to which increments add."""
        for since in sorted((v for p, v in self.held if p == part), reverse=True):
            steps = leading(plan.increments, part, since, version)
            if steps:
                return advanced(self.held[part, since], steps, self.down)
        return None

    def _incremented(self, plan: Plan) -> Adapter:
        since = plan.versions["U"]
        if since != 0 and ("D", since) not in self.held:
            raise MissingPart(f"round {plan.round}: part D in version {since} is not held")
        before = self.held.get(("D", since), Adapter.of({}))
        sums: dict[Key, Tensor] = {}
        for module in plan.send.select({"U"}).modules:
            step = plan.send[module, "U"] @ plan.send[module, "V"]
            sums[module, "D"] = before[module, "D"] + step if (module, "D") in before else step
        return Adapter.of(sums)

    def _forget(self, plan: Plan) -> None:
        """Drop versions that no plan can count on any more; what `plan` does not name stays."""
        increments = plan.versions.get("U", -1)
        self.held = {
            (part, version): tensors
            for (part, version), tensors in self.held.items()
            if version == plan.versions.get(part, version)
            or (part == "D" and version == increments)
        }


def restored(
    state: ServerState, ranks: Collection[int], max_rank: int, down: Chain
) -> dict[int, Replica]:
    """Replicas by rank that hold the global parts of `state`.

    The factors are those of the largest rank; clients of another are sent theirs anew.
    """
    replicas = {rank: Replica(down) for rank in ranks}
    for rank, replica in replicas.items():
        for part in state.parts.parts:
            if rank == max_rank or part not in ("A", "B"):
                replica.held[part, state.versions[part]] = state.parts.select({part})
    return replicas
