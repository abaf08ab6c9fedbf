"""Local training: K clients side by side are K clients alone."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

import small
from rolora.client import update
from rolora.client.batches import CHUNK_OVERHEAD, batch_rows, chunks, cuts
from rolora.client.moments import MOMENTS
from rolora.client.optimizer import build_optimizer
from rolora.client.stack import Stack, resized
from rolora.config import OptimizerConfig
from rolora.core.rules import Job
from rolora.core.types import EMPTY, Adapter, Plan
from rolora.methods.fedprox import FedProx

local_update = partial(update.local_update, small.CLASSIFICATION)
PARTS = ["A", "B", "head"]
SIZES = (9, 5, 7, 4)


def plan_for(client, train=("A", "B"), rank=2, number=1, **changes):
    return Plan(
        round=number,
        client=client,
        send=EMPTY,
        versions={},
        train=frozenset(train),
        upload=frozenset(train),
        rank=rank,
        scaling=8.0 / rank,
        **changes,
    )


def start_of(model, client, rank=2, head=False):
    """A start of the client's own, with B away from zero."""
    adapter = model.initial_adapter(rank, client)
    generator = torch.Generator().manual_seed(client)
    tensors = {}
    for (name, part), tensor in adapter.items():
        if part == "B":
            tensor = 0.3 * torch.randn(tensor.shape, generator=generator)
        if part != "head" or head:
            tensors[name, part] = tensor
    return Adapter.of(tensors)


def delta_of(model):
    """What is added to the base, one for all."""
    generator = torch.Generator().manual_seed(77)
    return Adapter.of(
        {
            (name, "D"): 0.2 * torch.randn(layer.d_out, layer.d_in, generator=generator)
            for name, layer in model.layers.items()
        }
    )


def jobs_for(model, train=("A", "B"), ranks=(2, 2, 2, 2), delta=False, sizes=SIZES, **changes):
    rows = small.shares(sizes)
    return [
        Job(
            plan_for(k, train, ranks[k], **changes),
            start_of(model, k, ranks[k], "head" in train),
            rows[k],
            delta=delta_of(model) if delta else EMPTY,
        )
        for k in range(len(sizes))
    ]


def settings(**changes):
    return OptimizerConfig(**{"lr": 0.02, "local_steps": 3, "batch_size": 4, **changes})


def assert_same(one, other, tolerance=1e-5):
    assert one.update.client == other.update.client
    assert one.update.num_examples == other.update.num_examples
    assert one.parts.layout == other.parts.layout
    assert one.update.parts.layout == other.update.parts.layout
    torch.testing.assert_close(one.parts.flat, other.parts.flat, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        one.update.parts.flat, other.update.parts.flat, rtol=0, atol=tolerance
    )
    assert one.update.metrics["train_loss"] == pytest.approx(
        other.update.metrics["train_loss"], abs=tolerance
    )
    assert one.kept.keys() == other.kept.keys()
    for name, value in one.kept.items():
        torch.testing.assert_close(value, other.kept[name], rtol=0, atol=tolerance)


VARIANTS = {
    "adamw": ({}, {}),
    "sgd": ({"name": "sgd", "lr": 0.1}, {}),
    "sgd with momentum": ({"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {}),
    "epochs": ({"local_steps": None, "local_epochs": 2, "batch_size": 3}, {}),
    "large batches": ({"batch_size": 6}, {}),
    "weight decay": ({"weight_decay": 0.1, "eps": 1e-6, "beta1": 0.5}, {}),
    "clipping": ({"max_grad_norm": 0.05}, {}),
    "proximal": ({}, {}, 3.0),
    "proximal and clipping": ({"max_grad_norm": 0.05, "name": "sgd", "lr": 0.5}, {}, 3.0),
    "rates": ({"lr_b": 0.1, "lr_head": 0.001}, {"train": ("A", "B", "head")}),
    "A alone": ({}, {"train": ("A",)}),
    "B alone": ({}, {"train": ("B",)}),
    "B and head": ({}, {"train": ("B", "head")}),
    "head": ({}, {"train": ("A", "B", "head")}),
    "ranks": ({}, {"ranks": (1, 3, 2, 3)}),
    "ranks, epochs": ({"local_steps": None, "local_epochs": 1}, {"ranks": (3, 1, 2, 1)}),
    "base change": ({"name": "sgd", "lr": 0.1}, {"delta": True}),
    # Where a gradient is next to nothing, AdamW's step hangs on its last bits: hence the eps.
    "base change, adamw": ({"eps": 1e-3}, {"delta": True}),
}


def variant_of(name):
    """Settings, work, FedProx's mu and the rules that it asks for."""
    changes, work, *mu = VARIANTS[name]
    return changes, work, sum(mu), [FedProx(sum(mu))] if mu else []


def train_with_moments(model, data, jobs, chosen, seed=0):
    """The jobs with the rule of `optimizer.state` alone."""
    return local_update(model, data, jobs, chosen, seed, MOMENTS[chosen.state])


@pytest.mark.parametrize("variant", VARIANTS)
def test_stacked_clients_equal_single_ones(variant):
    changes, work, _, rules = variant_of(variant)
    chosen, data = settings(**changes), small.pixel_examples(sum(SIZES))
    model = small.net_model(train_head="head" in work.get("train", ()))
    jobs = jobs_for(model, **work)
    together = local_update(model, data, jobs, chosen, 0, rules)
    pair = local_update(model, data, jobs[1:3], chosen, 0, rules)
    alone = [local_update(model, data, [job], chosen, 0, rules)[0] for job in jobs]
    for one, other in zip([*together, *pair], [*alone, *alone[1:3]], strict=True):
        assert_same(one, other)
    for job, one in zip(jobs, alone, strict=True):
        moved = (one.parts.flat - job.start.select(one.parts.parts).flat).abs().max()
        assert moved > 1e-3


@pytest.mark.parametrize("architecture", small.ARCHITECTURES)
@pytest.mark.parametrize("head", [False, True])
def test_stacked_text_clients_equal_single_ones(model_dir, architecture, head):
    chosen = small.config(
        model={"name": str(model_dir(architecture)), "head": "train" if head else "frozen"},
        lora={"target_modules": TEXT_TARGETS[architecture]},
    )
    model = small.text_model(model_dir(architecture), chosen)
    data = small.text_examples(sum(SIZES))
    jobs = jobs_for(model, ("A", "B", "head") if head else ("A", "B"))
    together = local_update(model, data, jobs, settings(), seed=0)
    for job, one in zip(jobs, together, strict=True):
        assert_same(one, local_update(model, data, [job], settings(), seed=0)[0])


TEXT_TARGETS = {
    "bert": ["query", "value", "intermediate.dense"],
    "roberta": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "modernbert": ["Wqkv", "Wo"],
}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_stacked_clients_with_kept_optimizer_states_equal_single_ones(optimizer):
    chosen = settings(
        name=optimizer, momentum=0.9, local_steps=None, local_epochs=1, state="persist"
    )
    model, data = small.net_model(), small.pixel_examples(sum(SIZES))
    # Sizes 9, 7 and 8, 8 in batches of 4: the same numbers of steps, so that they may be stacked.
    rows = list(torch.arange(sum(SIZES))[:16].split([8, 8]))
    jobs = [Job(plan_for(k), start_of(model, k), rows[k]) for k in range(2)]
    for number in (1, 2, 3):
        jobs = [replace(job, plan=replace(job.plan, round=number)) for job in jobs]
        together = train_with_moments(model, data, jobs, chosen)
        alone = [train_with_moments(model, data, [job], chosen)[0] for job in jobs]
        for one, other in zip(together, alone, strict=True):
            assert_same(one, other)
        jobs = [
            replace(job, start=one.parts, kept=one.kept)
            for job, one in zip(jobs, alone, strict=True)
        ]


def test_kept_states_of_clients_of_different_ranks_have_their_own_size():
    model, data = small.net_model(), small.pixel_examples(sum(SIZES))
    jobs = jobs_for(model, ranks=(1, 3, 2, 3))
    for number in (1, 2):
        together = train_with_moments(model, data, jobs, settings(state="persist"))
        alone = [
            train_with_moments(model, data, [job], settings(state="persist"))[0] for job in jobs
        ]
        for one, other in zip(together, alone, strict=True):
            assert_same(one, other)
        jobs = [
            replace(job, plan=replace(job.plan, round=number + 1), start=one.parts, kept=one.kept)
            for job, one in zip(jobs, together, strict=True)
        ]


@pytest.mark.parametrize("train", ["A", "B"])
def test_kept_momentum_follows_the_frozen_factor_into_another_basis(train):
    """SGD does the same in every orthonormal basis, if its momentum is turned along."""
    chosen = settings(name="sgd", momentum=0.9, lr=0.1, state="transport")
    model, data = small.net_model(), small.pixel_examples(sum(SIZES))
    jobs = jobs_for(model, (train,))
    first = train_with_moments(model, data, jobs, chosen)
    again = [
        replace(
            job,
            plan=replace(job.plan, round=2),
            start=job.start.overwrite(one.parts),
            kept=one.kept,
        )
        for job, one in zip(jobs, first, strict=True)
    ]
    angle = torch.tensor(1.0)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    turned = [
        replace(
            job,
            start=Adapter.of(
                {key: turn @ t if key[1] == "A" else t @ turn.T for key, t in job.start.items()}
            ),
        )
        for job in again
    ]
    kept = [replace(job, kept=without_bases(job.kept)) for job in turned]
    persist = chosen.model_copy(update={"state": "persist"})
    ends = [
        train_with_moments(model, data, again, chosen),
        train_with_moments(model, data, turned, chosen),
        train_with_moments(model, data, kept, persist),
    ]
    for k in range(len(jobs)):
        starts = (again[k].start, turned[k].start, turned[k].start)
        after = [s.overwrite(e[k].parts) for s, e in zip(starts, ends, strict=True)]
        for name in small.TARGETS:
            straight, carried, not_carried = (x[name, "B"] @ x[name, "A"] for x in after)
            torch.testing.assert_close(straight, carried, rtol=0, atol=2e-5)
            assert (straight - not_carried).abs().max() > 1e-3


def without_bases(state):
    return {name: value for name, value in state.items() if not name.endswith(".basis")}


# Against a plain loop ----------------------------------------------------------------------


def plain_loop(job, data, chosen, seed, mu=0.0):
    """The same local training in textbook PyTorch: one client, one net, merged by autograd."""
    net = small.Net().requires_grad_(False)
    leaves = {
        key: tensor.clone().requires_grad_(key[1] in job.plan.train)
        for key, tensor in {**job.start, **job.delta}.items()
    }

    def logits(x):
        for name in small.TARGETS:
            layer = net.get_submodule(name)
            lora = leaves[name, "B"] @ leaves[name, "A"] * job.plan.scaling
            if (name, "D") in leaves:
                lora = lora + leaves[name, "D"]
            x = torch.tanh(layer(x) + x @ lora.T)
        if ("score.weight", "head") in leaves:
            return x @ leaves["score.weight", "head"].T + leaves["score.bias", "head"]
        return net.score(x)

    rates = {"A": chosen.lr, "B": chosen.lr_b or chosen.lr, "head": chosen.lr_head or chosen.lr}
    groups = [
        {"params": [leaf], "lr": rates[part]}
        for (_, part), leaf in leaves.items()
        if part in job.plan.train
    ]
    if chosen.name == "adamw":
        betas = (chosen.beta1, chosen.beta2)
        optimizer = torch.optim.AdamW(
            groups, betas=betas, eps=chosen.eps, weight_decay=chosen.weight_decay
        )
    else:
        optimizer = torch.optim.SGD(
            groups, momentum=chosen.momentum, weight_decay=chosen.weight_decay
        )
    trained = [leaf for leaf in leaves.values() if leaf.requires_grad]
    starts, losses = [leaf.detach().clone() for leaf in trained], []
    for rows in batch_rows(job.rows, job.plan, chosen, seed):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(logits(data.dense["x"][rows]), data.targets[rows])
        losses.append(float(loss.detach()))
        distance = sum((w - s).square().sum() for w, s in zip(trained, starts, strict=True))
        (loss + mu / 2 * distance).backward()
        if chosen.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(trained, chosen.max_grad_norm)
        optimizer.step()
    parts = Adapter.of({k: t.detach() for k, t in leaves.items() if k[1] in job.plan.train})
    return parts, sum(losses) / len(losses)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_client_does_what_a_plain_pytorch_loop_does(variant):
    changes, work, mu, rules = variant_of(variant)
    chosen, data = settings(**changes), small.pixel_examples(sum(SIZES))
    model = small.net_model(train_head="head" in work.get("train", ()))
    jobs = jobs_for(model, **work)
    for job, one in zip(jobs, local_update(model, data, jobs, chosen, 3, rules), strict=True):
        parts, loss = plain_loop(job, data, chosen, 3, mu)
        assert one.parts.layout == parts.layout
        torch.testing.assert_close(one.parts.flat, parts.flat, rtol=0, atol=2e-5)
        assert one.update.metrics["train_loss"] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("architecture", small.ARCHITECTURES)
def test_a_base_in_bfloat16_trains_factors_in_float32_near_those_of_float32(
    model_dir, architecture
):
    data, trained = small.text_examples(sum(SIZES)), {}
    for dtype in ("float32", "bfloat16"):
        chosen = small.config(
            model={"name": str(model_dir(architecture)), "dtype": dtype},
            lora={"target_modules": TEXT_TARGETS[architecture]},
        )
        model = small.text_model(model_dir(architecture), chosen)
        jobs = jobs_for(model)
        chosen = settings(name="sgd", lr=0.2, local_steps=1)
        trained[dtype] = local_update(model, data, jobs, chosen, seed=0)
    for job, half, full in zip(jobs, trained["bfloat16"], trained["float32"], strict=True):
        assert half.parts.flat.dtype == torch.float32
        start = job.start.select({"A", "B"}).flat
        step, expected = half.parts.flat - start, full.parts.flat - start
        assert torch.nn.functional.cosine_similarity(step, expected, dim=0) > 0.9
        loss = full.update.metrics["train_loss"]
        assert half.update.metrics["train_loss"] == pytest.approx(loss, rel=0.15)


# What may and may not change ---------------------------------------------------------------


def test_the_job_is_not_changed_and_only_trained_parts_come_back():
    model, data = small.net_model(train_head=True), small.pixel_examples(sum(SIZES))
    jobs = jobs_for(model, ("B", "head"))
    jobs = [replace(job, plan=replace(job.plan, upload=frozenset({"B"}))) for job in jobs]
    before = [job.start.flat.clone() for job in jobs]
    trained = local_update(model, data, jobs, settings(), seed=0)
    for job, flat, one in zip(jobs, before, trained, strict=True):
        assert torch.equal(job.start.flat, flat)
        assert one.parts.parts == {"B", "head"}
        assert one.update.parts.parts == {"B"}
        assert torch.equal(one.update.parts.flat, one.parts.select({"B"}).flat)


def test_base_weights_do_not_change():
    model, data = small.net_model(), small.pixel_examples(sum(SIZES))
    local_update(model, data, jobs_for(model), settings(), seed=0)
    for name, parameter in small.Net().named_parameters():
        inner = name.replace(".weight", ".base.weight").replace(".bias", ".base.bias")
        own = model.module.get_parameter(name if name.startswith("score") else inner)
        assert torch.equal(own, parameter)


@pytest.mark.parametrize("train", [{"A"}, {"B"}, {"A", "B"}, {"B", "head"}])
def test_the_optimizer_holds_only_the_trained_parts(train):
    model = small.net_model(train_head="head" in train)
    jobs = jobs_for(model, tuple(train))
    stack = Stack(jobs, torch.device("cpu"))
    optimizer = build_optimizer(stack, settings(lr=0.1, lr_b=0.2, lr_head=0.3))
    rates = {"A": 0.1, "B": 0.2, "head": 0.3}
    held = [(g["lr"], sum(p.numel() for p in g["params"])) for g in optimizer.param_groups]
    start = jobs[0].start
    expected = [(rates[p], 4 * start.select({p}).flat.numel()) for p in PARTS if p in train]
    assert held == expected
    data = small.pixel_examples(sum(SIZES))
    kept = local_update(model, data, jobs, settings(), 0, MOMENTS["persist"])[0].kept
    assert {name.removeprefix("optimizer/").partition(".")[0] for name in kept} == train
    assert not local_update(model, data, jobs, settings(), seed=0)[0].kept


def test_a_client_that_goes_astray_leaves_the_others_alone():
    model, data = small.net_model(), small.pixel_examples(sum(SIZES))
    jobs = jobs_for(model)
    bad = jobs[1].start.clone()
    bad["square", "B"][0, 0] = float("nan")
    spoiled = [jobs[0], replace(jobs[1], start=bad), *jobs[2:]]
    for chosen in (settings(), settings(max_grad_norm=0.05)):
        together = local_update(model, data, spoiled, chosen, seed=0)
        assert together[1].update.parts.flat.isnan().any()
        for k in (0, 2, 3):
            alone = local_update(model, data, [jobs[k]], chosen, seed=0)[0]
            assert_same(together[k], alone)


def test_the_frozen_factor_is_each_clients_own():
    model, data = small.net_model(), small.pixel_examples(sum(SIZES))
    jobs = jobs_for(model, ("B",))  # every client starts from an A of its own
    assert not torch.equal(jobs[0].start["wide", "A"], jobs[1].start["wide", "A"])
    reverse = local_update(model, data, jobs[::-1], settings(), seed=0)[::-1]
    for one, other in zip(
        local_update(model, data, jobs, settings(), seed=0), reverse, strict=True
    ):
        assert_same(one, other)


def test_an_earlier_client_leaves_nothing_behind():
    model, data = small.net_model(), small.pixel_examples(sum(SIZES))
    jobs = jobs_for(model)
    fresh = local_update(model, data, [jobs[3]], settings(), seed=0)[0]
    local_update(model, data, jobs_for(model, delta=True)[:2], settings(), seed=5)
    again = local_update(model, data, [jobs[3]], settings(), seed=0)[0]
    assert torch.equal(fresh.parts.flat, again.parts.flat)


def test_torchs_random_numbers_have_no_say_with_dropout():
    model, data = small.net_model(dropout_p=0.3), small.pixel_examples(sum(SIZES))
    jobs = jobs_for(model)[:1]
    torch.manual_seed(1)
    first = local_update(model, data, jobs, settings(), seed=0)[0]
    torch.manual_seed(2)
    again = local_update(model, data, jobs, settings(), seed=0)[0]
    assert torch.equal(first.parts.flat, again.parts.flat)
    other = local_update(model, data, jobs, settings(), seed=1)[0]
    assert not torch.equal(first.parts.flat, other.parts.flat)


def spied(model):
    """What dropout makes of ones, by client seed: masks as the layers see them, in order."""
    seen = []
    for layer in model.layers.values():
        layer.register_forward_pre_hook(
            lambda layer, inputs: seen.append(
                (len(inputs[0]), layer._dropout(torch.ones_like(inputs[0])))
            )
        )
    return seen


@pytest.mark.parametrize("overhead", [0, 10**9])
def test_with_dropout_a_stack_gives_what_its_clients_give_alone(model_dir, monkeypatch, overhead):
    """Ragged lengths, batches of different sizes, different ranks, however batches are cut."""
    monkeypatch.setitem(CHUNK_OVERHEAD, "cpu", overhead)
    chosen = small.config(model={"name": str(model_dir("bert"))}, lora={"dropout": 0.3})
    model = small.text_model(model_dir("bert"), chosen)
    data = small.text_examples(sum(SIZES), longest=30)
    jobs = jobs_for(model, ranks=(1, 3, 2, 2))
    stacked = local_update(model, data, jobs, settings(), seed=0)
    for job, together in zip(jobs, stacked, strict=True):
        (alone,) = local_update(model, data, [job], settings(), seed=0)
        assert_same(together, alone)
    reordered = local_update(model, data, jobs[::-1], settings(), seed=0)
    for one, other in zip(stacked, reordered[::-1], strict=True):
        assert_same(one, other)


def test_masks_are_the_same_bits_in_a_stack_and_alone():
    model, data = small.net_model(dropout_p=0.4), small.pixel_examples(sum(SIZES))
    jobs = [job for job in jobs_for(model) if len(job.rows) >= 4]
    seen = spied(model)
    alone = []
    for job in jobs:
        seen.clear()
        local_update(model, data, [job], settings(batch_size=4), seed=0)
        alone.append([mask for _, mask in seen])
    seen.clear()
    local_update(model, data, jobs, settings(batch_size=4), seed=0)
    for step, (_, mask) in enumerate(seen):
        pieces = mask.split(len(mask) // len(jobs))
        for k, piece in enumerate(pieces):
            if step < len(alone[k]):
                own = alone[k][step]
                assert torch.equal(piece[: len(own)], own)
    assert not torch.equal(alone[0][0], alone[1][0])


def test_every_round_and_step_drops_others():
    model, data = small.net_model(dropout_p=0.4), small.pixel_examples(sum(SIZES))
    (job,) = jobs_for(model)[:1]
    seen = spied(model)
    local_update(model, data, [job], settings(local_steps=2), seed=0)
    first = [mask for _, mask in seen]
    seen.clear()
    later = replace(job, plan=replace(job.plan, round=job.plan.round + 1))
    local_update(model, data, [later], settings(local_steps=2), seed=0)
    half = len(first) // 2
    assert not torch.equal(first[0], first[half])
    assert not torch.equal(first[0], seen[0][1])


# Batches -----------------------------------------------------------------------------------


@given(
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(0, 2**32),
)
def test_batches_pass_over_the_examples_without_repeating(n, client, size, steps, seed):
    rows = torch.arange(100, 100 + n)
    chosen = settings(batch_size=size, local_steps=steps)
    batches = batch_rows(rows, plan_for(client), chosen, seed)
    assert len(batches) == steps
    drawn = torch.cat(batches)
    full, rest = divmod(len(drawn), n)
    counts = torch.bincount(drawn - 100, minlength=n)
    assert counts.min() >= full
    assert counts.max() <= full + (rest > 0)
    epochs = settings(batch_size=size, local_steps=None, local_epochs=2)
    drawn = torch.cat(batch_rows(rows, plan_for(client), epochs, seed))
    assert torch.equal(drawn.sort().values, rows.repeat_interleave(2))


def test_batches_are_a_function_of_seed_round_and_client():
    rows = torch.arange(50)

    def drawn(client=1, number=1, seed=0):
        return torch.cat(batch_rows(rows, plan_for(client, number=number), settings(), seed))

    assert torch.equal(drawn(), drawn())
    assert not torch.equal(drawn(), drawn(client=2))
    assert not torch.equal(drawn(), drawn(number=2))
    assert not torch.equal(drawn(), drawn(seed=1))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 4), st.integers(1, 80))
def test_the_cuts_cost_least(lengths, clients, overhead):
    lengths.sort(reverse=True)

    def cost(spans):
        return sum((b - a) * lengths[a] * clients + overhead for a, b in spans)

    spans = cuts(lengths, clients, overhead)
    assert [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])]
    assert spans[-1][1] == len(lengths)
    n = len(lengths)
    for pattern in range(2 ** (n - 1)) if n <= 8 else []:
        inner = [i + 1 for i in range(n - 1) if pattern >> i & 1]
        assert cost(spans) <= cost(list(zip([0, *inner], [*inner, n], strict=True)))
    assert cost(spans) <= cost([(0, n)])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 4))
def test_no_chunk_is_larger_than_it_may_be(lengths, clients):
    lengths.sort(reverse=True)
    spans = cuts(lengths, clients, 10**6, most=100)
    assert [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])]
    assert spans[-1][1] == len(lengths)
    assert all(b - a == 1 or (b - a) * lengths[a] * clients <= 100 for a, b in spans)


def test_chunks_hold_every_example_once_with_its_weight():
    data = small.text_examples(40, longest=30)
    current = [torch.arange(0, 16), torch.arange(16, 19), torch.arange(19, 40)]
    pieces = list(chunks(data, current, "cpu"))
    assert len(pieces) > 1
    weight = torch.zeros(40)
    for piece in pieces:
        assert piece.rows.shape == piece.weights.shape == piece.places.shape
        for k, rows in enumerate(current):
            assert torch.equal(rows[piece.places[k]], piece.rows[k])
            assert set(piece.rows[k].tolist()) <= set(rows.tolist())
        weight.index_add_(0, piece.rows.flatten(), piece.weights.flatten())
    expected = torch.cat([torch.full((len(r),), 1 / len(r)) for r in current])
    torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize("ragged", [True, False])
def test_rows_that_weigh_more_count_more_in_their_client_s_mean(ragged):
    data = small.text_examples(9, longest=30) if ragged else small.pixel_examples(9)
    current = [torch.arange(0, 4), torch.arange(4, 8)]
    of_each = torch.tensor([1, 2, 3, 4, 5, 0, 0, 0, 9])
    weight = torch.zeros(9)
    for piece in chunks(data, current, "cpu", of_each):
        weight.index_add_(0, piece.rows.flatten(), piece.weights.flatten())
    expected = torch.tensor([0.1, 0.2, 0.3, 0.4, 1.0, 0.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(weight, expected)
    nothing = chunks(data, current, "cpu", torch.zeros(9))
    assert not any(piece.weights.any() for piece in nothing)


@pytest.mark.parametrize("overhead", [0, 10**9])
def test_training_does_not_depend_on_how_batches_are_cut(model_dir, monkeypatch, overhead):
    chosen = small.config(model={"name": str(model_dir("bert"))})
    model = small.text_model(model_dir("bert"), chosen)
    data = small.text_examples(sum(SIZES), longest=30)
    jobs = jobs_for(model)
    usual = local_update(model, data, jobs, settings(), seed=0)
    monkeypatch.setitem(CHUNK_OVERHEAD, "cpu", overhead)
    pieces = len(list(chunks(data, [job.rows for job in jobs], "cpu")))
    assert (pieces == 1) == (overhead > 0)
    for one, other in zip(usual, local_update(model, data, jobs, settings(), seed=0), strict=True):
        assert_same(one, other)


# Resizing ----------------------------------------------------------------------------------


@hypothesis_settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 8))
def test_padding_and_cutting_ranks(rank, other):
    model = small.net_model()
    adapter = start_of(model, 0, rank, head=True)
    changed = resized(adapter, other)
    assert changed.layout == model.layout(other)
    back = resized(changed, rank)
    if other >= rank:
        assert torch.equal(back.flat, adapter.flat)
        for name in small.TARGETS:
            a = adapter[name, "B"] @ adapter[name, "A"]
            torch.testing.assert_close(changed[name, "B"] @ changed[name, "A"], a)
    assert resized(adapter, rank) is adapter
