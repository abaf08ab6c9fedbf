"""What goes down coded: what clients hold, what the server keeps, who is sent what."""

from dataclasses import replace

import pytest
import torch

import small
from rolora.client.replica import Replica
from rolora.core.types import Adapter, ClientInfo, ServerState, leading
from rolora.records.bounds import WireError
from rolora.records.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rolora.records.wire import (
    increments_of,
    named_increments,
    pack_plan,
    plan_bytes,
    unpack_plan,
)
from rolora.server.ledger import Ledger
from rolora.stages import make_chain
from rolora.stages.chain import FEEDBACK
from rolora.stages.downlink import coded_down

SHAPES = {("m", "A"): (4, 40), ("m", "B"): (50, 4)}
CHAINS = {
    "int8": ["int8"],
    "int4": ["int4"],
    "top_k, int8": [{"name": "top_k", "share": 0.1}, "int8"],
}


def chain(name):
    return make_chain(small.config(server={"stages": CHAINS[name]}).server.stages)


def start():
    tensors = {key: torch.zeros(shape) for key, shape in SHAPES.items()}
    return ServerState(0, Adapter.of(tensors), {"A": 0, "B": 0})


def after(state, seed):
    """The state after a round that moved one factor, as the server would have it."""
    part = "BA"[state.round % 2]
    generator = torch.Generator().manual_seed(seed)
    moved = {
        key: state.parts[key] + torch.randn(shape, generator=generator)
        for key, shape in SHAPES.items()
        if key[1] == part
    }
    round_ = state.round + 1
    parts = state.parts.overwrite(moved)
    return replace(state, round=round_, parts=parts, versions={**state.versions, part: round_})


def states(name, rounds):
    down, found = chain(name), [start()]
    for seed in range(rounds):
        found.append(coded_down(down, 7, found[-1], after(found[-1], seed)))
    return found


@pytest.mark.parametrize("name", CHAINS)
def test_what_everybody_holds_lacks_what_the_server_keeps_and_no_more(name):
    plain = start()
    for seed in range(24):
        plain = after(plain, seed)
    *_, end = states(name, 24)
    for part in "AB":
        held, kept = end.parts.select({part}).flat, end.optimizer[f"{FEEDBACK}/{part}"]
        torch.testing.assert_close(held + kept, plain.parts.select({part}).flat)
        assert 0 < kept.abs().max() < {"int8": 0.05, "int4": 1.0}.get(name, 20.0)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("every", [1, 2, 3, 5, 40])
def test_whoever_takes_part_now_and_then_holds_the_same_bits(name, every):
    """By increments where they are fewer bytes, by the part where they would be more."""
    method, ledger, replica = small.method(small.config()), Ledger(), Replica(chain(name))
    sent = []
    for state in states(name, 41):
        if state.round and state.round % every:
            continue
        plan = ledger.narrow(method.plan(state, ClientInfo(0, 4, 10)))
        whole = replace(plan, send=state.parts.select(plan.send.parts | {"A", "B"}), increments=())
        begun = replica.start(unpack_plan(pack_plan(plan)))
        ledger.replied(plan)
        assert torch.equal(begun.parts.flat, state.parts.flat)
        sent.append((plan_bytes(plan), plan_bytes(whole), len(plan.increments)))
    assert all(size <= most for size, most, _ in sent)
    if every == 40:
        assert sent[-1][2] == 0
    elif every < 5:
        assert all(0 < size < 0.7 * most for size, most, _ in sent[1:])
        assert {steps for *_, steps in sent[1:]} == {every}


def test_increments_of_one_factor_lead_from_version_to_version():
    *_, end = states("int4", 9)
    assert [(step.part, step.since, step.version) for step in end.increments] == [
        ("B", 0, 1), ("A", 0, 2), ("B", 1, 3), ("A", 2, 4), ("B", 3, 5), ("A", 4, 6), ("B", 5, 7),
        ("A", 6, 8), ("B", 7, 9),
    ]  # fmt: skip
    assert [step.version for step in leading(end.increments, "B", 3, 9)] == [5, 7, 9]
    assert leading(end.increments, "B", 9, 9) == []
    assert leading(end.increments, "B", 2, 9) == ()
    assert leading(end.increments, "B", None, 9) == ()


@pytest.mark.parametrize("name", CHAINS)
def test_no_more_is_remembered_than_the_part_itself_has(name):
    *_, end = states(name, 60)
    for part in "AB":
        mine = [step for step in end.increments if step.part == part]
        held = sum(t.numel() * t.element_size() for t in named_increments(mine).values())
        full = 4 * end.parts.select({part}).layout.size
        assert 0.5 * full < held <= full


def test_increments_survive_their_names_and_a_checkpoint(tmp_path):
    *_, end = states("top_k, int8", 5)
    end = replace(end, spoilt={3: 2})
    path = save_checkpoint(tmp_path, Checkpoint(end, {}, {}, {}, {}), keep=2)
    back = load_checkpoint(path).state
    ours, theirs = named_increments(back.increments), named_increments(end.increments)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert [step.version for step in back.increments] == [step.version for step in end.increments]
    assert back.spoilt == {3: 2}


@pytest.mark.parametrize("name", ["B/1/codes", "B/x/1/codes", "B/0/1/scale", "B"])
def test_names_that_are_no_increment_s_are_refused(name):
    with pytest.raises(WireError, match="no increments"):
        increments_of({name: torch.zeros(1)})
