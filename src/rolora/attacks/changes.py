"""Attacks on the update: what a hostile client sends in place of the change that it trained.

A change is what a client's uploaded parts moved since the round's start, ``[d]``. Hostile clients
know each other and all honest changes of the round: the worst case, in which defences are judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """What a hostile client knows in a round.

    Args:
        own: the change that it trained, ``[d]``.
        honest: those of the honest clients, ``[m, d]``.
        liars: how many of the round's clients are hostile.
        generator: its own randomness.
    """

    own: Tensor
    honest: Tensor
    liars: int
    generator: torch.Generator


Lie = Callable[[Seen], Tensor]


def sign_flip(seen: Seen) -> Tensor:
    """``-x``."""
    return -seen.own


def scaled(seen: Seen) -> Tensor:
    """``-10 x``."""
    return -10 * seen.own


def boosted(seen: Seen) -> Tensor:
    """``n / m`` times the change, of m hostile clients of n: enough to replace the mean by it.

    Source: Bagdasaryan et al., How To Backdoor Federated Learning, AISTATS 2020 (arXiv 1807.00459),
    section 4.2.
    """
    return seen.own * ((len(seen.honest) + seen.liars) / seen.liars)


def noise(seen: Seen) -> Tensor:
    """Gaussian, each coordinate with ten times the root mean square of the honest ones."""
    size = 10 * seen.honest.square().mean().sqrt()
    return size * torch.randn(seen.own.shape, generator=seen.generator)


def alie(seen: Seen) -> Tensor:
    """``mean - z std`` of the honest changes, coordinate by coordinate: close enough to them that
    each coordinate has honest ones beyond it, on the same side for every hostile client.

    Source: Baruch, Baruch, Goldberg, A Little Is Enough, NeurIPS 2019 (arXiv 1902.06156),
    Algorithm 3: of n clients of whom m are hostile, ``s = floor(n / 2 + 1) - m`` and z is the
    largest with ``Phi(z) < (n - m - s) / (n - m)``; of few clients that is next to nothing, so that
    z is at least the 1.5 with which the paper attacks 50.
    """
    honest = len(seen.honest)
    n = honest + seen.liars
    supporters = max(1, n // 2 + 1 - seen.liars)
    share = (honest - supporters) / honest
    z = NormalDist().inv_cdf(share) if 0.0 < share < 1.0 else 0.0
    return seen.honest.mean(0) - max(z, 1.5) * seen.honest.std(0, correction=0)


def inner_product(seen: Seen) -> Tensor:
    """``-e`` times the honest mean. With m hostile of n, ``e = 1.5 (n - m) / m``: the plain mean is
    then minus half of what the honest clients alone would have added to it.

    Source: Xie, Koyejo, Gupta, Fall of Empires, UAI 2020 (arXiv 1903.03936), section 3.
    """
    return -1.5 * len(seen.honest) / seen.liars * seen.honest.mean(0)
