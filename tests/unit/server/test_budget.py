"""Bytes foretold are the bytes sent, and a run keeps to its budget."""

import pytest
import torch

import small
from rolora.config import load_config
from rolora.core.errors import BadInput
from rolora.core.types import Adapter, Layout
from rolora.engines.preparation import setting_of
from rolora.methods import make_method
from rolora.presets import preset_text
from rolora.records.units import THIN, byte_size
from rolora.server.budget import whole_run

TOP = [{"name": "top_k", "share": 0.1}, {"name": "int8"}]
RUNS = {
    "rolora": {},
    "sampled": {"federation": {"clients_per_round": 2}},
    "gauge": {
        "method": {"name": "rolora", "gauge": "orthonormal"},
        "optimizer": {"state": "transport"},
        "federation": {"clients_per_round": 2},
    },
    "schedule": {"method": {"name": "rolora", "schedule": "BBA"}},
    "head": {"model": {"head": "train"}},
    "int8": {"stages": ["int8"]},
    "top_k both ways": {"stages": TOP, "server": {"stages": TOP}},
    "int4 both ways, sampled": {
        "stages": ["int4"],
        "server": {"stages": ["int4"]},
        "federation": {"clients_per_round": 2},
    },
    "fedit, int8 down": {"method": {"name": "fedit"}, "server": {"stages": ["int8"]}},
    "fedit": {"method": {"name": "fedit"}},
    "ffa_lora": {"method": {"name": "ffa_lora"}},
    "fedsa_lora": {"method": {"name": "fedsa_lora"}, "federation": {"clients_per_round": 1}},
    "flexlora": {"method": {"name": "flexlora"}, "lora": {"client_ranks": [1, 2]}},
    "scaffold": {"method": {"name": "scaffold"}},
    "fedsvd": {"method": {"name": "fedsvd"}},
}


def settings(name="rolora", **more):
    both = {**RUNS[name], **more}
    lora = {"target_modules": None, **both.pop("lora", {})}
    return small.config(lora=lora, rounds=6, **both)


def foretold(config, engine):
    initial = engine.model.initial_adapter(config.lora.max_rank, config.seed)
    return whole_run(config, engine.method, engine.clients, engine.method.init(initial))


def sent(record):
    return sum(m.bytes_up for m in record.metrics), sum(m.bytes_down for m in record.metrics)


@pytest.mark.parametrize("name", RUNS)
def test_the_bytes_of_a_run_are_those_foretold(name):
    config = settings(name)
    engine = small.engine(config)
    before = foretold(config, engine)
    _, record = small.run(config, engine)
    assert (before.up, before.down) == sent(record)


@pytest.mark.parametrize("method", ["flora", "fedex_lora"])
def test_what_grows_is_not_foretold(method):
    config = settings(method={"name": method})
    assert foretold(config, small.engine(config)) is None


def test_a_run_ends_before_the_round_that_would_pass_its_budget_and_goes_on_with_more():
    free = settings("gauge", evaluation={"every": 4})
    whole, written = small.run(free, small.engine(free))
    costs = [line.bytes_up + line.bytes_down for line in written.metrics]
    for most in (sum(costs[:3]), sum(costs[:4]) - 1):
        config = settings("gauge", evaluation={"every": 4}, server={"byte_budget": most})
        state, record = small.run(config, small.engine(config))
        assert [line.round for line in record.metrics] == [1, 2, 3]
        assert sum(sent(record)) == sum(costs[:3]) <= most
        assert record.metrics[-1].validation is not None  # as after the last round
        assert record.states[-1][0].round == 3
    assert torch.equal(state.parts.flat, written.states[2][0].parts.flat)
    assert whole.round == 6


def test_a_budget_that_allows_no_round_is_refused():
    config = settings(server={"byte_budget": "1KiB"})
    with pytest.raises(BadInput, match=r"byte_budget = 1024: round 1 alone takes \d+ bytes"):
        small.run(config, small.engine(config))


def mistral(r):
    """The adapter on the queries and values of Mistral-7B, without its numbers."""
    shapes = {}
    for i in range(32):
        for name, out in (("q_proj", 4096), ("v_proj", 1024)):
            module = f"model.layers.{i}.self_attn.{name}"
            shapes |= {(module, "A"): (r, 4096), (module, "B"): (out, r)}
    layout = Layout.of(shapes)
    return Adapter(layout, torch.empty(layout.size, device="meta"))


@pytest.mark.parametrize("track", ["general", "finance", "medical", "code"])
def test_flowertunes_tracks_stay_within_their_budget_and_say_what_they_take(track):
    name = f"flowertune_{track}"
    config = load_config(name)
    method = make_method(config.method, setting_of(config))
    clients = [config.client(number, 1000) for number in range(config.federation.clients)]
    whole = whole_run(config, method, clients, method.init(mistral(config.lora.r)))
    assert whole.both < config.server.byte_budget == 200_000 * 2**20
    said = byte_size(whole.both).replace(THIN, " ")
    assert f"the 200 rounds take {said}.\n" in preset_text(name)
    fedit = make_method(load_config(name, ["method.name=fedit"]).method, setting_of(config))
    naive = whole_run(config, fedit, clients, fedit.init(mistral(config.lora.r)))
    each = 2 * 4 * mistral(32).layout.size * config.federation.cohort_size * config.rounds
    assert naive.both == pytest.approx(each, rel=1e-3)  # both factors, both ways
