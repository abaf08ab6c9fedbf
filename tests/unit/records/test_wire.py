"""Plans and updates on the wire: what comes out is what went in, and nothing else gets in."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from rolora.core.types import EMPTY, PARTS, Adapter, Plan, Update
from rolora.records.wire import (
    WireError,
    pack,
    pack_plan,
    pack_update,
    parse_name,
    payload_bytes,
    tensor_name,
    unpack,
    unpack_plan,
    unpack_update,
)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def adapters(draw):
    keys = draw(st.lists(st.tuples(names, st.sampled_from(PARTS)), unique=True, max_size=5))
    seed = draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    return Adapter.of({key: torch.randn(draw(shapes), generator=generator) for key in keys})


def same(a, b):
    return a.layout == b.layout and torch.equal(a.flat, b.flat)


def a_plan(**changes):
    plan = Plan(
        round=3,
        client=7,
        send=Adapter.of({("m", "A"): torch.ones(2, 3)}),
        versions={"A": 2, "B": 1},
        train=frozenset({"B", "head"}),
        upload=frozenset({"B"}),
        rank=2,
        scaling=0.1,
        local=frozenset({"head"}),
        derives=frozenset({"A"}),
    )
    return replace(plan, **changes)


@given(adapters())
def test_an_adapter_survives_and_its_size_is_that_of_the_serialised_tensors(adapter):
    back, header = unpack(pack(adapter, {"any": ["header", 1]}))
    assert same(back, adapter)
    assert header == {"any": ["header", 1]}
    bare = save({tensor_name(key): tensor.clone() for key, tensor in adapter.items()})
    assert payload_bytes(adapter.layout) == (len(bare) if len(adapter) else 0)


@given(
    adapters(),
    st.floats(allow_nan=False),
    st.integers(1, 2**40),
    st.none() | st.floats(0, 2**53),
)
def test_an_update_survives(parts, loss, num_examples, weight):
    update = Update(5, num_examples, parts, {"train_loss": loss}, weight=weight)
    back = unpack_update(pack_update(update))
    assert same(back.parts, parts)
    assert replace(back, parts=EMPTY) == replace(update, parts=EMPTY)


@given(adapters(), st.floats(0.01, 100), st.frozensets(st.sampled_from(["A", "B"])))
def test_a_plan_survives(send, scaling, derives):
    plan = a_plan(send=send, scaling=scaling, derives=derives)
    back = unpack_plan(pack_plan(plan))
    assert same(back.send, send)
    assert replace(back, send=EMPTY) == replace(plan, send=EMPTY)


def test_the_same_plan_is_the_same_bytes():
    assert pack_plan(a_plan()) == pack_plan(a_plan(train=frozenset(["head", "B"])))


def test_a_nan_loss_travels():
    back = unpack_update(pack_update(Update(0, 1, EMPTY, {"train_loss": float("nan")})))
    assert back.metrics["train_loss"] != back.metrics["train_loss"]


def test_nothing_weighs_nothing():
    assert payload_bytes(EMPTY.layout) == 0


@pytest.mark.parametrize("name", ["weight", "m::C", "m:A", "::", ""])
def test_a_foreign_tensor_name_is_refused_by_name(name):
    with pytest.raises(WireError, match="MODULE::PART"):
        parse_name(name)


def test_a_module_name_may_hold_the_separator():
    assert parse_name(tensor_name(("a::b", "A"))) == ("a::b", "A")


def test_another_dtype_is_refused_by_name():
    payload = save({"m::A": torch.ones(2, dtype=torch.float16)}, metadata={"rolora": "{}"})
    with pytest.raises(WireError, match=r"m::A.*float16.*float32"):
        unpack(payload)


def payload(header, tensors=None):
    return save(tensors or {}, metadata={"rolora": header})


HEADERS = [
    "{}",
    "[]",
    "null",
    "3",
    '"text"',
    "{",
    "",
    '{"client": 1}',
    '{"client": null, "num_examples": 2, "metrics": {}}',
    '{"client": 1, "num_examples": Infinity, "metrics": {}}',
    '{"client": 1, "num_examples": NaN, "metrics": {}}',
    '{"client": 1, "num_examples": 2, "metrics": []}',
    '{"client": 1, "num_examples": 2, "metrics": {}}',
    '{"client": 1, "num_examples": 2, "metrics": {}, "weight": "much"}',
    '{"client": 1, "num_examples": 2, "metrics": {"loss": "high"}}',
    '{"train": 3, "upload": [], "local": []}',
    '{"train": [], "upload": [], "local": []}',
    "[" * 100_000,
]


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[:20])
@pytest.mark.parametrize("unpack_any", [unpack_plan, unpack_update])
def test_a_header_that_is_not_ours_is_a_wire_error(header, unpack_any):
    with pytest.raises(WireError, match="not a"):
        unpack_any(payload(header))


def test_a_payload_without_our_header_is_a_wire_error():
    with pytest.raises(WireError, match="not a rolora payload"):
        unpack(save({"m::A": torch.ones(2)}))
    with pytest.raises(WireError, match="not a rolora payload"):
        unpack(save({"m::A": torch.ones(2)}, metadata={"other": "{}"}))


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data):
    for unpack_any in (unpack, unpack_plan, unpack_update):
        with pytest.raises(WireError):
            unpack_any(data)


@given(st.data())
def test_a_damaged_payload_is_a_wire_error_or_another_payload(data):
    good = bytearray(pack_plan(a_plan()))
    cut = data.draw(st.integers(0, len(good)))
    if data.draw(st.booleans()):
        damaged = bytes(good[:cut])
    else:
        at = data.draw(st.integers(0, len(good) - 1))
        good[at] = data.draw(st.integers(0, 255))
        damaged = bytes(good)
    for unpack_any in (unpack_plan, unpack_update):
        with suppress(WireError):
            unpack_any(damaged)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=8,
    ),
    st.sampled_from(
        ["client", "num_examples", "weight", "metrics", "train", "versions", "rank", "gauge"]
    ),
)
def test_a_header_with_any_value_in_any_place_is_a_wire_error_or_read(value, place):
    for good, unpack_any in (
        (pack_plan(a_plan()), unpack_plan),
        (pack_update(Update(1, 2, EMPTY)), unpack_update),
    ):
        _, header = unpack(good)
        with suppress(WireError):
            unpack_any(payload(json.dumps({**header, place: value})))
