"""A client's local training: K clients at a time, each as if it were alone.

``local_update`` is the only implementation. The simulator calls it with as many clients as pay,
a Flower node with one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from rolora.config import OptimizerConfig
from rolora.data import Examples
from rolora.lora import LoraModel
from rolora.moments import transported, with_bases
from rolora.seeds import numpy_generator, torch_generator
from rolora.types import EMPTY, PARTS, Adapter, Key, Layout, Part, Plan, Update

CHUNK_OVERHEAD = {"cpu": 40, "cuda": 1 << 20, "mps": 1 << 20}
"""What one more forward and backward pass costs, in tokens of work, by kind of device."""


@dataclass(frozen=True)
class Job:
    """One client's work in a round.

    Args:
        plan: what it was told.
        start: its tensors before training: ``A``, ``B`` and a head where one trains.
        rows: the numbers of its examples.
        optimizer: its optimiser's state from an earlier round, or None.
        delta: ``D``, which is part of the base and one for all.
    """

    plan: Plan
    start: Adapter
    rows: Tensor
    optimizer: Mapping[str, Tensor] | None = None
    delta: Adapter = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True)
class Trained:
    """What local training leaves: the update, all trained parts, and, unless it is reset before
    every round, the optimiser's state.
    """

    update: Update
    parts: Adapter
    optimizer: dict[str, Tensor] = field(default_factory=dict)


def local_update(
    model: LoraModel, data: Examples, jobs: Sequence[Job], settings: OptimizerConfig, seed: int
) -> list[Trained]:
    """Train K clients side by side, one optimiser step of all at a time.

    The loss is the sum over clients of each client's mean, so no client's gradient depends on
    another's. A client that has made its last step is harvested and what happens to its place
    in the stack afterwards is of no account. All clients need the same trained parts; ranks below
    the largest are padded with zeros, which stay zero.

    Args:
        model: the shared frozen model.
        data: the training examples.
        jobs: the K clients' work.
        settings: optimiser, learning rates, steps, batch size.
        seed: the run's seed; batches depend on it, the round and the client.
    """
    if settings.state == "transport":
        jobs = [carried(job) for job in jobs]
    stack = Stack(jobs, model.device)
    optimizer = build_optimizer(stack, settings, jobs)
    plans = [job.plan for job in jobs]
    generator = None
    if model.dropout_p > 0:
        generator = torch_generator(seed, "dropout", plans[0].round, plans[0].client)
    model.mount(stack.tensors(), [plan.scaling for plan in plans], generator)
    batches = [batch_rows(job.rows, job.plan, settings, seed) for job in jobs]
    trained: list[Trained | None] = [None] * len(jobs)
    losses = torch.zeros(len(jobs), device=model.device)
    for step in range(max(map(len, batches))):
        stack.gradients.zero_()
        current = [rows[step] if step < len(rows) else rows[-1] for rows in batches]
        for chunk in chunks(data, current, model.device.type):
            loss = chunk_loss(model, data, chunk)
            loss.sum().backward()
            losses += loss.detach()
        stack.add_proximal(plans[0].prox)
        stack.clip(settings.max_grad_norm)
        optimizer.step()
        finished = [k for k in range(len(jobs)) if step + 1 == len(batches[k])]
        for k, item in zip(finished, stack.harvest(finished, losses / (step + 1)), strict=True):
            kept = {} if settings.state == "reset" else optimizer_state(optimizer, stack, k)
            if settings.state == "transport":
                kept = with_bases(kept, jobs[k].start, item.parts)
            trained[k] = replace(item, optimizer=kept)
    return [item for item in trained if item is not None]


def carried(job: Job) -> Job:
    """The job with its kept moments as if made at the factors that it starts from."""
    return replace(job, optimizer=transported(job.optimizer or {}, job.start, job.plan.train))


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
        self.initial = self.values.clone() if jobs[0].plan.prox > 0 else None

    def part(self, buffer: Tensor, part: Part) -> Tensor:
        """The piece of `buffer` that holds `part`: ``[K P_part]``."""
        start, end = self.layout.extent(part)
        return buffer[len(self.jobs) * start : len(self.jobs) * end]

    def parts(self) -> list[Part]:
        """The trained parts, in the buffer's order."""
        return [part for part in PARTS if part in self.layout.parts]

    def tensors(self) -> dict[Key, Tensor]:
        """Every tensor with a leading axis of K (but ``D``): leaves where trained, else shared."""
        K, tensors = len(self.jobs), {}
        for key, (start, end, shape) in self.layout.spans.items():
            piece = slice(K * start, K * end)
            leaf = self.values[piece].view(K, *shape).detach().requires_grad_()
            leaf.grad = self.gradients[piece].view(K, *shape)
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

    def add_proximal(self, mu: float) -> None:
        """FedProx (Li et al., 2020): the gradient of ``mu / 2 |w - w_start|^2``."""
        if self.initial is not None:
            self.gradients.add_(self.values - self.initial, alpha=mu)

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
    axis: dict[Part, int] = {"A": 0, "B": 1}
    changed = {}
    for (module, part), tensor in adapter.items():
        if part in axis and tensor.shape[axis[part]] != rank:
            keep = min(rank, tensor.shape[axis[part]])
            shape = list(tensor.shape)
            shape[axis[part]] = rank
            new = tensor.new_zeros(shape)
            new.narrow(axis[part], 0, keep).copy_(tensor.narrow(axis[part], 0, keep))
            changed[module, part] = new
    return adapter.overwrite(changed) if changed else adapter


def build_optimizer(
    stack: Stack, settings: OptimizerConfig, jobs: Sequence[Job]
) -> torch.optim.Optimizer:
    """The clients' optimiser over the trained parts alone, one tensor and one rate a part."""
    rates = {"A": settings.lr, "B": settings.lr_b, "head": settings.lr_head}
    groups = []
    for part in stack.parts():
        buffer = nn.Parameter(stack.part(stack.values, part))
        buffer.grad = stack.part(stack.gradients, part)
        groups.append({"params": [buffer], "lr": rates.get(part) or settings.lr})
    optimizer: torch.optim.Optimizer
    if settings.name == "adamw":
        optimizer = torch.optim.AdamW(
            groups,
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    else:
        optimizer = torch.optim.SGD(
            groups, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    load_optimizer_state(optimizer, stack, jobs)
    return optimizer


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, stack: Stack, jobs: Sequence[Job]
) -> None:
    """Put the clients' kept states side by side; all must have made the same number of steps."""
    for part, group in zip(stack.parts(), optimizer.param_groups, strict=True):
        held = [job.optimizer or {} for job in jobs]
        own = [job.start.layout.select({part}) for job in jobs]
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


def batch_rows(rows: Tensor, plan: Plan, settings: OptimizerConfig, seed: int) -> list[Tensor]:
    """The batches of one client in one round: passes over its examples in fresh orders.

    Without replacement within a pass; a function of the seed, the round and the client alone.
    """
    generator = numpy_generator(seed, "batches", plan.round, plan.client)
    per_pass = -(-len(rows) // settings.batch_size)
    steps = settings.local_steps or (settings.local_epochs or 1) * per_pass
    batches: list[Tensor] = []
    while len(batches) < steps:
        order = rows[torch.from_numpy(generator.permutation(len(rows)))]
        batches.extend(order.split(settings.batch_size))
    return batches[:steps]


@dataclass(frozen=True)
class Chunk:
    """Rows ``[K, n]`` that pass through the model together, and each row's weight in its
    client's mean; a row that only fills up the rectangle weighs 0.
    """

    rows: Tensor
    weights: Tensor


def chunks(data: Examples, current: Sequence[Tensor], device_type: str) -> Iterator[Chunk]:
    """Cut the K clients' batches into chunks of similar length.

    A mean over a batch is a sum over its chunks, so the gradient does not change; what changes is
    that a short sentence is not padded to the longest of the batch.
    """
    if data.offsets is None and len(set(map(len, current))) == 1:
        rows = torch.stack(list(current))  # nothing to pad
        yield Chunk(rows, torch.full(rows.shape, 1.0 / rows.shape[1]))
        return
    stacked = nn.utils.rnn.pad_sequence(list(current), batch_first=True, padding_value=-1)
    real = stacked >= 0
    counts = real.sum(1, keepdim=True)
    order = torch.where(real, data.lengths[stacked], -1).argsort(
        dim=1, descending=True, stable=True
    )
    columns = torch.arange(stacked.shape[1])
    rows = stacked.gather(1, order.gather(1, torch.minimum(columns, counts - 1)))
    weights = torch.where(columns < counts, 1.0 / counts, 0.0)
    lengths = data.lengths[rows].amax(0).tolist()
    for start, end in cuts(lengths, len(current), CHUNK_OVERHEAD.get(device_type, 1 << 20)):
        yield Chunk(rows[:, start:end], weights[:, start:end])


def cuts(lengths: Sequence[int], clients: int, overhead: int) -> list[tuple[int, int]]:
    """The split of falling `lengths` into runs that costs least.

    A run of n columns whose longest is T costs ``n T clients + overhead`` tokens.
    """
    n = len(lengths)
    if lengths[0] == lengths[-1]:
        return [(0, n)]
    best, cut = [0.0] + [float("inf")] * n, [0] * (n + 1)
    for end in range(1, n + 1):
        for start in range(end):
            cost = best[start] + (end - start) * lengths[start] * clients + overhead
            if cost < best[end]:
                best[end], cut[end] = cost, start
    spans, end = [], n
    while end > 0:
        spans.append((cut[end], end))
        end = cut[end]
    return spans[::-1]


def chunk_loss(model: LoraModel, data: Examples, chunk: Chunk) -> Tensor:
    """Each client's share of its mean loss in this chunk: ``[K]``."""
    rows = chunk.rows.reshape(-1)
    logits = model.logits(data.batch(rows), rows)
    labels = data.labels[rows].to(logits.device)
    loss = nn.functional.cross_entropy(logits, labels, reduction="none")
    return (loss.view(chunk.rows.shape) * chunk.weights.to(loss.device)).sum(1)
