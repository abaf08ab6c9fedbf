"""What a round will take, before it is trained: a short trial of a step, and arithmetic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from rolora.client.batches import batch_rows
from rolora.config import Config
from rolora.core.types import Plan, ServerState
from rolora.engines.in_process import InProcess
from rolora.engines.preparation import Prepared, build_engine
from rolora.model.completion import PIECE_BYTES
from rolora.model.footprint import token_bytes

WARM = 2.0
"""Seconds below which a first trial says more of what is set up once than of the work."""


@dataclass(frozen=True)
class Estimate:
    """What a round will take.

    Args:
        seconds: of training; evaluation and the server's work come on top.
        memory: bytes of the weights, and of what training keeps beside them; None where the model
            does not tell.
    """

    seconds: float
    memory: int | None


def estimate(prepared: Prepared, state: ServerState) -> Estimate:
    """That of round 1, from one step of as many clients as train at the same time.

    Args:
        prepared: the run; nothing that it is made of changes.
        state: before the round.
    """
    config = prepared.config
    one = config.optimizer.model_copy(update={"local_steps": 1, "local_epochs": None})
    engine = build_engine(replace(prepared, config=config.model_copy(update={"optimizer": one})))
    clients = engine.clients[: engine.stack * len(engine.workers)]
    plans = [prepared.method.plan(state, client) for client in clients]
    seconds = _trial(engine, plans)
    if seconds < WARM:
        seconds = _trial(engine, plans)
    everyone = [prepared.method.plan(state, client) for client in engine.clients]
    share = config.federation.cohort_size / len(everyone)
    tokens = share * _tokens(prepared, config, everyone)
    tried = _tokens(prepared, engine.config, plans)
    return Estimate(seconds * tokens / tried, _memory(prepared, engine))


def _trial(engine: InProcess, plans: Sequence[Plan]) -> float:
    begin = time.perf_counter()
    for _ in engine.train(plans):
        pass
    return time.perf_counter() - begin


def _tokens(prepared: Prepared, config: Config, plans: Sequence[Plan]) -> int:
    """Of all batches of these clients in the round."""
    lengths: Tensor = prepared.examples["train"].lengths
    shares = prepared.shares["train"]
    return sum(
        int(lengths[rows].sum())
        for plan in plans
        for rows in batch_rows(shares[plan.client], plan, config.optimizer, config.seed)
    )


def _memory(prepared: Prepared, engine: InProcess) -> int | None:
    """Weights, and for each worker its tokens' activations and a piece of logits thrice."""
    model = prepared.model
    each = token_bytes(model.module)
    if each is None:
        return None
    device = model.device.type
    longest = int(prepared.examples["train"].lengths.max())
    batch = longest * prepared.config.optimizer.batch_size
    tokens = engine.stack * max(longest, min(batch, (model.tokens_at_once or batch)))
    logits = 3 * PIECE_BYTES.get(device, 0) if prepared.pretrained.kind.generates else 0
    weights = sum(parameter.nbytes for parameter in model.module.parameters())
    return weights + len(engine.workers) * (tokens * each + logits)
