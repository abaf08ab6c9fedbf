"""Server optimisers: what the server makes of the aggregate (Reddi et al., 2021).

A stage around `Method.aggregate`: the step from the old parts to the aggregated ones is taken as
a pseudo-gradient, separately for every part, so that A and B keep separate state and only what
the round changed moves.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rolora.config import ServerConfig
from rolora.core.types import Key, Part, ServerState
from rolora.records.wire import tensor_name


def server_step(
    config: ServerConfig, old: ServerState, new: ServerState, stepped: frozenset[Part]
) -> ServerState:
    """The state after the server optimiser's step.

    Per tensor ``x`` with aggregate ``x + d``: FedAvg ``x + lr d``; FedAvgM ``m <- momentum m + d``,
    ``x + lr m``; FedAdam and FedYogi ``m <- momentum m + (1 - momentum) d``, their second moment
    ``v``, ``x + lr m / (sqrt(v) + tau)``.

    Args:
        config: optimiser, lr, momentum (beta1), beta2, tau.
        old: the state as this round's clients saw it; new: after `aggregate`.
        stepped: the parts that the method lets a server optimiser move.

    Source: Reddi et al., Adaptive Federated Optimization, ICLR 2021, Algorithm 2; FedAvgM: Hsu et
    al., 2019 (arXiv 1909.06335).
    """
    if config.optimizer == "fedavg" and config.lr == 1.0:
        return new
    moved: dict[Key, Tensor] = {}
    moments = dict(new.optimizer)
    for key in new.parts:
        if key[1] not in stepped or new.versions[key[1]] != new.round:
            continue
        before = old.parts[key] if key in old.parts else torch.zeros_like(new.parts[key])
        moved[key] = before + _direction(config, moments, tensor_name(key), new.parts[key] - before)
    parts = new.parts.overwrite(moved)
    versions = new.versions
    if any(part == "D" for _, part in moved):
        parts = parts.without({"U", "V"})
        versions = {part: v for part, v in versions.items() if part not in ("U", "V")}
    return replace(new, parts=parts, versions=versions, optimizer=moments)


def _direction(
    config: ServerConfig, moments: dict[str, Tensor], name: str, delta: Tensor
) -> Tensor:
    if config.optimizer == "fedavg":
        return config.lr * delta
    m = moments.get(f"m/{name}", torch.zeros_like(delta))
    if config.optimizer == "fedavgm":
        m = moments[f"m/{name}"] = config.momentum * m + delta
        return config.lr * m
    m = moments[f"m/{name}"] = config.momentum * m + (1.0 - config.momentum) * delta
    v = moments.get(f"v/{name}", torch.full_like(delta, config.tau**2))
    square = delta.square()
    if config.optimizer == "fedadam":
        v = config.beta2 * v + (1.0 - config.beta2) * square
    else:
        v = v - (1.0 - config.beta2) * square * torch.sign(v - square)
    moments[f"v/{name}"] = v
    return config.lr * m / (v.sqrt() + config.tau)
