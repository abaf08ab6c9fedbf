"""The clients' optimiser over a stack, and its state by client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rolora.client.stack import Stack, apart, resized, side_by_side
from rolora.config import OptimizerConfig
from rolora.core.types import Adapter


def build_optimizer(stack: Stack, settings: OptimizerConfig) -> torch.optim.Optimizer:
    """The clients' optimiser over the trained parts alone, one tensor and one rate a part."""
    rates = {"A": settings.lr, "B": settings.lr_b, "head": settings.lr_head}
    groups = []
    for part in stack.parts():
        buffer = nn.Parameter(stack.part(stack.values, part))
        buffer.grad = stack.part(stack.gradients, part)
        groups.append({"params": [buffer], "lr": rates.get(part) or settings.lr})
    if settings.name == "adamw":
        return torch.optim.AdamW(
            groups,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, stack: Stack, held: Sequence[Mapping[str, Tensor]]
) -> None:
    """Put the clients' kept states side by side; all must have made the same number of steps."""
    for part, group in zip(stack.parts(), optimizer.param_groups, strict=True):
        own = [job.start.layout.select({part}) for job in stack.jobs]
        for name in [name for name in held[0] if name.startswith(f"{part}.")]:
            rows = [item[name] for item in held]
            state = optimizer.state[group["params"][0]]
            kind = name.removeprefix(f"{part}.")
            if rows[0].dim() == 0:
                state[kind] = rows[0].to(stack.device, copy=True)
            else:
                padded = [
                    resized(Adapter(layout, row), stack.rank).flat
                    for layout, row in zip(own, rows, strict=True)
                ]
                layout = stack.layout.select({part})
                state[kind] = side_by_side(torch.stack(padded), layout).to(stack.device)


def optimizer_state(optimizer: torch.optim.Optimizer, stack: Stack, k: int) -> dict[str, Tensor]:
    """Client k's optimiser state: a ``part.name`` to a number or a vector ``[P_part]``."""
    state, rank = {}, stack.jobs[k].plan.rank
    for part, group in zip(stack.parts(), optimizer.param_groups, strict=True):
        layout = stack.layout.select({part})
        for name, value in optimizer.state[group["params"][0]].items():
            if not isinstance(value, Tensor):
                continue
            if value.dim() > 0:
                own = Adapter(layout, apart(value, layout, len(stack.jobs))[k].cpu())
                value = resized(own, rank).flat
            state[f"{part}.{name}"] = value.detach().cpu().clone()
    return state
