"""Two ways to the same result: federated and centralised, stacked and single, full and narrow."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn

import small
from rolora.client.batches import batch_rows
from rolora.client.kept import all_tensors
from rolora.client.replica import Replica
from rolora.client.update import local_update
from rolora.core.errors import BadInput
from rolora.core.rules import Job
from rolora.core.seeds import derive
from rolora.core.types import ClientInfo, Failure, Plan
from rolora.engines.in_process import InProcess
from rolora.methods import METHODS
from rolora.model.loading import load_pretrained
from rolora.records.wire import named_increments, pack_plan, pack_update, unpack_plan, unpack_update
from rolora.server.ledger import Ledger
from rolora.server.round import run_rounds

# AdamW's first steps are g / (|g| + eps): with its default eps of 1e-8 a gradient of that size
# turns rounding into a whole step. Comparisons to 1e-5 need an eps above the rounding.
EPS = 1e-3
every_method = pytest.mark.parametrize("name", METHODS)


def without_seconds(record):
    return [line.changed(seconds={}) for line in record.metrics]


def assert_same_states(a, b, tolerance=None):
    assert a.parts.layout == b.parts.layout
    assert a.versions == b.versions
    if tolerance is None:
        assert torch.equal(a.parts.flat, b.parts.flat)
        assert a.optimizer.keys() == b.optimizer.keys()
        assert all(torch.equal(a.optimizer[name], t) for name, t in b.optimizer.items())
        ours, theirs = named_increments(a.increments), named_increments(b.increments)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    else:
        torch.testing.assert_close(a.parts.flat, b.parts.flat, rtol=0, atol=tolerance)


# Federated and centralised -----------------------------------------------------------------


def peft_model(directory, settings, targets):
    """The same model through PEFT alone, its factors those of `initial_adapter`."""
    loaded = load_pretrained(settings.model, ("label0", "label1"), settings.seed)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=settings.lora.r,
        lora_alpha=settings.lora.lora_alpha,
        target_modules=list(targets),
    )
    model = get_peft_model(loaded.module, config).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model


def factor(model, module, part):
    return model.get_parameter(f"base_model.model.{module}.lora_{part}.default.weight")


@pytest.mark.parametrize("name", ["fedit", "ffa_lora", "rolora"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_one_client_is_centralised_training_with_peft(model_dir, architecture, name):
    targets = {"bert": ["query", "value"], "modernbert": ["Wqkv"]}[architecture]
    settings = small.config(
        rounds=6,
        method={"name": name},
        model={"name": str(model_dir(architecture))},
        lora={"target_modules": targets},
        federation={"clients": 1},
        optimizer={"lr": 0.01, "local_steps": 5, "eps": EPS},
    )
    data = small.text_examples(24)
    model = small.text_model(model_dir(architecture), settings)
    initial = model.initial_adapter(2, settings.seed)
    engine = small.engine(settings, model, sizes=(24,), examples=data)
    state, record = small.run(settings, engine)

    central = peft_model(model_dir(architecture), settings, targets)
    with torch.no_grad():
        for module, part in initial.without({"head"}):
            factor(central, module, part).copy_(initial[module, part])
    losses = []
    for number in range(1, 7):
        active = {"fedit": "AB", "ffa_lora": "B", "rolora": "B" if number % 2 else "A"}[name]
        trained = [factor(central, m, p) for m, p in initial.without({"head"}) if p in active]
        optimizer = torch.optim.AdamW(trained, lr=0.01, eps=EPS, weight_decay=0.0)
        plan = Plan(number, 0, initial, {}, frozenset(), frozenset(), 2, 4.0)
        losses.append(0.0)
        for rows in batch_rows(torch.arange(24), plan, settings.optimizer, settings.seed):
            central.zero_grad()
            logits = central(**data.batch(rows)).logits
            loss = nn.functional.cross_entropy(logits, data.targets[rows])
            loss.backward()
            optimizer.step()
            losses[-1] += float(loss.detach()) / 5

    everything = torch.arange(24)
    with torch.no_grad():
        theirs = central(**data.batch(everything)).logits
        parts = {key: t[None] for key, t in state.parts.items()}
        model.mount(parts, [4.0])
        ours = model.logits(data.batch(everything))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert [line.train_loss for line in record.metrics] == pytest.approx(losses, abs=1e-5)
    with torch.no_grad():
        model.mount({key: t[None] for key, t in initial.items()}, [4.0])
        assert (model.logits(data.batch(everything)) - ours).abs().max() > 0.05


POOLED = {"rolora": 4, "rolora+gauge": 4, "ffa_lora": 4, "fedit": 4, "flexlora": 1, "fedex_lora": 1}
"""Rounds in which a step of every client is a step on all their examples.

Where factors are averaged, in every round. FlexLoRA and FedEx-LoRA average products, which a step
of both factors changes in second order; in round 1 only B moves, since B = 0 stops A.
"""


@pytest.mark.parametrize("case", POOLED)
def test_one_full_batch_step_of_equal_clients_is_one_pooled_step(case):
    name, _, gauge = case.partition("+")
    sections = {
        "rounds": POOLED[case],
        "method": {"name": name, **({"gauge": "orthonormal"} if gauge else {})},
        "optimizer": {"name": "sgd", "lr": 0.1, "local_steps": 1, "batch_size": 99},
    }
    data, states = small.pixel_examples(18), []
    for sizes in ((6, 6, 6), (18,)):
        settings = small.config(**sections, federation={"clients": len(sizes)})
        engine = small.engine(settings, sizes=sizes, examples=data)
        states.append(small.run(settings, engine)[0])
    method = small.method(settings)
    for module in small.TARGETS:
        ours, theirs = (product(method, state, module) for state in states)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        assert theirs.abs().max() > 1e-2


def product(method, state, module):
    parts = method.evaluation_plan(state).send
    change = method.scaling(2) * parts[module, "B"] @ parts[module, "A"]
    return change + parts.get((module, "D"), torch.zeros(()))


def assert_same_models(name, a, b, **sections):
    """The same change of every layer and the same head; an SVD leaves the factors less certain."""
    method = small.method(small.config(method={"name": name}, **sections))
    for module in small.TARGETS:
        ours, theirs = (product(method, state, module) for state in (a, b))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)
    heads = (state.parts.select({"head"}).flat for state in (a, b))
    torch.testing.assert_close(*heads, rtol=0, atol=2e-5)


# Stacked, in parallel, cached --------------------------------------------------------------

OPTIONS = {
    "sampled": {"federation": {"clients": 5, "clients_per_round": 3}},
    "kept state": {"optimizer": {"state": "persist"}},
    "kept momentum, sampled": {
        "optimizer": {"state": "persist", "name": "sgd", "momentum": 0.9, "lr": 0.05},
        "federation": {"clients": 5, "clients_per_round": 3},
    },
    "carried state": {"optimizer": {"state": "transport"}},
    "carried momentum, sampled": {
        "optimizer": {"state": "transport", "name": "sgd", "momentum": 0.9, "lr": 0.05},
        "federation": {"clients": 5, "clients_per_round": 3},
    },
    "head trains": {"model": {"head": "train"}},
    "head is local": {"model": {"head": "local"}},
    "epochs": {"optimizer": {"local_steps": None, "local_epochs": 1}},
    "dropout": {"lora": {"dropout": 0.3}},
}
SIZES = (9, 5, 7, 4, 6)


def run_net(name, stack=1, workers=1, options=None, rounds=4, **sections):
    merged = {"method": {"name": name}, "federation": {"clients": 5}, "rounds": rounds}
    for section, values in [*(options or {}).items(), *sections.items()]:
        merged[section] = {**merged.get(section, {}), **values}
    merged["optimizer"] = {"eps": 10 * EPS, **merged.get("optimizer", {})}
    merged["engine"] = {"stack": stack, "workers": workers}
    settings = small.config(**merged)
    try:
        small.method(settings)
    except BadInput as refused:
        pytest.skip(str(refused))
    engine = small.engine(settings, sizes=SIZES)
    state, record = small.run(settings, engine)
    return engine, state, record


@every_method
@pytest.mark.parametrize("option", OPTIONS)
def test_a_run_with_stacked_clients_equals_one_with_single_ones(name, option):
    engine, state, record = run_net(name, 1, options=OPTIONS[option])
    stacked, other, lines = run_net(name, 3, options=OPTIONS[option])
    assert_same_models(name, state, other)
    for a, b in zip(without_seconds(record), without_seconds(lines), strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, abs=1e-4)
        assert (a.bytes_up, a.bytes_down) == (b.bytes_up, b.bytes_down)
    kept, others = all_tensors(engine.own), all_tensors(stacked.own)
    assert kept.keys() == others.keys()
    for key, tensor in kept.items():
        torch.testing.assert_close(tensor, others[key], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", [n for n, method in METHODS.items() if method.mixed_ranks])
@pytest.mark.parametrize("option", ["sampled", "kept state", "dropout"])
def test_clients_of_different_ranks_may_be_stacked(name, option):
    ranks = {"client_ranks": (1, 3, 2)}
    options = OPTIONS[option]
    lora = {**options.get("lora", {}), **ranks}
    _, state, _ = run_net(name, 1, options=options, lora=lora)
    _, other, _ = run_net(name, 4, options=options, lora=lora)
    assert_same_models(name, state, other, lora=ranks)


@every_method
@pytest.mark.parametrize("option", ["kept state", "carried state", "head is local", "dropout"])
def test_two_workers_give_the_bits_of_one(name, option):
    engine, state, record = run_net(name, 2, 1, OPTIONS[option])
    parallel, other, lines = run_net(name, 2, 2, OPTIONS[option])
    assert_same_states(state, other)
    assert without_seconds(record) == without_seconds(lines)
    kept, others = all_tensors(engine.own), all_tensors(parallel.own)
    assert kept.keys() == others.keys()
    assert all(torch.equal(tensor, others[key]) for key, tensor in kept.items())


def test_the_size_of_a_stack_does_not_depend_on_dropout():
    for dropout in (0.0, 0.3):
        engine = small.engine(small.config(lora={"dropout": dropout}, federation={"clients": 3}))
        assert engine.stack == 2


def run_text(directory, cache_mb, stack=2, workers=1, dropout=0.0):
    settings = small.config(
        rounds=4,
        model={"name": str(directory)},
        lora={"layers": "2", "dropout": dropout},
        engine={"cache_mb": cache_mb, "stack": stack, "workers": workers},
        optimizer={"eps": EPS},
        evaluation={"every": 1},
    )
    model = small.text_model(directory, settings)
    assert (model.prefix is not None) == (cache_mb > 0)
    engine = small.engine(settings, model, sizes=(9, 5, 7), examples=small.text_examples(21))
    return model, *small.run(settings, engine)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_with_the_cache_equals_one_without(model_dir, dropout):
    _, plain, lines = run_text(model_dir("bert"), 0, dropout=dropout)
    model, cached, others = run_text(model_dir("bert"), 16, dropout=dropout)
    examples = small.text_examples(21)
    ids, offsets = examples.tokens["input_ids"], examples.offsets.tolist()
    texts = {tuple(ids[begin:end].tolist()) for begin, end in pairwise(offsets)}
    assert len(model.prefix.cache.held) == len(texts)
    assert_same_states(plain, cached, 1e-5)
    for a, b in zip(lines.metrics, others.metrics, strict=True):
        assert a.validation["loss"] == pytest.approx(b.validation["loss"], abs=1e-5)


def test_two_workers_share_the_cache_and_give_the_bits_of_one(model_dir):
    _, one, _ = run_text(model_dir("bert"), 16)
    _, two, _ = run_text(model_dir("bert"), 16, workers=2)
    assert_same_states(one, two)


# What travels ------------------------------------------------------------------------------


class Apart(InProcess):
    """Every client on a machine of its own: a replica of its own, everything through the wire."""

    def __init__(self, *args):
        super().__init__(*args)
        self.apart = {}

    def job(self, plan):
        self.replicas = self.apart.setdefault(plan.client, {})
        return super().job(unpack_plan(pack_plan(plan)))

    def train(self, plans):
        for update in super().train(plans):
            yield unpack_update(pack_update(update))


class Generous(Ledger):
    """Sends every client everything in every round."""

    def narrow(self, plan):
        return plan


TRAVEL = {
    "few": {"federation": {"clients": 5, "clients_per_round": 2}},
    "server momentum, shared head": {
        "federation": {"clients": 5, "clients_per_round": 3},
        "server": {"optimizer": "fedavgm", "lr": 0.5},
        "model": {"head": "train"},
    },
    "local head": {
        "federation": {"clients": 5, "clients_per_round": 3},
        "model": {"head": "local"},
    },
}
# A server optimiser's moments do not follow the gauge.
GAUGE = {"method": {"gauge": "orthonormal"}, "server": {"optimizer": "fedavg"}}
TOP = [{"name": "top_k", "share": 0.1}, {"name": "int8"}]
CASES = [(name, small.TAKES.get(name, {})) for name in METHODS] + [
    ("rolora", GAUGE),
    ("rolora", {"method": {"schedule": "BBA"}}),
    ("rolora", {"method": {"schedule": "adaptive"}}),
    ("rolora", {**GAUGE, "optimizer": {"state": "transport"}}),
    ("rolora", {"server": {"stages": ["int8"]}}),
    ("rolora", {"server": {"stages": TOP}}),
    ("fedit", {"server": {"stages": ["int4"]}}),
    ("flexlora", {"lora": {"client_ranks": (1, 3, 2)}}),
    ("flora", {"lora": {"client_ranks": (1, 3, 2)}}),
]


@pytest.mark.parametrize("travel", TRAVEL)
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_one_shared_replica_is_as_good_as_one_a_client_and_as_full_plans(name, options, travel):
    sections = {**TRAVEL[travel], "rounds": 6}
    sections |= {key: {**sections.get(key, {}), **value} for key, value in options.items()}
    sections["method"] = {"name": name, **sections.get("method", {})}
    settings = small.config(**sections, engine={"stack": 1, "workers": 1})
    shared = small.engine(settings, sizes=SIZES)
    state, record = small.run(settings, shared)

    apart = Apart(
        settings, small.method(settings), small.CLASSIFICATION, shared.model, shared.splits
    )
    on_machines, lines = small.run(settings, apart)
    assert_same_states(state, on_machines)
    assert without_seconds(record) == without_seconds(lines)

    full = InProcess(
        settings, small.method(settings), small.CLASSIFICATION, shared.model, shared.splits
    )
    generous, _ = small.run(settings, full, ledger=Generous())
    assert_same_states(state, generous)


RESUMED = {name: small.TAKES.get(name, {}) for name in METHODS} | {
    "rolora+gauge": {**GAUGE, "optimizer": {"state": "reset"}},
    "rolora+transport": {"optimizer": {"state": "transport"}},
    "rolora+gauge+transport": {**GAUGE, "optimizer": {"state": "transport"}},
    "rolora+adaptive": {"method": {"schedule": "adaptive"}},
    "rolora+int8": {"stages": ["int8"]},
    "rolora+int4 both ways": {"stages": ["int4"], "server": {"stages": ["int4"]}},
    "rolora+top_k both ways": {"stages": TOP, "server": {"stages": TOP, "optimizer": "fedavgm"}},
    "fedit+int8 down": {"server": {"stages": ["int8"], "optimizer": "fedadam"}},
    "rolora+median": {"server": {"reducer": "median"}},
    "scaffold+sampled": {"federation": {"clients": 5, "clients_per_round": 3}},
}
RESUMED |= {
    f"{name}+ranks": {**small.TAKES.get(name, {}), "lora": {"client_ranks": (1, 3, 2)}}
    for name, method in METHODS.items()
    if method.mixed_ranks
}


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_that_goes_on_in_a_new_process_ends_the_same_to_the_bit(case, stop):
    sections = {
        "rounds": 5,
        "federation": {"clients": 5, "clients_per_round": 3},
        "model": {"head": "local"},
        "server": {"optimizer": "fedavgm"},
        "optimizer": {"state": "persist"},
        **RESUMED[case],
    }
    sections["method"] = {"name": case.partition("+")[0], **sections.get("method", {})}
    settings = small.config(**sections, engine={"stack": 2, "workers": 1})
    whole = small.engine(settings, sizes=SIZES)
    end, record = small.run(settings, whole)

    first = small.engine(settings, sizes=SIZES)
    half, before = small.run(settings.model_copy(update={"rounds": stop}), first)
    _, held = before.states[-1]
    second = small.engine(settings, sizes=SIZES)
    second.restore({key: t.clone() for key, t in all_tensors(first.own).items()}, half)
    # Goes on like the CLI: the number of rounds is that of the whole run.
    resumed, after = small.run(settings, second, state=half, ledger=Ledger(held))
    assert_same_states(resumed, end)
    joined = [*without_seconds(before), *without_seconds(after)]
    for a, b in zip(joined, without_seconds(record), strict=True):
        assert unlooked(a) == unlooked(b)


def unlooked(record):
    """A round's record without what its evaluation said."""
    return record.changed(
        validation=None, prediction_shares=(), detail=None, collapsed=None, sites=()
    )


def test_a_client_does_not_inherit_what_another_one_kept():
    """FedSA-LoRA: everybody starts from B = 0, whoever trained before on the same model."""
    settings = small.config(
        method={"name": "fedsa_lora"},
        model={"head": "local"},
        federation={"clients": 5, "clients_per_round": 1},
        rounds=1,
    )
    engine = small.engine(settings, sizes=SIZES)
    method = small.method(settings)
    state = method.init(engine.model.initial_adapter(2, 0))
    for client in range(3):
        plan = method.plan(state, ClientInfo(client, 2, SIZES[client]))
        job = engine.job(plan)
        assert not job.start.select({"B"}).flat.any()
        for key in job.start.select({"head"}):
            assert torch.equal(job.start[key], small.Net().get_parameter(key[0]))
        list(engine.train([replace(plan, round=client + 1)]))
    again = engine.job(replace(plan, client=1)).start
    assert torch.equal(again["wide", "B"], engine.own[1].parts["wide", "B"])
    assert not torch.equal(again["wide", "B"], engine.own[0].parts["wide", "B"])


def test_clients_of_a_rolora_round_share_the_inactive_factor_to_the_bit():
    settings = small.config(
        federation={"clients": 5, "clients_per_round": 3}, rounds=6, method={"name": "rolora"}
    )
    seen = {}

    class Watching(InProcess):
        def job(self, plan):
            job = super().job(plan)
            frozen = "A" if plan.train == {"B"} else "B"
            seen.setdefault(plan.round, []).append(job.start.select({frozen}).flat.clone())
            return job

    base = small.engine(settings, sizes=SIZES)
    watching = Watching(
        settings, small.method(settings), small.CLASSIFICATION, base.model, base.splits
    )
    _, record = small.run(settings, watching)
    for number, factors in seen.items():
        before = record.states[number - 2][0].parts if number > 1 else None
        frozen = "A" if number % 2 else "B"
        assert len(factors) == 3
        for flat in factors:
            assert torch.equal(flat, factors[0])
            assert before is None or torch.equal(flat, before.select({frozen}).flat)


# Local and kept state ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fedsa_lora", "rolora"])
def test_what_is_local_never_leaves_and_is_used_in_evaluation(name):
    settings = small.config(
        method={"name": name}, model={"head": "local"}, federation={"clients": 5}, rounds=3
    )
    engine = small.engine(settings, sizes=SIZES)
    state, _ = small.run(settings, engine)
    assert "head" not in state.parts.parts
    heads = [engine.own[i].parts["score.weight", "head"] for i in range(5)]
    assert all(not torch.equal(heads[0], other) for other in heads[1:])
    plan = small.method(settings).evaluation_plan(state)
    results = engine.evaluate(plan, "validation")
    held = engine.splits["validation"]
    for result in results:
        rows = held.shares[result.client]
        own = plan.send.overwrite(engine.own[result.client].parts)
        engine.model.mount({key: t[None] for key, t in own.items()}, [plan.scaling])
        with torch.no_grad():
            logits = engine.model.logits(held.examples.batch(rows))
        labels = held.examples.targets[rows]
        confusion = torch.tensor(result.sums["confusion"]).view(3, 3)
        assert int(confusion.trace()) == int((logits.argmax(1) == labels).sum())
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        assert result.sums["loss"] == (pytest.approx(float(loss), rel=1e-5), len(rows))
        assert int(confusion.sum()) == result.num_examples == len(rows)


def test_a_frozen_head_is_the_models_own():
    settings = small.config(federation={"clients": 5}, rounds=3)
    engine = small.engine(settings, sizes=SIZES)
    state, _ = small.run(settings, engine)
    assert "head" not in state.parts.parts
    assert torch.equal(engine.model.module.score.weight, small.Net().score.weight)


def ffa_run(state, rounds, local_steps):
    settings = small.config(
        method={"name": "ffa_lora"},
        federation={"clients": 1},
        rounds=rounds,
        optimizer={"state": state, "local_steps": local_steps, "batch_size": 99, "lr": 0.02},
    )
    engine = small.engine(settings, sizes=(20,))
    return small.run(settings, engine)[0]


def test_kept_optimizer_state_makes_rounds_one_uninterrupted_training():
    """One client, whole batches: 4 rounds of 3 steps are 1 round of 12 if the state is kept."""
    uninterrupted = ffa_run("reset", 1, 12)
    kept, reset = ffa_run("persist", 4, 3), ffa_run("reset", 4, 3)
    torch.testing.assert_close(kept.parts.flat, uninterrupted.parts.flat, rtol=0, atol=1e-5)
    assert (reset.parts.flat - uninterrupted.parts.flat).abs().max() > 1e-3


def kept_run(state, method, schedule="BA", optimizer=None):
    engine, end, _ = run_net(
        method,
        stack=2,
        rounds=5,
        method={} if schedule == "BA" else {"schedule": schedule},
        optimizer={"state": state, **(optimizer or {})},
    )
    kept = {key: t for key, t in all_tensors(engine.own).items() if not key.endswith(".basis")}
    return end, kept, all_tensors(engine.own).keys() - kept.keys()


@pytest.mark.parametrize("optimizer", [{}, {"name": "sgd", "momentum": 0.9, "lr": 0.05}])
@pytest.mark.parametrize(("name", "schedule"), [("ffa_lora", "BA"), ("rolora", "B")])
def test_transport_is_persist_to_the_bit_where_the_frozen_factor_stays(name, schedule, optimizer):
    end, kept, _ = kept_run("persist", name, schedule, optimizer)
    other, others, bases = kept_run("transport", name, schedule, optimizer)
    assert_same_states(end, other)
    assert kept.keys() == others.keys()
    assert all(torch.equal(others[key], t) for key, t in kept.items())
    assert len(bases) == 5


def test_transport_is_not_persist_where_the_frozen_factor_changes():
    end, *_ = kept_run("persist", "rolora")
    other, _, bases = kept_run("transport", "rolora")
    assert not torch.equal(end.parts.flat, other.parts.flat)
    assert len(bases) == 10


def test_kept_state_of_the_inactive_factor_waits_for_its_turn():
    settings = small.config(
        federation={"clients": 1}, rounds=4, optimizer={"state": "persist", "local_steps": 3}
    )
    engine = small.engine(settings, sizes=(9,))
    steps = []

    class Watching(small.Memory):
        def checkpoint(self, state, ledger, engine, unseen=None):
            held = engine.own[0].state
            names = [f"optimizer/{part}.step" for part in "AB"]
            steps.append([float(held.get(name, torch.tensor(0.0))) for name in names])

    method = small.method(settings)
    state = method.init(engine.model.initial_adapter(2, 0))
    run_rounds(settings, method, small.CLASSIFICATION, engine, state, Ledger(), Watching())
    assert steps == [[0, 3], [3, 3], [3, 6], [6, 6]]


def test_a_client_that_went_astray_keeps_what_it_had():
    settings = small.config(
        method={"name": "fedsa_lora"},
        model={"head": "local"},
        federation={"clients": 5},
        optimizer={"state": "persist"},
        rounds=3,
    )
    engine = small.engine(settings, sizes=SIZES)
    data = engine.splits["train"].examples
    good = data.dense["x"].clone()

    class Spoiling(small.Memory):
        def round_finished(self, metrics):
            super().round_finished(metrics)
            bad = metrics.round == 1  # client 2's first example is broken in round 2 alone
            data.dense["x"][14:21] = float("nan") if bad else good[14:21]

    method, record = small.method(settings), Spoiling()
    state = method.init(engine.model.initial_adapter(2, 0))
    run_rounds(settings, method, small.CLASSIFICATION, engine, state, Ledger(), record)
    failures = [[(f.client, f.reason) for f in m.failures] for m in record.metrics]
    assert failures == [[], [(2, "nan")], []]
    assert all(tensor.isfinite().all() for tensor in all_tensors(engine.own).values())
    assert engine.own[2].state["optimizer/A.step"] == 4  # rounds 1 and 3, of two steps


class Slow(InProcess):
    """Is interrupted when it evaluates after round 3."""

    def evaluate(self, plan, split):
        if plan.round == 4:
            raise KeyboardInterrupt
        return super().evaluate(plan, split)


@pytest.mark.parametrize("where", ["training", "evaluation"])
@pytest.mark.parametrize("name", ["fedsa_lora", "rolora"])
def test_a_run_interrupted_in_a_round_goes_on_as_if_it_had_not_been(name, where):
    settings = small.config(
        method={"name": name},
        model={"head": "local"},
        federation={"clients": 5},
        optimizer={"state": "persist"},
        checkpoint={"every": 10},
        evaluation={"every": 1},
        rounds=4,
        engine={"stack": 1, "workers": 1},
    )
    end, _ = small.run(settings, small.engine(settings, sizes=SIZES))

    class Saving(small.Memory):
        def checkpoint(self, state, ledger, engine, unseen=None):
            super().checkpoint(state, ledger, engine)
            self.tensors = {key: t.clone() for key, t in engine.tensors(state.round).items()}

    told = []

    def interrupt(answer):
        told.append(answer)
        if len(told) == 13 and where == "training":  # the third answer of round 3
            raise KeyboardInterrupt

    method, engine, record = small.method(settings), small.engine(settings, sizes=SIZES), Saving()
    if where == "evaluation":
        engine = Slow(settings, method, small.CLASSIFICATION, engine.model, engine.splits)
    state = method.init(engine.model.initial_adapter(2, 0))
    with pytest.raises(KeyboardInterrupt):
        run_rounds(
            settings, method, small.CLASSIFICATION, engine, state, Ledger(), record, interrupt
        )
    ((state, held),) = record.states
    assert state.round == 2
    engine = small.engine(settings, sizes=SIZES)
    engine.restore(record.tensors, state)
    resumed, _ = small.run(settings, engine, state=state, ledger=Ledger(held))
    assert_same_states(resumed, end)


def test_nothing_is_kept_where_nothing_needs_to_be():
    for name in [n for n, method in METHODS.items() if not method.personal and n != "scaffold"]:
        settings = small.config(method={"name": name}, federation={"clients": 5}, rounds=2)
        engine = small.engine(settings, sizes=SIZES)
        small.run(settings, engine)
        assert all_tensors(engine.own) == {}


# Retried rounds ----------------------------------------------------------------------------


def losing(engine, lost):
    """`engine`, whose answers are lost where ``lost(round, attempt, client)`` holds."""
    train, attempts = engine.train, {}

    def unreliable(plans):
        number = plans[0].round
        attempt = attempts[number] = attempts.get(number, -1) + 1
        for update in train(plans):
            bad = lost(number, attempt, update.client)
            yield Failure(update.client, "lost") if bad else update

    engine.train = unreliable
    return engine


@pytest.mark.parametrize(
    ("name", "options"), [("rolora", {"gauge": "orthonormal"}), ("fedex_lora", {}), ("flora", {})]
)
def test_lost_answers_and_lost_rounds_leave_every_client_with_the_right_tensors(name, options):
    settings = small.config(
        method={"name": name, **options},
        federation={"clients": 5, "clients_per_round": 3, "quorum": 0.6},
        rounds=8,
        engine={"stack": 1, "workers": 1},
    )

    def lost(number, attempt, client):
        return derive(0, number, attempt, client) % 3 == 0

    shared = small.engine(settings, sizes=SIZES)
    state, record = small.run(settings, losing(shared, lost))
    apart = losing(
        Apart(settings, small.method(settings), small.CLASSIFICATION, shared.model, shared.splits),
        lost,
    )
    on_machines, lines = small.run(settings, apart)
    assert any(line.attempts > 1 for line in record.metrics)
    assert any(line.attempts == 1 and line.failures for line in record.metrics)
    assert_same_states(state, on_machines)
    assert without_seconds(record) == without_seconds(lines)
    full = losing(
        InProcess(
            settings, small.method(settings), small.CLASSIFICATION, shared.model, shared.splits
        ),
        lost,
    )
    generous, _ = small.run(settings, full, ledger=Generous())
    assert_same_states(state, generous)


@hypothesis_settings(max_examples=10)
@given(st.integers(0, 1000))
def test_jobs_do_not_depend_on_who_was_asked_before(seed):
    """FLoRA's redraw and the batches are functions of seed, round and client."""
    settings = small.config(method={"name": "flora"}, federation={"clients": 5}, seed=seed)
    model = small.net_model()
    one, two = (small.engine(settings, model, SIZES) for _ in range(2))
    method = small.method(settings)
    state = method.init(model.initial_adapter(2, seed))
    plans = [method.plan(state, client) for client in one.clients]

    def begun(engine, plan):
        job = engine.job(plan)
        for rule in engine.runtime.rules:
            job = rule.start(job, lambda rank, *names: model.initial_adapter(rank, seed, *names))
        return job.start

    a = {plan.client: begun(one, plan) for plan in plans}
    b = {plan.client: begun(two, plan) for plan in plans[::-1]}
    for client in a:
        assert torch.equal(a[client].flat, b[client].flat)
    assert not torch.equal(a[0]["wide", "A"], a[1]["wide", "A"])
    assert not a[0].select({"B"}).flat.any()


def test_single_jobs_need_no_engine():
    """`local_update` with a replica is all that a Flower node runs."""
    settings = small.config(federation={"clients": 5}, rounds=1)
    engine = small.engine(settings, sizes=SIZES)
    method = small.method(settings)
    state = method.init(engine.model.initial_adapter(2, 0))
    plan = method.plan(state, engine.clients[2])
    (expected,) = engine.train([plan])
    job = Job(plan, Replica().start(plan).parts, engine.splits["train"].shares[2])
    examples = engine.splits["train"].examples
    given = (engine.runtime.task, engine.model, examples, [job], settings.optimizer, settings.seed)
    (trained,) = local_update(*given)
    assert torch.equal(trained.update.parts.flat, expected.parts.flat)
