"""FedRot-LoRA: turn each client's factors towards the global ones before the mean (2026)."""

from __future__ import annotations

from dataclasses import replace

import torch

from rolora.core.algebra import procrustes
from rolora.core.rules import ClientRule, Stack, Steps, Trained
from rolora.core.section import Fraction
from rolora.core.types import Adapter, Factor, Key
from rolora.methods.base import refuse_persist
from rolora.methods.fedit import FedIT
from rolora.methods.options import Options


class FedRotOptions(Options):
    """`rotation` is how far a client turns: 1 all the way, below that part of it, 0 is FedIT."""

    rotation: Fraction = 1.0


class FedRotLoRA(FedIT):
    """FedIT whose client i uploads ``(B_i R_i, R_i^T A_i)``, with ``R_i`` orthogonal.

    ``B_i A_i`` stays what it was, and the bases in which clients hold it no longer differ for no
    reason, so that ``mean(B_i) mean(A_i)`` is nearer to ``mean(B_i A_i)``; still inexact. ``R_i``
    brings one factor nearest to the global one from which the round began
    (:func:`rolora.core.algebra.procrustes`): A in even rounds, B in odd ones, none in round 1,
    whose B begins at zero. With `rotation` below 1 it is the orthogonal matrix nearest to
    ``(1 - rotation) I + rotation R_i``, and ``R_i`` is kept from being a reflection.

    Source: Zhang et al., FedRot-LoRA: Mitigating Rotational Misalignment in Federated LoRA, ICML
    2026 (arXiv 2602.23638), as in the authors' code, whose default turns all the way; of the paper
    itself the abstract was at hand.
    """

    Options = FedRotOptions
    title = "FedRot-LoRA"
    citation = "Zhang et al., ICML 2026 (arXiv 2602.23638)"

    def rules(self) -> tuple[ClientRule, ...]:
        """The turn, after training."""
        rotation = self.options.rotation
        return (*super().rules(), Turn(rotation)) if rotation > 0 else super().rules()

    def check(self) -> None:
        """What is kept stays in the client's own basis."""
        super().check()
        refuse_persist(self.setting.optimizer_state, "FedRot-LoRA turns the factors in")


class Turn(ClientRule):
    """What a client uploads, turned towards what it started from."""

    def __init__(self, rotation: float):
        self.rotation = rotation

    def steps(self, stack: Stack, optimizer: torch.optim.Optimizer) -> Steps:
        """Nothing while it trains."""
        return _Turning(stack, self.rotation)


class _Turning(Steps):
    def __init__(self, stack: Stack, rotation: float):
        self.stack, self.rotation = stack, rotation

    def finish(self, k: int, trained: Trained) -> Trained:
        job, parts = self.stack.jobs[k], trained.update.parts
        if job.plan.round == 1 or not parts.flat.isfinite().all():
            return trained  # the latter for the server to refuse by name
        along: Factor = "A" if job.plan.round % 2 == 0 else "B"
        # What stays with the client, its moments' bases among it, stays as it is.
        update = replace(trained.update, parts=turned(parts, job.start, along, self.rotation))
        return replace(trained, update=update)


def turned(parts: Adapter, towards: Adapter, along: Factor, rotation: float = 1.0) -> Adapter:
    """`parts` with every module's factors in the basis that brings the factor `along` nearest to
    that of `towards`; no product changes.
    """
    new: dict[Key, torch.Tensor] = {}
    for module in parts.select({"A"}).modules:
        A, B = parts[module, "A"].double(), parts[module, "B"].double()
        own, wanted = (A.T, towards[module, "A"].T) if along == "A" else (B, towards[module, "B"])
        R = procrustes(own, wanted.double(), rotation)
        new[module, "A"], new[module, "B"] = R.T @ A, B @ R
    return parts.overwrite(new)
