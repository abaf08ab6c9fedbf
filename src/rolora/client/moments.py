"""A client's moments, carried from the frozen factor at which they were made to the present one.

Let ``G = dL/dW``, let ``s`` be the scaling, and write X for the factor beside the one that trains:
``X = A^T`` where B trains, ``X = B`` where A trains. B's gradient is ``s G X`` and A's is
``(s G^T X)^T``, so a first moment is, row by row, ``M X`` with one mean gradient M of the whole
weight. When X has become X', the moment that belongs to X' is ``M X'``. Of M only ``M X`` is known;
the M of least norm that fits is ``(M X) X^+``, whence

    m' = m T,    T = X^+ X' = (X^T X)^+ X^T X'    [r, r].

For ``X' = X R`` with an invertible R, as after a change of the gauge, T is R and nothing is lost;
else what X did not see of M is taken as zero. In orthonormal bases of X and X' this is the
projection by which LoRA-RITE carries its first moment from one step to the next (Yen et al., ICLR
2025, arXiv 2410.20625); AltLoRA (Yu et al., 2025, arXiv 2505.12455) does so for scaled gradients.

The second moment is kept by entry, ``v_ij`` near ``E (M_i x_j)^2``, and how its columns go together
is not known, so that no exact rule exists. ``v_ij / |x_j|^2`` is the mean square of gradient row i
along the direction of ``x_j``; along that of ``x'_j`` it is taken as the mean over the old
directions k, weighted by the square of the share of ``x'_j`` that lies along ``x_k``:

    v'_ij = |x'_j|^2 sum_k P_kj v_ik / |x_k|^2,    P_kj ~ (|x_k| T_kj)^2,  sum_k P_kj = 1.

It stays nonnegative and within the scales of the old one, however near to each other the columns of
X are, where ``v (T * T)`` would grow without bound; where they are orthogonal and X' lies in their
span, it is ``v (T * T)``. It is exact where columns are scaled, exchanged or change their sign.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rolora.client.optimizer import load_optimizer_state, optimizer_state
from rolora.client.stack import Stack
from rolora.core.rules import ClientRule, Draw, Job, Steps, Trained
from rolora.core.types import BESIDE, Adapter, Factor, Part

FIRST, SECOND = ("exp_avg", "momentum_buffer"), ("exp_avg_sq",)
BASIS = "basis"
CUTOFF = 1e-10
"""Of ``X^T X``: directions of X weaker than 1e-5 of the strongest are float32's rounding."""
TINY = 1e-30
OPTIMIZER = "optimizer/"
"""Before the names under which a client keeps its optimiser's state."""


class KeepMoments(ClientRule):
    """A client's optimiser goes on from round to round as if nothing had happened."""

    def group(self, job: Job) -> Hashable:
        """Clients that share an optimiser kept as much and made as many steps."""
        return frozenset(
            (name, float(value) if value.dim() == 0 else 0.0)
            for name, value in kept_moments(job).items()
            if name.partition(".")[0] in job.plan.train
        )

    def steps(self, stack: Stack, optimizer: torch.optim.Optimizer) -> Steps:  # type: ignore[override]
        """With what the clients kept in the optimiser."""
        load_optimizer_state(optimizer, stack, [kept_moments(job) for job in stack.jobs])
        return _Keeping(stack, optimizer)


class CarryMoments(KeepMoments):
    """The same, with the moments carried to the factor that is frozen now."""

    def start(self, job: Job, draw: Draw) -> Job:
        """The job with its kept moments as if made at the factors that it starts from."""
        carried = transported(kept_moments(job), job.start, job.plan.train)
        others = {n: v for n, v in job.kept.items() if not n.startswith(OPTIMIZER)}
        return replace(job, kept={**others, **named(carried)})

    def steps(self, stack: Stack, optimizer: torch.optim.Optimizer) -> Steps:  # type: ignore[override]
        """With the carried moments; the factor beside each is kept with it."""
        super().steps(stack, optimizer)
        return _Carrying(stack, optimizer)


class _Keeping(Steps):
    def __init__(self, stack: Stack, optimizer: torch.optim.Optimizer):
        self.stack, self.optimizer = stack, optimizer

    def finish(self, k: int, trained: Trained) -> Trained:
        return replace(trained, kept={**trained.kept, **named(self.state(k, trained))})

    def state(self, k: int, trained: Trained) -> dict[str, Tensor]:
        return optimizer_state(self.optimizer, self.stack, k)


class _Carrying(_Keeping):
    def state(self, k: int, trained: Trained) -> dict[str, Tensor]:
        return with_bases(super().state(k, trained), self.stack.jobs[k].start, trained.parts)


def kept_moments(job: Job) -> dict[str, Tensor]:
    """The optimiser's state among what a client kept: a ``part.name`` to a number or a vector."""
    return {
        name.removeprefix(OPTIMIZER): value
        for name, value in job.kept.items()
        if name.startswith(OPTIMIZER)
    }


def named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An optimiser's state under the names by which it is kept."""
    return {OPTIMIZER + name: value for name, value in state.items()}


MOMENTS: Mapping[str, tuple[ClientRule, ...]] = {
    "reset": (),
    "persist": (KeepMoments(),),
    "transport": (CarryMoments(),),
}
"""By ``optimizer.state``: the rule that does it."""


def with_bases(kept: Mapping[str, Tensor], start: Adapter, trained: Adapter) -> dict[str, Tensor]:
    """The optimiser's state, and for each factor in it the factor beside it at the last step.

    Args:
        kept: ``part.name`` to a number or a vector ``[P_part]``.
        start: the client's tensors before training; trained: those that trained, after it.
    """
    bases = {}
    for factor, beside in BESIDE.items():
        if factor in trained.parts:
            holder = trained if beside in trained.parts else start
            bases[f"{factor}.{BASIS}"] = holder.select({beside}).flat.clone()
    return {**kept, **bases}


def transported(
    kept: Mapping[str, Tensor], start: Adapter, train: Collection[Part]
) -> dict[str, Tensor]:
    """The state of :func:`with_bases` as if made at the factors of `start`.

    Where the factor beside has not changed, bit for bit what was kept. A factor that does not
    train now keeps its basis: to carry it on the way would lose more than to carry it once.
    """
    carried = dict(kept)
    for factor, beside in BESIDE.items():
        if factor not in train or f"{factor}.{BASIS}" not in carried:
            continue
        new = start.select({beside})
        old = Adapter(new.layout, carried.pop(f"{factor}.{BASIS}"))
        if torch.equal(old.flat, new.flat):
            continue
        layout = start.layout.select({factor})
        moments = {
            name: Adapter(layout, carried[name].clone())
            for name in (f"{factor}.{kind}" for kind in FIRST + SECOND)
            if name in carried
        }
        for module in old.modules:
            T, P = maps(*(rank_last(a[module, beside], beside) for a in (old, new)))
            for name, moment in moments.items():
                rows = rank_last(moment[module, factor], factor)
                rows.copy_(rows.double() @ (P if name.endswith(SECOND) else T))
        carried |= {name: moment.flat for name, moment in moments.items()}
    return carried


def maps(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """What first and second moments are multiplied by, from the right, when X changes.

    Args:
        old: ``X [n, r]``; new: ``X' [n, r]``.

    Returns:
        ``T [r, r]`` and ``diag(|x_k|^-2) P diag(|x'_j|^2) [r, r]`` in float64.
    """
    old, new = old.double(), new.double()
    inverse = torch.linalg.pinv(old.T @ old, rtol=CUTOFF, hermitian=True)
    T = inverse @ (old.T @ new)
    sizes, new_sizes = old.square().sum(0), new.square().sum(0)
    shares = sizes[:, None] * T.square()
    # A direction of which X saw nothing keeps the scale of its own column.
    shares += TINY * torch.eye(len(T), dtype=T.dtype)
    return T, shares / shares.sum(0) * new_sizes / sizes.clamp(min=TINY)[:, None]


def rank_last(tensor: Tensor, factor: Factor) -> Tensor:
    """A view with the rank as its last axis: ``B [d_out, r]`` itself, ``A [r, d_in]`` turned."""
    return tensor if factor == "B" else tensor.T
