"""K clients' trained parts side by side, one optimiser over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rolora.core.rules import Job, Trained
from rolora.core.types import PARTS, RANK_AXIS, Adapter, Key, Layout, Part, Update, base_part


class Stack:
    """K clients' trained parts in one buffer ``[K P]``, their gradients in another.

    Every tensor's K copies lie side by side, so modules see contiguous views ``[K, *shape]``, and
    the optimiser sees one vector a part: it costs the same however many modules there are.
    """

    def __init__(self, jobs: Sequence[Job], device: torch.device):
        self.jobs, self.device = jobs, device
        self.rank = max(job.plan.rank for job in jobs)
        self.starts = [resized(job.start, self.rank) for job in jobs]
        self.layout = self.starts[0].layout.select(jobs[0].plan.train)
        initial = torch.stack([start.select(self.layout.parts).flat for start in self.starts])
        self.values = side_by_side(initial, self.layout).to(device)
        self.gradients = torch.zeros_like(self.values)

    def part(self, buffer: Tensor, part: Part) -> Tensor:
        """The piece of `buffer` that holds `part`: ``[K P_part]``."""
        start, end = self.layout.extent(part)
        return buffer[len(self.jobs) * start : len(self.jobs) * end]

    def parts(self) -> list[Part]:
        """The trained parts, in the buffer's order."""
        return [part for part in PARTS if part in self.layout.parts]

    def views(self, buffer: Tensor) -> dict[Key, Tensor]:
        """Every trained tensor of a buffer ``[K P]``: ``[K, *shape]``."""
        K = len(self.jobs)
        return {
            key: buffer[K * start : K * end].view(K, *shape)
            for key, (start, end, shape) in self.layout.spans.items()
        }

    def tensors(self) -> dict[Key, Tensor]:
        """Every tensor with a leading axis of K (but ``D``): leaves where trained, else shared."""
        tensors, gradients = {}, self.views(self.gradients)
        for key, values in self.views(self.values).items():
            leaf = values.detach().requires_grad_()
            leaf.grad = gradients[key]
            tensors[key] = leaf
        for key in self.starts[0]:
            if key in tensors:
                continue
            tensors[key] = self.frozen(key).to(self.device)
        return tensors | dict(self.jobs[0].delta)

    def frozen(self, key: Key) -> Tensor:
        """``[K, *shape]``; one tensor seen K times where all clients share it."""
        if all(start is self.starts[0] for start in self.starts):
            return self.starts[0][key].expand(len(self.starts), *self.starts[0][key].shape)
        return torch.stack([start[key] for start in self.starts])

    def gather(self, adapters: Sequence[Adapter]) -> Tensor:
        """The clients' adapters of the trained parts as a buffer ``[K P]``."""
        flats = torch.stack([resized(adapter, self.rank).flat for adapter in adapters])
        return side_by_side(flats, self.layout).to(self.device)

    def own(self, buffer: Tensor, k: int) -> Adapter:
        """Client k's piece of a buffer ``[K P]``, on the CPU, at its own rank."""
        flat = apart(buffer, self.layout, len(self.jobs))[k].cpu()
        return resized(Adapter(self.layout, flat), self.jobs[k].plan.rank)

    def places(self, k: int) -> dict[Key, slice]:
        """Where client k's piece of each tensor lies in a buffer like `values`."""
        found = {}
        for key, (start, end, _) in self.layout.spans.items():
            first = len(self.jobs) * start + k * (end - start)
            found[key] = slice(first, first + end - start)
        return found

    def clip(self, max_norm: float | None) -> None:
        """Scale each client's gradient to at most `max_norm`."""
        if max_norm is not None:
            clients = apart(self.gradients, self.layout, len(self.jobs))
            norms = clients.norm(dim=1, keepdim=True)
            factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
            self.gradients.copy_(side_by_side(clients * factors, self.layout))

    def harvest(self, clients: Sequence[int], losses: Tensor) -> list[Trained]:
        """What some clients leave after their last step, with each one's mean loss of ``[K]``."""
        if not clients:
            return []
        flats = apart(self.values, self.layout, len(self.jobs))[clients].cpu()
        return [
            self._trained(self.jobs[k], flat, loss)
            for k, flat, loss in zip(clients, flats, losses[clients].tolist(), strict=True)
        ]

    def _trained(self, job: Job, flat: Tensor, train_loss: float) -> Trained:
        parts = resized(Adapter(self.layout, flat), job.plan.rank)
        update = Update(
            client=job.plan.client,
            num_examples=len(job.rows),
            parts=parts.select(job.plan.upload),
            metrics={"train_loss": train_loss},
        )
        return Trained(update, parts)


def side_by_side(vectors: Tensor, layout: Layout) -> Tensor:
    """K clients' vectors ``[K, P]`` as a buffer ``[K P]`` in which every tensor's K copies lie
    side by side.
    """
    pieces = [vectors[:, start:end].reshape(-1) for start, end, _ in layout.spans.values()]
    return torch.cat(pieces)


def apart(buffer: Tensor, layout: Layout, K: int) -> Tensor:
    """The inverse of :func:`side_by_side`: ``[K P]`` to ``[K, P]``."""
    spans = layout.spans.values()
    return torch.cat([buffer[K * start : K * end].view(K, -1) for start, end, _ in spans], dim=1)


def resized(adapter: Adapter, rank: int) -> Adapter:
    """The adapter with its factors cut or zero-padded to `rank`; itself where they have it."""
    changed = {}
    for (module, part), tensor in adapter.items():
        axis = RANK_AXIS.get(base_part(part))
        if axis is not None and tensor.shape[axis] != rank:
            keep = min(rank, tensor.shape[axis])
            shape = list(tensor.shape)
            shape[axis] = rank
            new = tensor.new_zeros(shape)
            new.narrow(axis, 0, keep).copy_(tensor.narrow(axis, 0, keep))
            changed[module, part] = new
    return adapter.overwrite(changed) if changed else adapter
