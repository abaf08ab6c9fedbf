"""A client's local training: K clients at a time, each as if it were alone.

``local_update`` is the only implementation. The simulator calls it with as many clients as pay,
a Flower node with one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rolora.config import OptimizerConfig
from rolora.data import Examples
from rolora.lora import LoraModel
from rolora.seeds import numpy_generator, torch_generator
from rolora.types import PARTS, Adapter, Key, Part, Plan, Update

CHUNK_OVERHEAD = {"cpu": 40, "cuda": 1 << 20, "mps": 1 << 20}
"""What one more forward and backward pass costs, in tokens of work, by kind of device."""


@dataclass(frozen=True)
class Job:
    """One client's work in a round.

    Args:
        plan: what it was told.
        start: its tensors before training: ``A``, ``B``, a head where one trains, and ``D``.
        rows: the numbers of its examples.
        optimizer: its optimiser's state from an earlier round, or None.
    """

    plan: Plan
    start: Adapter
    rows: Tensor
    optimizer: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Trained:
    """What local training leaves: the update, all trained parts, and the optimiser's state."""

    update: Update
    parts: Adapter
    optimizer: dict[str, Tensor]


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
        for k, job in enumerate(jobs):
            if step + 1 == len(batches[k]):
                mean_loss = float(losses[k]) / len(batches[k])
                trained[k] = stack.harvest(k, job, optimizer, mean_loss)
    return [item for item in trained if item is not None]


class Stack:
    """K clients' trained parts in one buffer ``[K P]``, their gradients in another.

    Every tensor's K copies lie side by side, so modules see contiguous views ``[K, *shape]``, and
    the optimiser sees one vector a part: it costs the same however many modules there are.
    ``places [K, P]`` says where client k's vector lies in the buffer.
    """

    def __init__(self, jobs: Sequence[Job], device: torch.device):
        self.jobs, self.device = jobs, device
        self.rank = max(job.plan.rank for job in jobs)
        self.starts = [resized(job.start, self.rank) for job in jobs]
        self.layout = self.starts[0].layout.select(jobs[0].plan.train)
        self.places = self._places().to(device)
        initial = torch.stack([start.select(self.layout.parts).flat for start in self.starts])
        self.values = torch.empty(initial.numel(), device=device)
        self.values[self.places] = initial.to(device)
        self.gradients = torch.zeros_like(self.values)
        self.initial = self.values.clone() if jobs[0].plan.prox > 0 else None

    def _places(self) -> Tensor:
        K = len(self.jobs)
        client = torch.arange(K)[:, None]
        columns = [
            K * start + client * (end - start) + torch.arange(end - start)
            for start, end, _ in self.layout.spans.values()
        ]
        return torch.cat(columns, dim=1)

    def part(self, buffer: Tensor, part: Part) -> Tensor:
        """The piece of `buffer` that holds `part`: ``[K P_part]``."""
        start, end = self.layout.extent(part)
        return buffer[len(self.jobs) * start : len(self.jobs) * end]

    def part_places(self, part: Part, clients: int | slice = slice(None)) -> Tensor:
        """Where the `clients`' vectors of `part` lie in its piece of the buffer, ``[K, P_part]``;
        for a single number ``[P_part]``.
        """
        start, end = self.layout.extent(part)
        return self.places[clients, start:end] - len(self.jobs) * start

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
            if key[1] == "D":
                tensors[key] = self.starts[0][key]
            elif key[1] in ("A", "B", "head"):
                tensors[key] = self.frozen(key).to(self.device)
        return tensors

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
            clients = self.gradients[self.places]
            norms = clients.norm(dim=1, keepdim=True)
            factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
            self.gradients[self.places] = clients * factors

    def harvest(
        self, k: int, job: Job, optimizer: torch.optim.Optimizer, train_loss: float
    ) -> Trained:
        """What client k leaves after its last step."""
        stacked = Adapter(self.layout, self.values[self.places[k]].cpu())
        parts = resized(stacked, job.plan.rank)
        update = Update(
            client=job.plan.client,
            num_examples=len(job.rows),
            parts=parts.select(job.plan.upload),
            metrics={"train_loss": train_loss},
        )
        return Trained(update, parts, optimizer_state(optimizer, self, k))


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
                state[kind] = rows[0].clone()
            else:
                padded = [
                    resized(Adapter(layout, row), stack.rank).flat
                    for layout, row in zip(own, rows, strict=True)
                ]
                state[kind] = torch.empty_like(stack.part(stack.values, part))
                state[kind][stack.part_places(part)] = torch.stack(padded).to(stack.device)


def optimizer_state(optimizer: torch.optim.Optimizer, stack: Stack, k: int) -> dict[str, Tensor]:
    """Client k's optimiser state: a ``part.name`` to a number or a vector ``[P_part]``."""
    state, rank = {}, stack.jobs[k].plan.rank
    for part, group in zip(stack.parts(), optimizer.param_groups, strict=True):
        layout = stack.layout.select({part})
        for name, value in optimizer.state[group["params"][0]].items():
            if not isinstance(value, Tensor):
                continue
            if value.dim() > 0:
                own = Adapter(layout, value[stack.part_places(part, k)].cpu())
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
