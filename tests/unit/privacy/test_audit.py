"""A one-run audit: what can be guessed of canaries must not be more than epsilon allows.

Steinke, Nasr & Jagielski, Privacy Auditing with One (1) Training Run, NeurIPS 2023 (arXiv
2305.08846): each of m canaries takes part by a fair coin; an auditor who sees what is released
guesses r of the coins, and abstains from the others. Of v right guesses, the largest epsilon that a
run with fewer right ones would pass at 95 % is a lower bound.
"""

import math
from functools import partial

import pytest
import torch
from scipy.stats import binom
from torch import nn

import small
from rolora.client.per_example import PerExample
from rolora.client.update import local_update
from rolora.config import PrivacyConfig
from rolora.core.noise import seeded
from rolora.core.rules import Job
from rolora.core.types import Adapter, Plan, Update
from rolora.data import Examples
from rolora.model.lora import LoraModel
from rolora.privacy.accounting import Accountant
from rolora.reducers.noised_mean import NoisedMean

DELTA = 1e-5


def p_value(m, r, v, epsilon):
    """Of at least `v` right guesses among `r`, under epsilon and DELTA (theorem 5.2)."""
    right = 1 / (1 + math.exp(-epsilon))
    alpha, total = 0.0, 0.0
    for i in range(1, v + 1):
        total += binom.pmf(v - i, r, right)
        alpha = max(alpha, total / i)
    return min(1.0, binom.sf(v - 1, r, right) + 2 * m * DELTA * alpha)


def lower_bound(scores, took_part, guesses):
    """The largest epsilon at which so many right guesses are below 5 %."""
    middle = scores.median()
    order = (scores - middle).abs().argsort(descending=True)[:guesses]
    right = int(((scores[order] > middle) == took_part[order]).sum())
    low, high = 0.0, 50.0
    while high - low > 1e-3:
        epsilon = (low + high) / 2
        low, high = (epsilon, high) if p_value(len(scores), guesses, right, epsilon) < 0.05 else (
            low, epsilon)  # fmt: skip
    return low


def coins(m, seed):
    return torch.rand(m, generator=torch.Generator().manual_seed(seed)) < 0.5


def clients_audited(noise, rounds, m=1000):
    """Canaries that are clients, each of which pushes a number of its own as far as it may."""
    start = Adapter.of({("m", "B"): torch.zeros(m, 1)})
    took_part, scores = coins(m, 1), torch.zeros(m)
    draws = seeded(5)
    for number in range(rounds):
        reducer = NoisedMean(
            start, start.layout, 0.5, 1.0,
            lambda total, n=number: noise * draws.gaussian(len(total), "noise", n),
        )  # fmt: skip
        for client in took_part.nonzero()[:, 0].tolist():
            push = torch.zeros(m)
            push[client] = 1e3
            reducer.add(Update(client, 1, Adapter(start.layout, push)))
        scores += reducer.result().parts.flat
    return lower_bound(scores, took_part, m // 5)


def examples_audited(noise, steps, m=500):
    """Canaries that are examples, each with an input of its own: what a step adds for one lies in
    its own column of A.
    """
    base = nn.Sequential(nn.Linear(m, 2), nn.Identity())
    net = Pixels(base)
    model = LoraModel(net, ["base.0"])
    labels = torch.arange(m) % 2
    data = Examples(labels, labels, ("no", "yes"), dense={"x": 50.0 * torch.eye(m)})
    start = Adapter.of({("base.0", "A"): torch.zeros(1, m), ("base.0", "B"): torch.ones(2, 1)})
    start["base.0", "B"][1] = -1.0
    took_part = coins(m, 2)
    plan = Plan(1, 0, start, {}, frozenset({"A"}), frozenset({"A"}), 1, 1.0)
    job = Job(plan, start, took_part.nonzero()[:, 0])
    privacy = PrivacyConfig(unit="example", clip=0.1, noise_multiplier=noise, seed=4)
    settings = small.config(
        optimizer={"name": "sgd", "lr": 1.0, "local_steps": steps, "batch_size": 10**6}
    ).optimizer
    given = (small.CLASSIFICATION, model, data, [job], settings, 0)
    [trained] = local_update(*given, descend=partial(PerExample, privacy, 1))
    direction = torch.where(labels == 0, 1.0, -1.0)  # A's column grows for a "no"
    return lower_bound(trained.parts["base.0", "A"][0] * direction, took_part, m // 5)


class Pixels(nn.Module):
    """A linear layer on ``x``."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        with torch.no_grad():
            base[0].weight.zero_()
            base[0].bias.zero_()

    def forward(self, x):
        return self.base(x)


@pytest.mark.parametrize("audited", [clients_audited, examples_audited])
@pytest.mark.parametrize("releases", [1, 4])
def test_what_canaries_tell_is_less_than_epsilon_and_more_than_nothing(audited, releases):
    noise = 0.8 * releases**0.5
    epsilon = Accountant(1.0, noise, DELTA).epsilon(releases)
    assert 0.1 * epsilon < audited(noise, releases) < epsilon


@pytest.mark.parametrize("audited", [clients_audited, examples_audited])
def test_the_audit_sees_noise_that_is_too_small(audited):
    claimed = Accountant(1.0, 4.0, DELTA).epsilon(1)
    assert audited(0.4, 1) > claimed
