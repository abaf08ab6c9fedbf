"""What comes after RoLoRA: variants that stay exact and send one factor a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.methods import ROLORA, title_of
from rolora.config import Config

GAUGE = {"gauge": "orthonormal"}
TRANSPORT = {"state": "transport"}


@dataclass(frozen=True)
class Variant:
    """RoLoRA with some settings changed.

    Args:
        key: what names it in files and options.
        label: for people.
        method, optimizer, server: what it changes in these sections of a run.
        rate_of_b: the learning rate of B as a multiple of A's.
    """

    key: str
    label: str
    method: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    rate_of_b: float = 1.0

    def of(self, run: Config) -> Config:
        """The variant of a run of RoLoRA."""
        optimizer = dict(self.optimizer)
        if self.rate_of_b != 1.0:
            optimizer["lr_b"] = self.rate_of_b * run.optimizer.lr
        return run.model_copy(
            update={
                "method": run.method.model_copy(update=self.method),
                "optimizer": run.optimizer.model_copy(update=optimizer),
                "server": run.server.model_copy(update=self.server),
            }
        )


def variants(server_momentum: float) -> dict[str, Variant]:
    """All by key, RoLoRA first."""
    momentum = {"optimizer": "fedavgm", "momentum": server_momentum}
    found = (
        Variant(ROLORA, title_of(ROLORA)),
        Variant("gauge", "orthonormal gauge", method=GAUGE),
        Variant("persist", "optimiser state kept", optimizer={"state": "persist"}),
        Variant("transport", "optimiser state carried", optimizer=TRANSPORT),
        Variant("gauge_transport", "gauge, state carried", method=GAUGE, optimizer=TRANSPORT),
        Variant("server_momentum", f"server momentum {server_momentum:g}", server=momentum),
        Variant("b2", "B at twice A's rate", rate_of_b=2.0),
        Variant("b5", "B at five times A's rate", rate_of_b=5.0),
        Variant("ab", "schedule AB", method={"schedule": "AB"}),
        Variant("bba", "schedule BBA", method={"schedule": "BBA"}),
        Variant("adaptive", "schedule adaptive", method={"schedule": "adaptive"}),
    )
    return {variant.key: variant for variant in found}
