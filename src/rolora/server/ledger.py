"""What each client holds, so that a client is sent only what it does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rolora.core.types import (
    RANK_AXIS,
    Adapter,
    Increment,
    Layout,
    Part,
    Plan,
    ServerState,
    base_part,
    leading,
)
from rolora.records.wire import increment_bytes, payload_bytes


class Ledger:
    """Per client, the version that it holds of each part.

    A client that failed may or may not have received its plan; it is forgotten and sent
    everything when it next takes part.
    """

    def __init__(self, held: Mapping[int, Mapping[str, int]] | None = None):
        self.held: dict[int, dict[str, int]] = {c: dict(v) for c, v in (held or {}).items()}

    def narrow(self, plan: Plan) -> Plan:
        """The plan with only what its client lacks in `send`; in place of a part, the increments
        that lead to it from what the client holds, if they are fewer bytes.

        Parts that stay with the client keep their version, so they are sent at the first contact
        alone. Of the base weight's change the client gets the last increment if it holds what that
        adds to and it is smaller, else all of it.
        """
        held = self.held.get(plan.client, {})
        drop = {part for part in plan.send.parts if held.get(part) == plan.versions[part]}
        drop |= self._base_parts_to_drop(plan, held)
        steps: list[Increment] = []
        for part in sorted(plan.send.parts - drop):
            found = leading(plan.increments, part, held.get(part), plan.versions[part])
            if increment_bytes(found) < payload_bytes(plan.send.layout.select({part})):
                steps += found
        drop |= {step.part for step in steps}
        return replace(plan, send=plan.send.without(drop), increments=tuple(steps))

    @staticmethod
    def _base_parts_to_drop(plan: Plan, held: Mapping[str, int]) -> set[Part]:
        if "D" not in plan.versions or held.get("D") == plan.versions["D"]:
            return {"U", "V"}
        increment = plan.send.layout.select({"U", "V"})
        can_add = "U" in plan.versions and held.get("D", 0) == plan.versions["U"]
        if can_add and payload_bytes(increment) < payload_bytes(plan.send.layout.select({"D"})):
            return {"D"}
        return {"U", "V"}

    def replied(self, plan: Plan) -> None:
        """The client trained and answered: it holds all that it was to start from."""
        self.held[plan.client] = {
            str(part): version for part, version in plan.versions.items() if part not in ("U", "V")
        }

    def finished(self, plan: Plan, new: ServerState) -> None:
        """The round stands: the client made by itself what the plan derives."""
        if plan.client in self.held:
            self.held[plan.client] |= {part: new.versions[part] for part in plan.derives}

    def failed(self, client: int) -> None:
        """Nothing is known of what the client holds."""
        self.held.pop(client, None)


def planned_layout(parts: Adapter, plan: Plan) -> Layout:
    """The layout of the update that `plan` asks for."""
    shapes = {}
    for (module, part), shape in parts.layout.entries:
        axis = RANK_AXIS.get(base_part(part))
        if part in plan.upload:
            ranked = (plan.rank if i == axis else length for i, length in enumerate(shape))
            shapes[module, part] = tuple(ranked)
    return Layout.of(shapes)
