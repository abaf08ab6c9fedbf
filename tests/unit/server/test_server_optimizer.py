"""Server optimisers against the formulas of Reddi et al. (2021), Algorithm 2, in float64."""

from dataclasses import replace

import pytest
import torch
from test_methods import clients_of, method_of, rounds, same_adapter

from rolora.config import ServerConfig
from rolora.core.types import Adapter, ServerState
from rolora.server.optimizer import server_step

ADAPTIVE = ["fedavgm", "fedadam", "fedyogi"]


def state(number, A, B, versions):
    parts = Adapter.of({("m", "A"): A, ("m", "B"): B})
    return ServerState(number, parts, versions)


class Reference:
    """One tensor's server optimiser, written down from the paper."""

    def __init__(self, config, x):
        self.config, self.x = config, x.double()
        self.m = torch.zeros_like(self.x)
        self.v = torch.full_like(self.x, config.tau**2)

    def step(self, delta):
        c = self.config
        if c.optimizer == "fedavg":
            self.x = self.x + c.lr * delta
        elif c.optimizer == "fedavgm":
            self.m = c.momentum * self.m + delta
            self.x = self.x + c.lr * self.m
        else:
            self.m = c.momentum * self.m + (1 - c.momentum) * delta
            squared = delta * delta
            if c.optimizer == "fedadam":
                self.v = c.beta2 * self.v + (1 - c.beta2) * squared
            else:
                self.v = self.v - (1 - c.beta2) * squared * torch.sign(self.v - squared)
            self.x = self.x + c.lr * self.m / (torch.sqrt(self.v) + c.tau)
        return self.x


@pytest.mark.parametrize("optimizer", ["fedavg", *ADAPTIVE])
def test_ten_alternating_rounds_follow_the_formulas_with_separate_state_for_a_and_b(optimizer):
    config = ServerConfig(optimizer=optimizer, lr=0.3, momentum=0.8, beta2=0.95, tau=0.01)
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(2, 3, generator=generator), torch.zeros(4, 2)
    references = {"A": Reference(config, A), "B": Reference(config, B)}
    current = state(0, A, B, {"A": 0, "B": 0})
    for number in range(1, 11):
        active = "B" if number % 2 else "A"
        delta = 0.1 * torch.randn(current.parts["m", active].shape, generator=generator)
        aggregate = current.parts.overwrite({("m", active): current.parts["m", active] + delta})
        new = replace(
            current, round=number, parts=aggregate, versions={**current.versions, active: number}
        )
        stepped = server_step(config, current, new, frozenset({"A", "B"}))
        expected = references[active].step(delta.double())
        torch.testing.assert_close(
            stepped.parts["m", active].double(), expected, rtol=1e-4, atol=1e-6
        )
        frozen = "A" if active == "B" else "B"
        assert torch.equal(stepped.parts["m", frozen], current.parts["m", frozen])
        assert stepped.versions == new.versions
        current = stepped
    moments = {"fedavg": "", "fedavgm": "m", "fedadam": "mv", "fedyogi": "mv"}[optimizer]
    assert set(current.optimizer) == {f"{k}/m::{part}" for k in moments for part in "AB"}


def test_fedavg_at_rate_one_is_the_aggregate_itself():
    new = state(1, torch.ones(1, 2), torch.ones(2, 1), {"A": 0, "B": 1})
    assert server_step(ServerConfig(), new, new, frozenset({"A", "B"})) is new


@pytest.mark.parametrize("optimizer", ADAPTIVE)
@pytest.mark.parametrize("case", ["rolora", "ffa_lora", "fedsa_lora"])
def test_the_frozen_factor_does_not_move_whatever_the_momentum(optimizer, case):
    config = ServerConfig(optimizer=optimizer, lr=0.5)
    method = method_of(case)
    optimizer_state = {}
    for old, plans, _, _, new in rounds(method, clients_of(case), 4):
        start = method.start(old)
        stepped = server_step(
            config, start, replace(new, optimizer=optimizer_state), method.stepped
        )
        moved = {"A", "B"} & plans[0].upload
        for part in ("A", "B"):
            same = same_adapter(stepped.parts.select({part}), start.parts.select({part}))
            assert same == (part not in moved)
        optimizer_state = stepped.optimizer


@pytest.mark.parametrize("optimizer", ADAPTIVE)
def test_the_base_weight_moves_as_a_whole_where_the_method_moves_it(optimizer):
    config = ServerConfig(optimizer=optimizer, lr=0.5)
    method = method_of("flora")
    for old, _, _, _, new in rounds(method, clients_of("flora"), 3):
        stepped = server_step(config, old, new, method.stepped)
        assert not stepped.parts.parts & {"U", "V"}  # they say something else than D now
        assert set(stepped.versions) == set(stepped.parts.parts)
        key = ("square", "D")
        before = old.parts.get(key, torch.zeros(24, 24))
        reference = Reference(config, before)
        expected = reference.step((new.parts[key] - before).double())
        torch.testing.assert_close(stepped.parts[key].double(), expected, rtol=1e-4, atol=1e-5)


def test_momentum_carries_on_through_a_round_whose_mean_did_not_move():
    config = ServerConfig(optimizer="fedavgm", momentum=0.5)
    zero = state(0, torch.ones(1, 2), torch.zeros(2, 1), {"A": 0, "B": 0})
    moved = state(1, torch.ones(1, 2), torch.ones(2, 1), {"A": 0, "B": 1})
    once = server_step(config, zero, moved, frozenset({"A", "B"}))
    still = replace(once, round=2, versions={"A": 0, "B": 2})
    twice = server_step(config, once, still, frozenset({"A", "B"}))
    assert torch.equal(twice.parts["m", "B"], torch.full((2, 1), 1.5))


def test_fedex_residual_is_left_alone():
    method = method_of("fedex_lora")
    config = ServerConfig(optimizer="fedadam")
    for old, _, _, _, new in rounds(method, clients_of("fedex_lora"), 2):
        stepped = server_step(config, old, new, method.stepped)
        kept = {"D", "U", "V"}
        assert same_adapter(stepped.parts.select(kept), new.parts.select(kept))


def test_the_old_moments_are_not_written_over():
    config = ServerConfig(optimizer="fedavgm")
    old = state(0, torch.zeros(1, 2), torch.zeros(2, 1), {"A": 0, "B": 0})
    new = state(1, torch.zeros(1, 2), torch.ones(2, 1), {"A": 0, "B": 1})
    once = server_step(config, old, new, frozenset({"A", "B"}))
    kept = {name: tensor.clone() for name, tensor in once.optimizer.items()}
    again = replace(new, round=2, versions={"A": 0, "B": 2}, optimizer=once.optimizer)
    server_step(config, old, again, frozenset({"A", "B"}))
    assert all(torch.equal(once.optimizer[name], tensor) for name, tensor in kept.items())
