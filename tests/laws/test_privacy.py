"""Laws of the noise: nobody adds more than the clip, and the noise is what is counted."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import small
import task_cases
from rolora.client.batches import chunks
from rolora.client.descent import Descent
from rolora.client.kept import all_tensors
from rolora.client.objective import Objective
from rolora.client.per_example import PerExample
from rolora.client.stack import Stack
from rolora.client.update import local_update
from rolora.config import PrivacyConfig
from rolora.core.clipping import clipped, clipped_sum, units
from rolora.core.noise import KEPT, SecretNoise, seeded
from rolora.core.rules import Job
from rolora.core.types import Adapter, Plan, Update
from rolora.methods import METHODS
from rolora.reducers.noised_mean import NoisedMean
from rolora.server.ledger import Ledger
from rolora.server.protection import protection_of
from rolora.server.round import finished, rounds
from rolora.stages import At
from rolora.stages.noised import Noised
from rolora.tasks import TASKS, make_task

SHAPES = {("m", "A"): (2, 5), ("m", "B"): (3, 2), ("s", "head"): (4,)}
CLIPS = st.one_of(
    st.floats(1e-4, 1e3),
    st.fixed_dictionaries({part: st.floats(1e-4, 1e3) for part in ("A", "B", "head")}),
)
SEEDS = st.integers(0, 2**32)


def adapter(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    drawn = {key: torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}
    return Adapter.of({key: scale * tensor for key, tensor in drawn.items()})


START = adapter(0)
LAYOUT = START.layout


def nothing(total):
    return torch.zeros_like(total)


def summed(updates, clip, noise=nothing, expected=1.0):
    reducer = NoisedMean(START, LAYOUT, clip, expected, noise)
    return reducer, reducer.reduce(updates)


# The clip ----------------------------------------------------------------------------------

WORST = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0, 1e-45]),
)


@given(st.lists(st.lists(WORST, min_size=7, max_size=7), min_size=1, max_size=5))
def test_nothing_that_is_clipped_is_longer_than_one(rows):
    for dtype in (torch.float32, torch.float64):
        out = clipped(torch.tensor(rows, dtype=torch.float32).to(dtype))
        assert (out.double().norm(dim=1) <= 1.0).all()


@given(st.lists(st.lists(WORST, min_size=7, max_size=7), min_size=1, max_size=5))
def test_the_sum_is_that_of_what_is_clipped(rows):
    vectors = torch.tensor(rows, dtype=torch.float32)
    torch.testing.assert_close(clipped_sum(vectors), clipped(vectors).sum(0), rtol=1e-5, atol=1e-5)


@given(SEEDS, st.floats(1e-3, 0.9))
def test_what_is_short_enough_is_not_touched(seed, length):
    x = adapter(seed).flat.double()[None]
    x = x / x.norm() * length
    assert torch.equal(clipped(x), x)


@given(SEEDS, CLIPS)
def test_one_clip_for_all_parts_is_the_usual_one_and_each_may_have_its_own(seed, clip):
    x = adapter(seed, 100.0)
    unit = units(LAYOUT, clip)
    out = Adapter(LAYOUT, unit * clipped((x.flat.double() / unit)[None])[0])
    if isinstance(clip, float):
        assert float(out.flat.norm()) <= clip * (1 + 1e-12)
    share = sum(
        float(out.select({part}).flat.norm() / (clip if isinstance(clip, float) else clip[part]))
        ** 2
        for part in ("A", "B", "head")
    )
    assert share <= 1 + 1e-9


# The sum -----------------------------------------------------------------------------------


@hypothesis_settings(max_examples=50)
@given(
    st.lists(st.tuples(SEEDS, st.sampled_from([1e-3, 1.0, 1e30])), max_size=5),
    CLIPS,
    SEEDS,
    st.sampled_from([1e-3, 1.0, 1e30, float("nan")]),
)
def test_the_worst_neighbour_moves_the_sum_by_the_clip_at_most(others, clip, seed, scale):
    """One client's changes against none of it, whatever the others send."""
    rest = [Update(k, 1 + k, adapter(s, scale)) for k, (s, scale) in enumerate(others)]
    one = Update(9, 10**9, adapter(seed, scale), weight=1e6)
    with_it, _ = summed([*rest, one], clip)
    without, _ = summed([*rest, replace(one, parts=START)], clip)
    assert float((with_it.total - without.total).norm()) <= 1.0
    absent = summed([*rest, replace(one, parts=START)], clip)[0].total
    assert torch.equal(without.total, absent)


@given(st.permutations(range(6)))
def test_the_order_of_updates_changes_no_bit(order):
    updates = [Update(k, 1, adapter(k + 1, 3.0**k)) for k in range(6)]

    def noise(total):
        return SecretNoise(b"k" * 32).gaussian(len(total), *SecretNoise(b"").over(total))

    a, b = (summed(each, 0.3, noise)[1] for each in (updates, [updates[k] for k in order]))
    assert torch.equal(a.parts.flat, b.parts.flat)


def test_the_mean_is_over_a_number_that_does_not_depend_on_who_came():
    one = Update(0, 7, Adapter(LAYOUT, START.flat + 0.01))
    _, reduced = summed([one], 1e3, expected=4.0)
    torch.testing.assert_close(reduced.parts.flat, START.flat + 0.01 / 4)
    _, empty = summed([], 1e3, expected=4.0)
    assert torch.equal(empty.parts.flat, START.flat)
    assert empty.clients == 0


def test_the_noise_of_the_sum_has_the_variance_that_is_counted():
    clip = {"A": 0.5, "B": 2.0, "head": 1.0}
    draws, z = seeded(3), 1.3
    found = torch.stack(
        [
            summed([], clip, lambda total, n=n: z * draws.gaussian(len(total), n), 4.0)[
                1
            ].parts.flat
            for n in range(1000)
        ]
    )
    scaled = (found - START.flat) * 4.0 / units(LAYOUT, clip)
    ratio = scaled.double().var() / z**2
    assert abs(ratio - 1) < 4.5 * (2 / found.numel()) ** 0.5


# Shares ------------------------------------------------------------------------------------


def shared(parts, client, share, clip=0.5, round_number=1, seed=1):
    stage = Noised(clip, share, seed)
    update = Update(client, 3, parts, {"train_loss": 0.7})
    return stage.encode(update, {}, At(0, round_number, client))[0]


def test_shares_add_up_to_the_noise_that_is_counted():
    """Of m + 1 who must answer, one knows its own: m make the noise."""
    clients, z = 5, 0.8
    zero = Adapter(LAYOUT, torch.zeros(LAYOUT.size))
    totals = torch.stack(
        [
            sum(
                shared(zero, k, z / (clients - 1) ** 0.5, 0.5, n).parts.flat
                for k in range(1, clients)
            )
            for n in range(800)
        ]
    )
    ratio = (totals.double() / 0.5).var() / z**2
    assert abs(ratio - 1) < 4.5 * (2 / totals.numel()) ** 0.5


@given(SEEDS, CLIPS, st.sampled_from([1e-3, 1.0, 1e30, float("inf")]))
def test_a_share_is_of_a_clipped_change_whatever_the_change_is(seed, clip, scale):
    sent = shared(adapter(seed, scale), 2, 0.0, clip)
    unit = units(LAYOUT, clip)
    assert float((sent.parts.flat.double() / unit).norm()) <= 1 + 1e-5
    assert not sent.metrics  # a training loss is not noised


def test_a_share_without_a_seed_is_the_clients_secret_and_the_same_after_a_restart():
    stage, update = Noised(0.5, 1.0, None), Update(2, 3, adapter(1))
    sent, kept = stage.encode(update, {}, At(0, 1, 2))
    again, _ = stage.encode(update, kept, At(0, 1, 2))
    assert torch.equal(sent.parts.flat, again.parts.flat)
    assert kept[KEPT].shape == (32,)
    other, _ = stage.encode(update, {}, At(0, 1, 2))
    assert not torch.equal(sent.parts.flat, other.parts.flat)
    # Asked again in the same round with another start, its noise is another: no difference tells.
    moved = replace(update, parts=adapter(2))
    apart = stage.encode(moved, kept, At(0, 1, 2))[0].parts.flat - sent.parts.flat
    unit = units(LAYOUT, 0.5)
    plain = unit * (
        clipped((moved.parts.flat.double() / unit)[None])[0]
        - clipped((update.parts.flat.double() / unit)[None])[0]
    )
    assert float((apart - plain).norm()) > 0.1


# One example at a time ---------------------------------------------------------------------


HEADED = [(name, head) for name in TASKS.own for head in ("frozen", "train")]


def learner(name, head, directory):
    """A task's model, ten examples, and its config."""
    case = task_cases.CASES[name]
    settings = small.config(
        model={"name": directory, "head": head},
        task={"name": name, **case.options},
        lora={"target_modules": "all-linear"},
    )
    examples = small.text_examples(10)
    if name == "causal_lm":
        examples, names = small.spoken(examples), ()
    else:
        _, targets, names, _ = task_cases.drawn(name, 10)
        examples = replace(examples, targets=targets, names=names)
    task = make_task(settings.task)
    return task, task.adapted(task.backbone(settings.model, names, 0), settings), examples, settings


def jobs_of(model, sizes, parts=("A", "B"), seed=0):
    start = model.initial_adapter(2, seed)
    start = start.overwrite({key: t + 0.1 for key, t in start.items() if key[1] == "B"})
    train = frozenset(parts) | (frozenset({"head"}) if model.head else frozenset())
    return [
        Job(Plan(1, k, start, {}, train, train, 2, 4.0), start, rows)
        for k, rows in enumerate(small.shares(sizes))
    ]


def one_by_one(task, model, examples, job, rows):
    """Each row's gradient by autograd, which sees no other row."""
    found = []
    for row in rows.tolist():
        tensors = {key: t.clone()[None] for key, t in job.start.items()}
        leaves = [tensors[key].requires_grad_() for key in job.start if key[1] in job.plan.train]
        model.mount(tensors, [job.plan.scaling])
        output, targets = task.outputs(model, examples, torch.tensor([row]), again=False)
        gradients = torch.autograd.grad(task.loss(output, targets).sum(), leaves)
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(found)


@pytest.mark.parametrize(("name", "head"), [c for c in HEADED if c != ("causal_lm", "train")])
def test_an_examples_gradient_is_that_of_autograd_on_it_alone(name, head, bert, llama):
    task, model, examples, settings = learner(name, head, llama if name == "causal_lm" else bert)
    jobs = jobs_of(model, (4, 6))
    stack, loss = Stack(jobs, model.device), Objective(task)
    privacy = PrivacyConfig(clip=1.0, noise_multiplier=1.0, seed=1)
    descent = PerExample(privacy, 1, model, examples, stack, loss, settings.optimizer, 0)
    for k, job in enumerate(jobs):
        rows = job.rows[torch.arange(len(job.rows) - 1, -1, -1)]
        pieces = list(descent.gradients(k, rows, None))
        expected = one_by_one(task, model, examples, job, rows)
        assert expected.norm(dim=1).min() > 0
        order = torch.cat([chunk.rows[0] for chunk in chunks(examples, [rows], "cpu", None, None)])
        where = [rows.tolist().index(row) for row in order.tolist()]
        torch.testing.assert_close(torch.cat(pieces), expected[where], rtol=1e-4, atol=1e-6)


def stepped(examples, rows, privacy, parts=("A", "B"), **optimizer):
    """One client's step of plain SGD on these rows of the net, as the change of its parts."""
    model = small.net_model(train_head=True)
    settings = small.config(
        optimizer={"name": "sgd", "lr": 1.0, "local_steps": 1, "batch_size": 1000, **optimizer}
    ).optimizer
    [job] = jobs_of(model, (len(examples),), parts)
    job = replace(job, rows=rows)
    descend = partial(PerExample, privacy, 1)
    given = (small.CLASSIFICATION, model, examples, [job], settings, 0)
    [trained] = local_update(*given, descend=descend)
    return trained, Adapter(
        trained.parts.layout, trained.parts.flat - job.start.select(trained.parts.parts).flat
    )


@hypothesis_settings(max_examples=25)
@given(SEEDS, st.sampled_from([1e-2, 1.0, 1e4, float("nan")]), st.booleans())
def test_the_worst_example_moves_a_step_by_the_clip_at_most(seed, scale, wide):
    """Whatever it is, also where it is no number; the same draws, so that all else is equal."""
    clip = {"A": 0.5, "B": 0.02, "head": 3.0} if wide else 0.3
    examples = small.pixel_examples(7, seed=seed)
    examples.dense["x"][3] *= scale
    privacy = PrivacyConfig(unit="example", clip=clip, noise_multiplier=0.0, seed=1)
    _, whole = stepped(examples, torch.arange(7), privacy)
    _, without = stepped(examples, torch.tensor([0, 1, 2, 4, 5, 6]), privacy)
    # A batch larger than the data is the data; the mean is over what is expected of it.
    moved = (whole.flat * 7 - without.flat * 6).double() / units(whole.layout, clip)
    assert float(moved.norm()) <= 1 + 1e-4


def test_a_steps_noise_has_the_variance_that_is_counted():
    privacy = PrivacyConfig(unit="example", clip=1e-6, noise_multiplier=2e6, seed=1)
    examples = small.pixel_examples(8)
    studies = [privacy.model_copy(update={"seed": seed}) for seed in range(40)]
    found = [stepped(examples, torch.arange(8), each)[1].flat for each in studies]
    values = torch.stack(found).double() * 8  # of the sum, in units of 2
    assert abs(float(values.var()) / 4 - 1) < 4.5 * (2 / values.numel()) ** 0.5


def test_batches_are_poisson_samples():
    privacy = PrivacyConfig(unit="example", clip=1.0, noise_multiplier=1.0, seed=1)
    model, examples = small.net_model(), small.pixel_examples(60)
    settings = small.config(optimizer={"local_steps": 400, "batch_size": 15}).optimizer
    stack = Stack(jobs_of(model, (60,)), model.device)
    loss = Objective(small.CLASSIFICATION)
    [batches] = PerExample(privacy, 1, model, examples, stack, loss, settings, 0).batches
    sizes = torch.tensor([len(rows) for rows in batches]).double()
    assert abs(float(sizes.mean()) - 15) < 4.5 * (60 * 0.25 * 0.75 / 400) ** 0.5
    assert abs(float(sizes.var()) / (60 * 0.25 * 0.75) - 1) < 4.5 * (2 / 400) ** 0.5
    counts = torch.bincount(torch.cat(list(batches)), minlength=60)
    assert (counts > 0).all()
    assert all(len(set(rows.tolist())) == len(rows) for rows in batches)


def test_clients_side_by_side_are_each_as_if_alone():
    """Of different sizes and ranks, with an empty sample among them."""
    settings = small.config(optimizer={"local_steps": 4, "batch_size": 2}).optimizer
    privacy = PrivacyConfig(unit="example", clip=0.1, noise_multiplier=0.5, seed=2)
    model, examples = small.net_model(train_head=True), small.pixel_examples(30)
    jobs = jobs_of(model, (25, 3, 2))
    small_rank = model.initial_adapter(1, 4)
    narrow = replace(jobs[1].plan, rank=1, scaling=8.0)
    jobs[1] = replace(jobs[1], plan=narrow, start=small_rank)
    given = (small.CLASSIFICATION, model, examples)
    descend = partial(PerExample, privacy, 1)
    together = local_update(*given, jobs, settings, 0, descend=descend)
    for job, one in zip(jobs, together, strict=True):
        [alone] = local_update(*given, [job], settings, 0, descend=descend)
        torch.testing.assert_close(one.parts.flat, alone.parts.flat, rtol=1e-5, atol=1e-6)
        assert not one.update.metrics
    assert together[1].parts["wide", "A"].shape[0] == 1


def test_without_noise_and_clip_a_full_batch_is_the_plain_step():
    privacy = PrivacyConfig(unit="example", clip=1e6, noise_multiplier=0.0, seed=1)
    examples = small.pixel_examples(8)
    _, private = stepped(examples, torch.arange(8), privacy)
    model = small.net_model(train_head=True)
    settings = small.config(
        optimizer={"name": "sgd", "lr": 1.0, "local_steps": 1, "batch_size": 8}
    ).optimizer
    [job] = jobs_of(model, (8,))
    [plain] = local_update(
        small.CLASSIFICATION, model, examples, [job], settings, 0, descend=Descent
    )
    change = plain.parts.flat - job.start.select(plain.parts.parts).flat
    torch.testing.assert_close(private.flat, change, rtol=1e-4, atol=1e-6)


# All that comes of it ----------------------------------------------------------------------


DROWNED = {"example": 1e12, "client": 1e17}
"""Noise beside which a float, of 32 and of 64 bits, keeps nothing of what is clipped."""
PLAIN_METHODS = {name: {"name": name} for name in METHODS.own}
LINES = PLAIN_METHODS | {
    "rolora+gauge": {"name": "rolora", "gauge": "orthonormal"},
    "rolora+adaptive": {"name": "rolora", "schedule": "adaptive"},
}
SHARED = {name for name, m in METHODS.own.items() if m.reduction == "sum" and not m().local()}
CASES = [
    (line, unit)
    for line, options in LINES.items()
    for unit in DROWNED
    if unit == "example" or options["name"] in SHARED
]


def released(line, unit, data, noise):
    """All that a run's rounds leave, from other data with the same draws: the adapters, and with
    noised examples what clients keep.
    """
    options = LINES[line]
    taken = small.TAKES.get(options["name"], {}).get("optimizer", {})
    privacy = {"unit": unit, "clip": 1 / DROWNED[unit], "noise_multiplier": noise, "seed": 1}
    settings = small.config(
        method=options,
        privacy=privacy,
        server={"weighting": "uniform"},
        optimizer={"state": "transport", "lr": 0.1, **taken},
        federation={"clients": 3, "quorum": 0.1},
    )
    small.checked(settings)
    engine = small.engine(settings, examples=small.pixel_examples(21, seed=data))
    initial = engine.method.init(engine.model.initial_adapter(settings.lora.max_rank, 0))
    guard = protection_of(settings, lambda: seeded(1), engine.registered)
    given = (settings, engine.method, small.CLASSIFICATION, engine, initial, Ledger())
    record = small.Memory()
    finished(rounds(*given, record, protection=guard))
    found = [state.parts.flat for state, _ in record.states]
    if unit == "example":
        found += [all_tensors(engine.own)[name] for name in sorted(all_tensors(engine.own))]
    return torch.cat([tensor.flatten().float() for tensor in found])


@pytest.mark.parametrize(("line", "unit"), CASES)
def test_whatever_leaves_a_run_comes_of_what_was_noised(line, unit):
    """Factors of another basis, carried moments, controls, schedules: under noise beside which
    clipped data are nothing, other data leave the same bits.
    """
    one, other = (released(line, unit, data, DROWNED[unit]) for data in (1, 2))
    assert one.isfinite().all()
    assert torch.equal(one, other)


@pytest.mark.parametrize("unit", DROWNED)
def test_without_noise_other_data_leave_others(unit):
    one, other = (released("rolora", unit, data, 0.0) for data in (1, 2))
    assert not torch.equal(one, other)
