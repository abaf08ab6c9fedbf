"""LA-LoRA: alternate the factors at every local step, average both (Liu et al., 2026)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rolora.core.rules import ClientRule, Stack, Steps
from rolora.core.section import NonNegative
from rolora.core.types import BESIDE, Factor
from rolora.methods.fedit import FedIT
from rolora.methods.options import Options


class LALoRAOptions(Options):
    """`smoothing` is the standard deviation, in entries, of a Gaussian by which the gradients of
    both factors are smoothed, against the noise of differential privacy; 0 does nothing.
    """

    smoothing: NonNegative = 0.0


class LALoRA(FedIT):
    """Local steps 1, 3, ... move B, steps 2, 4, ... move A; ``A <- mean_i A_i``,
    ``B <- mean_i B_i``.

    Inexact, as both have moved by the end of a round. A factor that rests keeps its place and its
    optimiser's state. With one local step A never moves. B comes first, because with ``B = 0`` the
    gradient of A is zero; the authors' code begins with A, and has twice A's rate for B
    (`optimizer.lr_b`).

    With `smoothing` the gradient matrix ``[r, d_in]`` or ``[d_out, r]`` of the factor that moves
    is convolved with a Gaussian over both axes, periodically.

    Source: Liu et al., Rethinking LoRA for Privacy-Preserving Federated Learning in Large Models,
    ICLR 2026 (arXiv 2602.19926): the abstract and the authors' code. That the filter is a Gaussian
    is what summaries of the paper say; its kernel could not be checked. The authors' code has
    another low-pass, ``(I - sigma Laplacian)^-1``, in runs with noise alone, and takes a step along
    the smoothed gradient in addition to the optimiser's own; here there is one.
    """

    Options = LALoRAOptions
    title = "LA-LoRA"
    citation = "Liu et al., ICLR 2026 (arXiv 2602.19926)"

    def rules(self) -> tuple[ClientRule, ...]:
        """The alternation, after what changes gradients otherwise."""
        return (*super().rules(), Alternation(self.options.smoothing))


class Alternation(ClientRule):
    """One factor moves at a time, B first."""

    def __init__(self, smoothing: float):
        self.smoothing = smoothing

    def steps(self, stack: Stack, optimizer: torch.optim.Optimizer) -> Steps:
        """From the first step of the round on."""
        return _Alternating(stack, optimizer, self.smoothing)


class _Alternating(Steps):
    def __init__(self, stack: Stack, optimizer: torch.optim.Optimizer, smoothing: float):
        self.stack, self.smoothing, self.taken = stack, smoothing, 0
        groups = zip(stack.parts(), optimizer.param_groups, strict=True)
        self.held = {part: group["params"][0] for part, group in groups}

    def gradient(self) -> None:
        active: Factor = "A" if self.taken % 2 else "B"
        resting = BESIDE[active]
        self.taken += 1
        self.stack.part(self.stack.gradients, resting).zero_()
        # An optimiser moves what has a gradient of zero too, by momentum and decay.
        self.held[resting].grad = None
        self.held[active].grad = self.stack.part(self.stack.gradients, active)
        if self.smoothing > 0:
            for (_, part), gradient in self.stack.views(self.stack.gradients).items():
                if part == active:
                    gradient.copy_(smoothed(gradient, self.smoothing))


def smoothed(matrices: Tensor, deviation: float) -> Tensor:
    """``[..., n, m]`` convolved over the last two axes, periodically, with a Gaussian of this
    standard deviation: each frequency w is multiplied by ``exp(-deviation^2 |w|^2 / 2)``.
    """
    n, m = matrices.shape[-2:]
    alike: dict[str, Any] = {"dtype": matrices.dtype, "device": matrices.device}
    rows, columns = torch.fft.fftfreq(n, **alike)[:, None], torch.fft.rfftfreq(m, **alike)
    passed = torch.exp(-2.0 * (math.pi * deviation) ** 2 * (rows**2 + columns**2))
    found: Tensor = torch.fft.irfft2(torch.fft.rfft2(matrices) * passed, s=(n, m))
    return found
