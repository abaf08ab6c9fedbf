"""Laws of every stage, and what each claims for itself."""

from dataclasses import replace

import numpy as np
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
from rolora.stages import STAGES, At, BadMessage, change, changed, make_chain
from rolora.stages.top_k import packed, positions_bytes, unpacked

AT = At(seed=0, round=3, client=5)
LOSS = {"int8": 1 / 127, "int4": 1 / 7, "top_k": 1.0}
"""What a stage may lose of a number, as a share of its tensor's largest."""
DRAWS = {"int8", "int4"}
CHAINS = {
    **{name: [{"name": name}] for name in STAGES},
    "top_k, int8": [{"name": "top_k", "share": 0.2}, {"name": "int8"}],
    "top_k, int4": [{"name": "top_k", "share": 0.5}, {"name": "int4"}],
}
BYTES = {"int8": 0.26, "int4": 0.136, "top_k": 0.066, "top_k, int8": 0.085, "top_k, int4": 0.102}
"""Of a large update, what a chain leaves at most."""
every_stage = pytest.mark.parametrize("name", STAGES)
every_chain = pytest.mark.parametrize("name", CHAINS)


def chain(name, **options):
    return make_chain([STAGES[one["name"]].Options(**{**one, **options}) for one in CHAINS[name]])


def update(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {("m", "B"): (6, 2), ("n", "B"): (5, 3), ("s", "head"): (3,)}
    tensors = {key: scale * torch.randn(s, generator=generator) for key, s in shapes.items()}
    return Update(5, 40, Adapter.of(tensors), {"train_loss": 0.5})


def largest(parts):
    """Per number, the largest of its tensor."""
    return torch.cat([tensor.abs().max().expand(tensor.numel()) for _, tensor in parts.items()])


@every_stage
@given(st.integers(0, 2**32), st.sampled_from([1e-8, 1.0, 1e6]))
def test_what_is_decoded_is_what_was_encoded_up_to_the_stages_loss(name, seed, scale):
    one, original = chain(name), update(seed, scale)
    before = original.parts.flat.clone()
    sent, _ = one.encode(original, {}, AT)
    assert torch.equal(original.parts.flat, before)
    assert sent.parts.layout == one.layout(original.parts.layout)
    back = one.decode(unpack_update(pack_update(sent)), original.parts.layout)
    assert not back.side
    assert (back.client, back.num_examples, back.metrics) == (5, 40, {"train_loss": 0.5})
    error = (back.parts.flat - original.parts.flat).abs()
    assert (error <= LOSS[name] * largest(original.parts) * (1 + 1e-5)).all()


def test_four_bits_lose_a_share_of_their_block_s_largest():
    one, original = chain("int4", block=3), update()
    sent, _ = one.encode(original, {}, AT)
    back = one.decode(sent, original.parts.layout)
    for key, tensor in original.parts.items():
        for ours, theirs in zip(
            tensor.flatten().split(3), back.parts[key].flatten().split(3), strict=True
        ):
            assert ((ours - theirs).abs() <= ours.abs().max() / 7 * (1 + 1e-5)).all()


@every_chain
def test_a_change_of_nothing_stays_nothing(name):
    one, nothing = chain(name), update(scale=0.0)
    sent, _ = one.encode(nothing, {}, AT)
    assert not one.decode(sent, nothing.parts.layout).parts.flat.any()


@every_chain
def test_the_bytes_are_those_of_the_message_whatever_the_numbers(name):
    sizes = set()
    for original in (update(), update(seed=1, scale=3.0), update(scale=0.0)):
        sent, _ = chain(name).encode(original, {}, AT)
        named = {tensor_name(key): tensor for key, tensor in sent.parts.items()}
        assert update_bytes(sent) == len(save({**named, **sent.side}))
        sizes.add(update_bytes(sent))
    assert len(sizes) == 1


@every_stage
def test_the_draws_are_a_function_of_seed_round_and_client(name):
    one, original = chain(name), update()
    codes = [
        one.encode(original, {}, at)[0].parts.flat
        for at in (AT, AT, At(1, 3, 5), At(0, 4, 5), At(0, 3, 6))
    ]
    assert torch.equal(codes[0], codes[1])
    same = [torch.equal(codes[0], other) for other in codes[2:]]
    assert same == [name not in DRAWS] * 3


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_rounding_is_unbiased(name):
    one, original = chain(name, feedback=False), update()
    layout = original.parts.layout
    decoded = [
        one.decode(one.encode(original, {}, At(seed, 1, 0))[0], layout).parts.flat
        for seed in range(2000)
    ]
    error = torch.stack(decoded).mean(0) - original.parts.flat
    step = LOSS[name] * largest(original.parts)
    assert (error.abs() < 4.5 * 0.5 * step / 2000**0.5).all()


def test_without_feedback_nothing_is_kept():
    for name in CHAINS:
        assert chain(name, feedback=False).encode(update(), {}, AT)[1] == {}


@every_chain
@hypothesis_settings(max_examples=20)
@given(seed=st.integers(0, 2**32), rounds=st.integers(1, 40))
def test_with_feedback_what_arrives_over_many_rounds_lacks_what_is_kept_and_no_more(
    name, seed, rounds
):
    one, kept, furthest = chain(name), {}, 0.0
    total, arrived = 0.0, 0.0
    for number in range(rounds):
        original = update(seed + number)
        sent, kept = one.encode(original, kept, At(seed, number, 0))
        total = total + original.parts.flat
        arrived = arrived + one.decode(sent, original.parts.layout).parts.flat
        furthest = max(furthest, float(original.parts.flat.abs().max()))
    lacking = (total - arrived).abs().max()
    left = max(float(lost.abs().max()) for lost in kept.values())
    assert lacking == pytest.approx(left, abs=1e-4)
    # Of 27 numbers a number waits for at most as many rounds as all others take their turns in.
    waits = {"int8": 0.02, "int4": 0.2}.get(name, 27 + 20)
    assert lacking <= waits * furthest


@pytest.mark.parametrize("name", CHAINS)
def test_a_share_of_the_bytes_travels(name):
    tensors = {("layer", "B"): torch.randn(1024, 16), ("layer", "A"): torch.randn(16, 1024)}
    original = Update(0, 1, Adapter.of(tensors))
    sent, _ = chain(name).encode(original, {}, AT)
    assert update_bytes(sent) < BYTES[name] * update_bytes(original)


@given(st.integers(1, 3000), st.floats(0.0005, 1.0), st.integers(0, 2**32))
def test_positions_survive_their_bytes(n, share, seed):
    k = max(1, int(share * n))
    positions = np.sort(np.random.default_rng(seed).choice(n, size=k, replace=False))
    told = torch.from_numpy(packed(positions, n))
    assert len(told) == positions_bytes(n, k) <= -(-n // 8)
    assert unpacked(told, n, k, "B").tolist() == positions.tolist()


@given(st.integers(1, 600), st.integers(1, 60), st.binary(min_size=75, max_size=75))
def test_positions_of_any_bytes_are_rising_and_within_or_refused(n, k, told):
    k = min(n, k)
    told = torch.tensor(list(told[: positions_bytes(n, k)]), dtype=torch.uint8)
    try:
        found = unpacked(told, n, k, "B")
    except BadMessage:
        return
    assert len(found) == k
    assert (found.diff() > 0).all()
    assert 0 <= found[0] <= found[-1] < n


def flat(value, kind=None):
    """Every code the same."""

    def bad(sent):
        codes = torch.full_like(sent.parts.flat, value, dtype=kind)
        return replace(sent, parts=Adapter(sent.parts.layout, codes))

    return bad


def beside(name, change):
    """One tensor beside the parts changed; None: left out."""

    def bad(sent):
        side = dict(sent.side)
        side[name] = change(side.pop(name))
        return replace(sent, side={k: v for k, v in side.items() if v is not None})

    return bad


SCALES = {
    "no scale": lambda scale: None,
    "short scale": lambda scale: scale[1:],
    "nan": lambda scale: scale * float("nan"),
    "negative": lambda scale: -scale,
    "whole numbers": lambda scale: scale.int() + 1,
}
BAD = {
    **{
        f"{name}, {what}": (name, beside(f"{name}.scale", bad))
        for name in ("int8", "int4")
        for what, bad in SCALES.items()
    },
    "int8, float parts": ("int8", flat(1.0, torch.float32)),
    "int8, -128": ("int8", flat(-128)),
    "int4, int8 parts": ("int4", flat(0, torch.int8)),
    "int4, -8": ("int4", flat(0)),
    "int4, the last half": ("int4", flat(0x77)),
    "top_k, whole numbers": ("top_k", flat(1, torch.int8)),
    "top_k, none": ("top_k", beside("top_k.B", lambda told: None)),
    "top_k, short": ("top_k", beside("top_k.B", lambda told: told[1:])),
    "top_k, too many": ("top_k, int8", beside("top_k.B", lambda told: told * 0 + 255)),
    "top_k, too far": ("top_k", beside("top_k.B", lambda told: told * 0 + 254)),
    "other parts": ("int8", lambda sent: replace(sent, parts=update().parts)),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_chain_refuses_what_it_did_not_make(bad):
    name, spoil = BAD[bad]
    one, original = chain(name), update()
    sent, _ = one.encode(original, {}, AT)
    with pytest.raises(BadMessage):
        one.decode(spoil(sent), original.parts.layout)


def test_a_change_is_what_the_start_lacks_and_side_parts_are_changes_already():
    start = Adapter.of({("m", "B"): torch.ones(2, 2)})
    parts = Adapter.of({("m", "B"): torch.full((2, 2), 3.0), ("m", "control.B"): torch.ones(2, 2)})
    difference = change(parts, start)
    assert torch.equal(difference["m", "B"], torch.full((2, 2), 2.0))
    assert torch.equal(difference["m", "control.B"], torch.ones(2, 2))
    assert torch.equal(changed(start, difference).flat, parts.flat)


GAUGE = {"name": "rolora", "gauge": "orthonormal"}


@every_stage
def test_feedback_and_the_gauge_are_refused_together(name):
    with pytest.raises(BadInput, match=rf"{name} with feedback.*method.gauge.*feedback: false"):
        small.checked(small.config(method=GAUGE, stages=[name]))
    small.checked(small.config(method=GAUGE, stages=[{"name": name, "feedback": False}]))


def test_what_is_lost_is_fed_back_before_the_first_stage_or_not_at_all():
    stages = [{"name": "top_k", "feedback": False}, "int8"]
    with pytest.raises(BadInput, match=r"int8 has feedback: true and top_k before it has not"):
        small.checked(small.config(stages=stages))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": GAUGE}, r"server.stages = \['int8'\]: .*method.gauge.*use none"),
        (
            {"method": {"name": "flora"}, "lora": {"client_ranks": [1, 2]}},
            r"stages = \['int8'\]: FLoRA",
        ),
        ({"method": {"name": "scaffold"}}, r"stages = \['int8'\]: SCAFFOLD"),
    ],
)
def test_stages_of_the_way_down_are_refused_where_factors_change_otherwise(settings, words):
    with pytest.raises(BadInput, match=words):
        small.checked(small.config(server={"stages": ["int8"]}, **settings))


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
