"""Rounds of which the server sees the sum alone, on the simulator."""

import re

import pytest
import torch

import small
from rolora.attacks import ATTACKS
from rolora.attacks.trial import check
from rolora.core.errors import BadInput, RunFailed
from rolora.core.noise import seeded
from rolora.core.types import Failure
from rolora.engines.in_process import InProcess
from rolora.methods import METHODS
from rolora.secure.forms import STEPS
from rolora.server.budget import whole_run
from rolora.server.ledger import Ledger
from rolora.server.protection import protection_of
from rolora.server.round import finished, rounds

SIZES = (9, 5, 7, 4, 6)
SUMS = [name for name, method in METHODS.own.items() if method.reduction != "each"]
ON = {"threshold": 0.6}


def settings(**sections):
    sections = {"federation": {"clients": 5}, "secure_sum": ON, **sections}
    return small.config(**sections)


def ran(config):
    engine, record = small.engine(config, sizes=SIZES), small.Memory()
    state = engine.method.init(engine.model.initial_adapter(2, 0))
    guard = protection_of(config, lambda: seeded(0), engine.registered)
    run = (config, engine.method, engine.runtime.task, engine, state, Ledger(), record)
    return finished(rounds(*run, protection=guard)), record


def same_but_hidden(state, record, plain, seen, atol=2e-6):
    torch.testing.assert_close(state.parts.flat, plain.parts.flat, rtol=0, atol=atol)
    for line, other in zip(record.metrics, seen.metrics, strict=True):
        weights = [u.weight for u in other.updates]
        losses = sum(u.weight * u.train_loss for u in other.updates) / sum(weights)
        assert line.train_loss == pytest.approx(losses, abs=1e-5)
        assert line.validation["loss"] == pytest.approx(other.validation["loss"], abs=1e-4)
        assert [u.train_loss for u in line.updates] == [None] * len(other.updates)
        assert [u.norms for u in line.updates] == [{}] * len(other.updates)
        assert [u.weight for u in line.updates] == [u.weight for u in other.updates]


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("head", ["train", "local"])
def test_every_method_that_a_sum_is_enough_for_comes_out_the_same(name, head):
    """Up to the steps of fixed point, that is to a float's last digits."""
    common = {"method": {"name": name}, "model": {"head": head}, "evaluation": {"every": 1}}
    common["optimizer"] = {"eps": 1e-2}  # else it takes a last digit for a direction
    small.checked(settings(**common))
    hidden = ran(settings(**common))
    plain = ran(settings(**common, secure_sum={}))
    same_but_hidden(*hidden, *plain)


@pytest.mark.parametrize(
    "sections",
    [
        {"server": {"weighting": "uniform", "optimizer": "fedadam"}},
        {"federation": {"clients": 5, "max_share": 0.25}},
        {"federation": {"clients": 5, "clients_per_round": 3}},
        {"optimizer": {"state": "transport"}, "method": {"gauge": "orthonormal"}},
        {"method": {"schedule": "adaptive"}},
    ],
    ids=["uniform, fedadam", "share", "sampled", "transport, gauge", "adaptive"],
)
def test_it_goes_with_what_acts_before_and_after_it(sections):
    common = {"evaluation": {"every": 1}, **sections}
    small.checked(settings(**common))
    same_but_hidden(*ran(settings(**common)), *ran(settings(**common, secure_sum={})), atol=1e-4)


def test_it_goes_with_codes_on_the_way_down():
    common = {"server": {"stages": ["int8"]}, "optimizer": {"eps": 1e-2}}
    small.checked(settings(**common))
    (state, record), (plain, seen) = ran(settings(**common)), ran(settings(**common, secure_sum={}))
    torch.testing.assert_close(state.parts.flat, plain.parts.flat, rtol=0, atol=5e-3)
    assert len(record.metrics) == len(seen.metrics)


NOISE = {"clip": 0.5, "noise_multiplier": 0.5, "seed": 3, "accountant": "rdp"}


@pytest.mark.parametrize("unit", ["client", "example"])
def test_it_goes_with_the_clients_own_noise(unit):
    """Of which the sum hides whose it is; nobody tells a loss then."""
    noise = {"noise": "clients"} if unit == "client" else {}
    common = {"server": {"weighting": "uniform"}, "privacy": {**NOISE, **noise, "unit": unit}}
    common["optimizer"] = {"eps": 1e-2}
    small.checked(settings(**common))
    state, record = ran(settings(**common))
    plain, seen = ran(settings(**common, secure_sum={}))
    torch.testing.assert_close(state.parts.flat, plain.parts.flat, rtol=0, atol=2e-5)
    assert [line.epsilon for line in record.metrics] == [line.epsilon for line in seen.metrics]
    assert all(line.train_loss is None for line in record.metrics)


def test_the_same_run_twice_is_the_same_to_the_bit():
    """No two masks are alike, and nothing of them is left."""
    (one, first), (other, second) = ran(settings()), ran(settings())
    assert torch.equal(one.parts.flat, other.parts.flat)
    assert [m.train_loss for m in first.metrics] == [m.train_loss for m in second.metrics]


def test_a_run_that_was_interrupted_ends_as_one_that_was_not():
    end, _ = ran(settings(rounds=4))
    engine = small.engine(settings(rounds=2), sizes=SIZES)
    half, _ = small.run(settings(rounds=2), engine)
    resumed = small.engine(settings(rounds=4), sizes=SIZES)
    resumed.restore(engine.tensors(2), half)
    rest, _ = small.run(settings(rounds=4), resumed, state=half)
    assert torch.equal(rest.parts.flat, end.parts.flat)


class Leaving(InProcess):
    """Some clients drop out in round 2, each at a step; which answers whom is kept."""

    gone, told = {}, []

    def exchange(self, step, round_number, texts):
        self.told.append((round_number, step, sorted(texts)))
        for client, answer in super().exchange(step, round_number, texts):
            lost = round_number == 2 and client in self.gone.get(step, ())
            yield client, Failure(client, "node_lost") if lost else answer

    def train(self, plans, dealt):
        for answer in super().train(plans, dealt):
            lost = plans[0].round == 2 and answer.client in self.gone.get("masked", ())
            yield Failure(answer.client, "node_lost") if lost else answer


def leaving(gone, **sections):
    config = settings(**sections)
    engine = small.engine(config, sizes=SIZES)
    engine.__class__ = Leaving
    engine.gone, engine.told = gone, []
    return config, engine


@pytest.mark.parametrize("step", STEPS)
def test_who_drops_out_at_a_step_is_named_and_the_sum_is_of_the_others(step):
    config, engine = leaving({step: {1, 4}}, evaluation={"every": 1})
    state, record = small.run(config, engine)
    line = record.metrics[1]
    assert [(f.client, f.reason) for f in line.failures] == [(1, "node_lost"), (4, "node_lost")]
    there = [0, 1, 2, 3, 4] if step == "opened" else [0, 2, 3]
    assert [update.client for update in line.updates] == there
    assert [len(m.updates) for m in record.metrics] == [5, len(there), 5, 5]

    # The plain run in which the same clients fail.
    plain, other = leaving({} if step == "opened" else {"masked": {1, 4}}, secure_sum={})
    other.train = lambda plans: Leaving.train(other, plans, {})
    expected, _ = small.run(plain, other)
    torch.testing.assert_close(state.parts.flat, expected.parts.flat, rtol=0, atol=2e-6)


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_a_round_fails_and_nothing_is_opened(step):
    config, engine = leaving({step: {0, 1, 4}})
    with pytest.raises(RunFailed, match=re.escape("round 2: the quorum")):
        small.run(config, engine)
    opened = [step for number, step, _ in engine.told if number == 2 and step == "opened"]
    assert len(opened) == (3 if step == "opened" else 0)


def test_a_change_beyond_reach_is_that_clients_failure():
    config, engine = leaving({}, secure_sum={**ON, "reach": 0.01}, optimizer={"lr": 1.0})
    with pytest.raises(RunFailed, match=r"out_of_reach a number changed by .*secure_sum.reach"):
        small.run(config, engine)


@pytest.mark.parametrize("sections", [{}, {"federation": {"clients": 5, "clients_per_round": 3}}])
def test_the_bytes_are_those_that_were_foretold(sections):
    config = settings(**sections)
    engine = small.engine(config, sizes=SIZES)
    method = small.method(config)
    state = method.init(engine.model.initial_adapter(2, 0))
    _, record = small.run(config, engine)
    whole = whole_run(config, method, engine.clients, state)
    assert whole.up == sum(line.bytes_up for line in record.metrics)
    assert whole.down == sum(line.bytes_down for line in record.metrics)


REFUSED = {
    "flexlora": ({"method": {"name": "flexlora"}}, r"method.name = 'flexlora': .*multiplies each"),
    "flora": ({"method": {"name": "flora"}}, r"method.name = 'flora': .*multiplies each"),
    "fedex_lora": ({"method": {"name": "fedex_lora"}}, r"method.name = 'fedex_lora'"),
    "median": ({"server": {"reducer": "median"}}, r"server.reducer = 'median': compares"),
    "krum": (
        {"server": {"reducer": {"name": "krum", "byzantine": 0.1}}},
        r"server.reducer = 'krum'",
    ),
    "norm_bound": ({"server": {"reducer": "norm_bound"}}, r"server.reducer = 'norm_bound'"),
    "information": ({"server": {"weighting": "information"}}, r"server.weighting = 'information'"),
    "int8": ({"stages": ["int8"]}, r"stages = \['int8'\]: codes"),
    "one": ({"federation": {"clients": 5, "clients_per_round": 1}}, "1 client is asked"),
    "noise of the server": (
        {
            "server": {"weighting": "uniform"},
            "privacy": {"clip": 1.0, "noise_multiplier": 1.0, "noise": "server"},
        },
        "privacy.noise = 'server': the server clips",
    ),
    "simulation": (
        {"engine": {"name": "flower", "runtime": "simulation"}},
        "engine.runtime = 'simulation'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_each_update_is_refused_by_name(case):
    sections, words = REFUSED[case]
    with pytest.raises(BadInput, match=words):
        small.checked(settings(**sections))
    small.checked(settings(**sections, secure_sum={}))


@pytest.mark.parametrize("threshold", [0.5, 0.0, 1.1])
def test_a_threshold_that_two_halves_could_reach_is_refused(threshold):
    with pytest.raises(BadInput, match=r"secure_sum\.threshold"):
        settings(secure_sum={"threshold": threshold})


@pytest.mark.parametrize(
    ("threshold", "clients", "least"),
    [(0.6, 5, 3), (0.51, 2, 2), (0.500001, 4, 3), (0.67, 50, 34), (1.0, 7, 7)],
)
def test_the_threshold_is_more_than_half_of_those_asked(threshold, clients, least):
    config = settings(federation={"clients": clients}, secure_sum={"threshold": threshold})
    assert config.least_sum == least > clients / 2


def test_an_attack_on_what_cannot_be_seen_is_refused():
    with pytest.raises(BadInput, match=r"secure_sum.threshold = 0.6"):
        check(settings(), ATTACKS["sign_flip"], 0.3)
