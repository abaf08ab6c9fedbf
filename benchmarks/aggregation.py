"""What the server does: the mean of 1,000 clients' factors, and FlexLoRA's SVD."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import Work, Workload
from rolora.core.algebra import low_rank_svd
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter, Key, Update
from rolora.reducers import Mean
from rolora.reducers.products import WeightedProducts

STACKED, STREAMED = "stack per tensor", "rolora, streamed"
DENSE, FACTORED = "dense SVD", "rolora, through QR"


def mean(quick: bool) -> Workload:
    """One factor in 48 modules ``[1024, 4]`` of 1,000 clients."""
    clients = 100 if quick else 1000
    variants = {STACKED: stacked_mean, STREAMED: streamed_mean}
    return Workload(
        title=f"mean of {clients} clients' factors (48 modules x [1024, 4])",
        variants={
            name: partial(_mean_work, mean, clients, list) for name, mean in variants.items()
        },
        # Here every update is made when it is asked for, as if it had just come in.
        arriving={
            name: partial(_mean_work, mean, clients, iter) for name, mean in variants.items()
        },
        targets={STREAMED: 8.0},
        tolerance={STREAMED: 1e-6},
        repeats=7,
    )


def _mean_work(
    mean: Callable[[Iterable[Update]], Tensor],
    clients: int,
    hold: Callable[[Iterator[Update]], Iterable[Update]],
) -> Work:
    updates = hold(arrivals(clients))
    return Work(lambda: mean(updates))


def arrivals(clients: int) -> Iterator[Update]:
    """One update after the other."""
    shapes: dict[Key, Tensor] = {(f"layer{i}", "B"): torch.zeros(1024, 4) for i in range(48)}
    layout = Adapter.of(shapes).layout
    for k in range(clients):
        flat = torch.rand(layout.size, generator=torch_generator(0, "benchmark", "update", k))
        yield Update(client=k, num_examples=1 + k % 7, parts=Adapter(layout, flat))


def streamed_mean(updates: Iterable[Update]) -> Tensor:
    """Rolora's."""
    return Mean().reduce(updates).parts.flat


def stacked_mean(updates: Iterable[Update]) -> Tensor:
    """All updates at once: each tensor stacked over clients, then weighted and summed."""
    received = list(updates)
    weights = torch.tensor([float(update.num_examples) for update in received])
    weights = (weights / weights.sum())[:, None, None]
    means = {
        key: (weights * torch.stack([update.parts[key] for update in received])).sum(0)
        for key in received[0].parts
    }
    return Adapter.of(means).flat


def flexlora_svd(quick: bool) -> Workload:
    """The mean product of 50 clients at rank 4, width 1,024, cut to rank 4."""
    width = 256 if quick else 1024
    return Workload(
        title=f"FlexLoRA's SVD, width {width}, r 4, 50 clients",
        variants={
            DENSE: lambda: Work(partial(dense_svd, clients_factors(width))),
            FACTORED: lambda: Work(partial(factored_svd, clients_factors(width))),
        },
        targets={FACTORED: 10.0},
        tolerance={FACTORED: 1e-5},
        repeats=5,
    )


def clients_factors(width: int, clients: int = 50, r: int = 4) -> list[Update]:
    """Factors that clients trained from a common start: a shared part and one of their own."""
    generator = torch_generator(0, "benchmark", "flexlora")
    A, B = (torch.randn(shape, generator=generator) for shape in ((r, width), (width, r)))
    updates = []
    for k in range(clients):
        own = {
            key: shared + 0.5 * torch.randn(shared.shape, generator=generator)
            for key, shared in ((("layer", "A"), A), (("layer", "B"), B))
        }
        updates.append(Update(client=k, num_examples=1 + k % 5, parts=Adapter.of(own)))
    return updates


def factored_svd(updates: list[Update], rank: int = 4) -> Tensor:
    """Rolora's; the truncated product as one vector."""
    products = WeightedProducts()
    for update in updates:
        products.add(update.parts, update.num_examples, scaling=1.0)
    U, V = products.result()["layer"]
    left, values, right = low_rank_svd(U, V, rank)
    return ((left * values) @ right).reshape(-1)


def dense_svd(updates: list[Update], rank: int = 4) -> Tensor:
    """The mean of the dense products, and its SVD."""
    total = sum(update.num_examples for update in updates)
    product = sum(
        update.num_examples / total * update.parts["layer", "B"] @ update.parts["layer", "A"]
        for update in updates
    )
    left, values, right = torch.linalg.svd(product, full_matrices=False)
    return ((left[:, :rank] * values[:rank]) @ right[:rank]).reshape(-1)
