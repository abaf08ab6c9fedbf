"""Laws of every stage, and what each claims for itself."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import save

import small
from rolora.config import parse_config
from rolora.core.errors import BadInput
from rolora.core.types import Adapter, Update
from rolora.records.wire import pack_update, tensor_name, unpack_update, update_bytes
from rolora.stages import STAGES, At, BadMessage, change, changed, make_stage
from rolora.stages.int8 import LEVELS

every_stage = pytest.mark.parametrize("name", STAGES)
AT = At(seed=0, round=3, client=5)
LOSS = {"int8": 1 / LEVELS}
"""What a stage may lose of a number, as a share of its tensor's largest."""


def stage(name, **options):
    return make_stage(STAGES[name].Options(name=name, **options))


def update(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {("m", "B"): (6, 2), ("n", "B"): (5, 2), ("s", "head"): (3,)}
    tensors = {key: scale * torch.randn(s, generator=generator) for key, s in shapes.items()}
    return Update(5, 40, Adapter.of(tensors), {"train_loss": 0.5})


def largest(parts):
    """Per number, the largest of its tensor."""
    return torch.cat([tensor.abs().max().expand(tensor.numel()) for _, tensor in parts.items()])


@every_stage
@given(st.integers(0, 2**32), st.sampled_from([1e-8, 1.0, 1e6]))
def test_what_is_decoded_is_what_was_encoded_up_to_the_stages_loss(name, seed, scale):
    one, original = stage(name), update(seed, scale)
    before = original.parts.flat.clone()
    sent, _ = one.encode(original, {}, AT)
    assert torch.equal(original.parts.flat, before)
    back = one.decode(unpack_update(pack_update(sent)), original.parts.layout)
    assert not back.side
    assert (back.client, back.num_examples, back.metrics) == (5, 40, {"train_loss": 0.5})
    error = (back.parts.flat - original.parts.flat).abs()
    assert (error <= LOSS[name] * largest(original.parts) * (1 + 1e-5)).all()


@every_stage
def test_a_change_of_nothing_stays_nothing(name):
    one, nothing = stage(name), update(scale=0.0)
    sent, _ = one.encode(nothing, {}, AT)
    assert not one.decode(sent, nothing.parts.layout).parts.flat.any()


@every_stage
def test_the_bytes_are_those_of_the_message(name):
    original = update()
    sent, _ = stage(name).encode(original, {}, AT)
    for one in (original, sent):
        named = {tensor_name(key): tensor for key, tensor in one.parts.items()}
        assert update_bytes(one) == len(save({**named, **one.side}))


@every_stage
def test_the_draws_are_a_function_of_seed_round_and_client(name):
    one, original = stage(name), update()
    codes = [
        one.encode(original, {}, at)[0].parts.flat
        for at in (AT, AT, At(1, 3, 5), At(0, 4, 5), At(0, 3, 6))
    ]
    assert torch.equal(codes[0], codes[1])
    assert not any(torch.equal(codes[0], other) for other in codes[2:])


def test_int8_rounding_is_unbiased():
    one, original = stage("int8", feedback=False), update()
    layout = original.parts.layout
    decoded = [
        one.decode(one.encode(original, {}, At(seed, 1, 0))[0], layout).parts.flat
        for seed in range(2000)
    ]
    step = largest(original.parts) / LEVELS
    error = torch.stack(decoded).mean(0) - original.parts.flat
    assert (error.abs() < 4.5 * 0.5 * step / 2000**0.5).all()


@hypothesis_settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_int8_with_feedback_loses_no_more_over_many_rounds_than_in_one(seed, rounds):
    one, kept = stage("int8"), {}
    total, arrived, steps = 0.0, 0.0, []
    for number in range(rounds):
        original = update(seed + number)
        sent, kept = one.encode(original, kept, At(seed, number, 0))
        total = total + original.parts.flat
        arrived = arrived + one.decode(sent, original.parts.layout).parts.flat
        steps.append(sent.side["int8.scale"].max())
    assert (total - arrived).abs().max() <= max(steps) * (1 + 1e-4)


def test_int8_is_a_quarter_of_the_bytes():
    tensors = {("layer", "B"): torch.randn(1024, 8), ("layer", "A"): torch.randn(8, 1024)}
    original = Update(0, 1, Adapter.of(tensors))
    sent, _ = stage("int8").encode(original, {}, AT)
    assert update_bytes(sent) < 0.26 * update_bytes(original)


BAD = {
    "float parts": lambda sent: replace(sent, parts=Adapter.of(dict(sent.parts))),
    "no scale": lambda sent: replace(sent, side={}),
    "short scale": lambda sent: replace(sent, side={"int8.scale": torch.ones(1)}),
    "nan": lambda sent: replace(sent, side={"int8.scale": torch.full((3,), float("nan"))}),
    "negative": lambda sent: replace(sent, side={"int8.scale": -torch.ones(3)}),
    "whole numbers": lambda sent: replace(sent, side={"int8.scale": torch.ones(3).int()}),
}


@pytest.mark.parametrize("bad", BAD)
def test_int8_refuses_what_it_did_not_make(bad):
    one, original = stage("int8"), update()
    sent, _ = one.encode(original, {}, AT)
    with pytest.raises(BadMessage):
        one.decode(BAD[bad](sent), original.parts.layout)


def test_a_change_is_what_the_start_lacks_and_side_parts_are_changes_already():
    start = Adapter.of({("m", "B"): torch.ones(2, 2)})
    parts = Adapter.of({("m", "B"): torch.full((2, 2), 3.0), ("m", "control.B"): torch.ones(2, 2)})
    difference = change(parts, start)
    assert torch.equal(difference["m", "B"], torch.full((2, 2), 2.0))
    assert torch.equal(difference["m", "control.B"], torch.ones(2, 2))
    assert torch.equal(changed(start, difference).flat, parts.flat)


def test_int8_feedback_and_the_gauge_are_refused_together():
    method = {"name": "rolora", "gauge": "orthonormal"}
    with pytest.raises(BadInput, match=r"int8 with feedback.*method.gauge.*feedback: false"):
        small.checked(small.config(method=method, stages=["int8"]))
    small.checked(small.config(method=method, stages=[{"name": "int8", "feedback": False}]))


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (["int9"], "stages.0.name = 'int9': unknown stage .did you mean int8"),
        (
            [{"name": "int8", "feedbak": 1}],
            "stages.0.feedbak: unknown key .did you mean feedback",
        ),
        ([{"feedback": True}], "stages.0.name = None"),
        ("int8", "stages"),
    ],
)
def test_unknown_stages_and_options_are_refused_by_name(stages, words):
    with pytest.raises(BadInput, match=words):
        parse_config({"stages": stages})


def test_a_run_with_int8_ends_near_the_one_without_at_a_quarter_of_the_bytes_up():
    sections = {"federation": {"clients": 5}, "rounds": 6, "optimizer": {"eps": 1e-2}}
    ends, sent = {}, {}
    for name, stages in (("plain", []), ("int8", ["int8"])):
        settings = small.config(**sections, stages=stages)
        engine = small.engine(settings, sizes=(9, 5, 7, 4, 6))
        state, record = small.run(settings, engine)
        ends[name], sent[name] = state.parts.flat, sum(x.bytes_up for x in record.metrics)
    moved = (ends["plain"] - engine.model.initial_adapter(2, 0).select({"A", "B"}).flat).norm()
    assert (ends["plain"] - ends["int8"]).norm() < 0.1 * moved
    assert sent["int8"] < sent["plain"]
