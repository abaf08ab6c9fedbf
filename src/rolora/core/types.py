"""The nouns of a federated round: adapters, plans, updates and the server's state.

An :class:`Adapter` is the one form in which tensors are trained, sent, averaged and saved. It is
a mapping from ``(module, part)`` to a tensor, held in one flat vector, so that a mean over
clients or an optimiser step touches one tensor however many modules there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Part: TypeAlias = str
"""What a tensor is to its module.

``A`` ``[r, d_in]`` is the down-projection, ``B`` ``[d_out, r]`` the up-projection, ``head`` a
parameter of the classification head. A method that moves the base weight itself sends either
``U`` ``[d_out, q]`` and ``V`` ``[q, d_in]``, an increment ``W <- W + U V``, or ``D``
``[d_out, d_in]``, everything since the pretrained weight: ``W = W_0 + D``. What a method keeps
beside a part and of its shape is named after it, as ``control.B``: a side part, which is no part
of the model.
"""

PARTS: tuple[Part, ...] = ("A", "B", "head", "D", "U", "V")
Factor = Literal["A", "B"]
BESIDE: Mapping[Factor, Factor] = {"A": "B", "B": "A"}
"""The other factor of the product ``B A``."""
Key = tuple[str, Part]
RANK_AXIS: Mapping[Part, int] = {"A": 0, "B": 1}
"""Which axis of a factor is the rank."""


def base_part(part: Part) -> Part:
    """The part that `part` has the shape of: ``B`` for ``control.B``, ``B`` for ``B`` itself."""
    return part.rpartition(".")[2]


def is_side(part: Part) -> bool:
    """Whether `part` is kept beside a part of the model rather than being one."""
    return "." in part


def side_part(name: str, part: Part) -> Part:
    """``control.B`` for ``control`` and ``B``."""
    return f"{name}.{part}"


def scaling_of(lora_alpha: float, rank: int) -> float:
    """The scaling ``s = lora_alpha / r`` of the product ``s B A``."""
    return lora_alpha / rank


@dataclass(frozen=True)
class Layout:
    """The keys and shapes of an adapter, in the order in which they lie in its flat vector."""

    entries: tuple[tuple[Key, tuple[int, ...]], ...]

    @staticmethod
    def of(shapes: Mapping[Key, tuple[int, ...]]) -> Layout:
        """Order `shapes` by part and module: one order for all, one contiguous slice a part."""
        return Layout(tuple(sorted(shapes.items(), key=lambda item: _place(item[0]))))

    @cached_property
    def size(self) -> int:
        """Number of scalars."""
        return sum(prod(shape) for _, shape in self.entries)

    @cached_property
    def spans(self) -> Mapping[Key, tuple[int, int, tuple[int, ...]]]:
        """Per key: start, end and shape in the flat vector."""
        spans, at = {}, 0
        for key, shape in self.entries:
            spans[key] = (at, at + prod(shape), shape)
            at += prod(shape)
        return spans

    @cached_property
    def parts(self) -> frozenset[Part]:
        """The parts present."""
        return frozenset(part for (_, part), _ in self.entries)

    @cached_property
    def part_sizes(self) -> Mapping[Part, int]:
        """Per part, in the order of the flat vector: number of scalars."""
        sizes: dict[Part, int] = {}
        for (_, part), shape in self.entries:
            sizes[part] = sizes.get(part, 0) + prod(shape)
        return sizes

    def extent(self, part: Part) -> tuple[int, int]:
        """Start and end of `part` in the flat vector, in which it is one piece."""
        spans = [self.spans[key] for key, _ in self.entries if key[1] == part]
        return spans[0][0], spans[-1][1]

    def select(self, parts: Collection[Part]) -> Layout:
        """The layout of the entries whose part is in `parts`."""
        return Layout(tuple(entry for entry in self.entries if entry[0][1] in parts))


def _place(key: Key) -> tuple[int, Part, str]:
    """The order of keys: parts of the model as in `PARTS`, then side parts by name."""
    module, part = key
    known = PARTS.index(part) if part in PARTS else len(PARTS)
    return known, part, module


class Adapter(Mapping[Key, Tensor]):
    """Named tensors in one flat vector; immutable by convention.

    Args:
        layout: keys and shapes.
        flat: float tensor of shape ``[layout.size]``.
    """

    __slots__ = ("flat", "layout")

    def __init__(self, layout: Layout, flat: Tensor):
        if flat.shape != (layout.size,):
            raise ValueError(f"flat has shape {tuple(flat.shape)}, layout needs ({layout.size},)")
        self.layout, self.flat = layout, flat

    @staticmethod
    def of(tensors: Mapping[Key, Tensor]) -> Adapter:
        """Copy `tensors` into a new flat float32 vector."""
        layout = Layout.of({key: tuple(t.shape) for key, t in tensors.items()})
        if not tensors:
            return Adapter(layout, torch.zeros(0))
        return Adapter(
            layout, torch.cat([tensors[key].reshape(-1).float() for key, _ in layout.entries])
        )

    def __getitem__(self, key: Key) -> Tensor:
        start, end, shape = self.layout.spans[key]
        return self.flat[start:end].view(shape)

    def __iter__(self) -> Iterator[Key]:
        return iter(key for key, _ in self.layout.entries)

    def __len__(self) -> int:
        return len(self.layout.entries)

    def __repr__(self) -> str:
        return (
            f"Adapter({len(self)} tensors, {self.layout.size} scalars, parts {sorted(self.parts)})"
        )

    @property
    def parts(self) -> frozenset[Part]:
        """The parts present."""
        return self.layout.parts

    @property
    def modules(self) -> list[str]:
        """The modules present, in order of first appearance."""
        return list(dict.fromkeys(module for (module, _), _ in self.layout.entries))

    def select(self, parts: Collection[Part]) -> Adapter:
        """The tensors whose part is in `parts`; a view where they lie side by side."""
        layout = self.layout.select(parts)
        spans = [self.layout.spans[key][:2] for key, _ in layout.entries]
        if not spans:
            return Adapter(layout, self.flat[:0])
        first, last = spans[0][0], spans[-1][1]
        if last - first == layout.size:
            return Adapter(layout, self.flat[first:last])
        return Adapter(layout, torch.cat([self.flat[start:end] for start, end in spans]))

    def overwrite(self, other: Mapping[Key, Tensor]) -> Adapter:
        """A new adapter with `other`'s tensors written over these; new keys are added."""
        return Adapter.of({**dict(self), **dict(other)})

    def without(self, parts: Collection[Part]) -> Adapter:
        """The tensors whose part is not in `parts`."""
        return self.select(self.parts - frozenset(parts))

    def clone(self) -> Adapter:
        """A copy that shares no memory."""
        return Adapter(self.layout, self.flat.clone())


def named_by_part(name: str, adapter: Adapter) -> dict[str, Tensor]:
    """An adapter as a client keeps it: a vector a part, as ``name/B``."""
    return {f"{name}/{part}": adapter.select({part}).flat.clone() for part in adapter.parts}


def kept_by_part(name: str, kept: Mapping[str, Tensor], layout: Layout) -> Adapter:
    """What :func:`named_by_part` named, for `layout`; zero for a part that was never kept."""
    pieces = []
    for part in dict.fromkeys(part for (_, part), _ in layout.entries):
        start, end = layout.extent(part)
        pieces.append(kept.get(f"{name}/{part}", torch.zeros(end - start)))
    return Adapter(layout, torch.cat(pieces))


def laid_out(start: Adapter, layout: Layout) -> Tensor:
    """The values of `start` for `layout`, in its order; zero for what it lacks."""
    return torch.cat(
        [
            start[key].reshape(-1) if key in start else torch.zeros(end - begin)
            for key, (begin, end, _) in layout.spans.items()
        ]
    )


EMPTY = Adapter(Layout(()), torch.zeros(0))


@dataclass(frozen=True)
class ClientInfo:
    """What a method may know of a client: its id, its rank and its number of examples."""

    id: int
    rank: int
    num_examples: int


@dataclass(frozen=True)
class Increment:
    """How a part went from one version to the next, as the stages of the way down left it.

    Args:
        part: which one.
        since: the version that it adds to; version: the one that it makes.
        codes: the coded change, one vector.
        side: tensors by name that a stage sends beside it.
    """

    part: Part
    since: int
    version: int
    codes: Tensor
    side: Mapping[str, Tensor] = field(default_factory=dict)


def leading(
    increments: Sequence[Increment], part: Part, since: int | None, version: int
) -> Sequence[Increment]:
    """The increments of `part` that lead from one version to another; none where one lacks."""
    before = {step.version: step for step in increments if step.part == part}
    steps: list[Increment] = []
    while version != since:
        if version not in before:
            return ()
        steps.insert(0, before[version])
        version = before[version].since
    return steps


@dataclass(frozen=True)
class Plan:
    """What one client does in one round; serialisable, and all that the client is told.

    Args:
        round: counted from 1.
        client: the client's id.
        send: tensors that the client writes over its own; only what it does not hold yet.
        versions: per part, the version that the client holds once `send` is applied.
        train: parts that train; everything else is frozen.
        upload: parts that come back; what is trained but not uploaded stays with the client.
        rank: the client's LoRA rank ``r``.
        scaling: ``lora_alpha / r``.
        local: parts that each client keeps for itself; they are never sent after the first contact.
        derives: parts of which every client makes the next version by itself, from what it holds,
            before it trains (:class:`rolora.core.rules.ClientRule`).
        increments: what leads to parts that are not in `send` from versions that the client holds.
    """

    round: int
    client: int
    send: Adapter
    versions: Mapping[Part, int]
    train: frozenset[Part]
    upload: frozenset[Part]
    rank: int
    scaling: float
    local: frozenset[Part] = frozenset()
    derives: frozenset[Part] = frozenset()
    increments: Sequence[Increment] = ()


@dataclass(frozen=True)
class Update:
    """What came back from one client: the planned parts and a few numbers.

    Args:
        client: its id.
        num_examples: that it trained on, as it says.
        parts: what it uploads, as the stages left it.
        metrics: numbers by name, such as the training loss.
        side: tensors by name that a stage sends beside the parts.
        weight: in the reduction; None is `num_examples`. What the client says where the run asks
            for it (``server.weighting: information``), else the server's.
    """

    client: int
    num_examples: int
    parts: Adapter
    metrics: Mapping[str, float] = field(default_factory=dict)
    side: Mapping[str, Tensor] = field(default_factory=dict)
    weight: float | None = None

    @property
    def mass(self) -> float:
        """Its weight in the reduction."""
        return self.num_examples if self.weight is None else self.weight


MOST_DETAIL = 500


@dataclass(frozen=True)
class Failure:
    """A client that gave no usable update, and why; `reason` is a short name such as ``nan``. Of
    `detail`, in which words of the client's own may stand, one printable line is kept.
    """

    client: int
    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", one_line(self.detail))


def one_line(text: str) -> str:
    """`text` without what would move a terminal's cursor, its end cut off where it is long."""
    shown = "".join(c if c.isprintable() else " " for c in text[: 4 * MOST_DETAIL])
    shown = " ".join(shown.split())
    return shown if len(shown) <= MOST_DETAIL else shown[: MOST_DETAIL - 3] + "..."


Sums = Mapping[str, tuple[float, ...]]
"""Statistics by name of which the scores of a task are made; those of two groups of examples add
number by number.
"""


@dataclass(frozen=True)
class Evaluation:
    """One client's held-out examples under a model, in sums over them."""

    client: int
    num_examples: int
    sums: Sums


@dataclass(frozen=True)
class RoundNotes:
    """What an engine has to say of a round beside updates and evaluations.

    Args:
        eval_failures: clients that gave no usable evaluation.
        faults: what went wrong with no client in particular, in words.
        bytes_down: tensors sent beyond the plans of the round: for the evaluation, and again to
            clients that turned out to lack them.
    """

    eval_failures: Sequence[Failure] = ()
    faults: Sequence[str] = ()
    bytes_down: int = 0


@dataclass(frozen=True)
class ServerState:
    """All that the server knows between rounds.

    Args:
        round: the last finished round; 0 before the first.
        parts: the global tensors.
        versions: per part, the round in which it last changed; 0 for the initial one.
        optimizer: the tensors by name of the server optimiser, of an adaptive schedule, and of what
            the stages of the way down have lost.
        increments: of the last rounds, with stages on the way down.
        spoilt: per client whose updates spoiled the last rounds that it took part in: how many.
    """

    round: int
    parts: Adapter
    versions: Mapping[Part, int]
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    increments: Sequence[Increment] = ()
    spoilt: Mapping[int, int] = field(default_factory=dict)
