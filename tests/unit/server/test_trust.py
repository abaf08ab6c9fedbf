"""A client that misbehaves: what it may weigh, and what becomes of a round that it spoils."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import small
from rolora.core.errors import BadInput, RunFailed
from rolora.core.shares import cap
from rolora.core.types import Adapter, Evaluation, Failure
from rolora.methods import METHODS
from rolora.reducers import Limited, Mean
from rolora.server.judge import JUMP
from rolora.server.round import MOST_SPOILT, left_out
from rolora.stages import At, BadMessage, Int8, make_chain
from rounds import FakeEngine, one_bad, play

# Weights -----------------------------------------------------------------------------------

weights = st.lists(st.floats(0.01, 1e12), min_size=1, max_size=30)
shares = st.floats(0.01, 1.0)


@given(weights, shares)
def test_no_one_has_more_than_the_share_where_that_can_be(found, share):
    most = cap(found, share)
    cut = [min(weight, most) for weight in found]
    if share * len(found) > 1.001:
        assert max(cut) <= share * sum(cut) * (1 + 1e-6)
        if most < math.inf:  # and no more is cut than must be
            assert max(cut) == pytest.approx(share * sum(cut), rel=1e-6)
    elif share * len(found) < 0.999:
        assert cut == pytest.approx([min(found)] * len(found))
    if max(found) <= share * sum(found):
        assert cut == found


def updates(found):
    return [
        replace(FakeEngine().sound(plan_of(i)), num_examples=n, weight=None)
        for i, n in enumerate(found)
    ]


def plan_of(client):
    engine = FakeEngine(client + 1)
    play(engine, rounds=1)
    return engine.plans[0][client]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_cut_weights_are_those_of_a_mean_of_cut_weights_in_whatever_order(share):
    found = [5, 400, 30, 10**7, 20, 60]
    sent = updates(found)
    most = cap(found, share)
    assert most < 10**7
    expected = Mean().reduce(replace(u, weight=min(u.mass, most)) for u in sent)
    for order in (sent, sent[::-1], sent[3:] + sent[:3]):
        reducer = Limited(Mean, share)
        reduced = reducer.reduce(order)
        assert reduced.clients == 6
        assert reducer.limit() == most
        torch.testing.assert_close(reduced.parts.flat, expected.parts.flat)


def test_where_nobody_is_above_the_share_the_bits_are_those_of_a_plain_mean():
    sent = [
        replace(update, parts=Adapter(update.parts.layout, torch.randn(6)))
        for update in updates([7, 50, 31, 29, 50, 11])
    ]
    plain, limited = Mean().reduce(sent), Limited(Mean, 0.5).reduce(sent)
    assert torch.equal(plain.parts.flat, limited.parts.flat)


def test_a_reducer_holds_no_more_updates_than_can_be_above_the_share():
    reducer = Limited(Mean, 0.5)
    for update in updates(list(range(1, 20))):
        reducer.add(update)
        assert len(reducer.held) == 1


def test_a_client_that_claims_the_most_does_not_own_the_round():
    """Ten million examples against a hundred: half of the say, and no more."""
    claims = 10**7

    class Claiming(FakeEngine):
        def registered(self, client):
            return claims if client == 2 else super().registered(client)

    boast = one_bad(
        lambda update: replace(
            update,
            num_examples=claims,
            metrics={"train_loss": 9.0},
            parts=Adapter(update.parts.layout, torch.full((6,), 7.77)),
        )
    )
    state, record = play(Claiming(answer=boast), rounds=1, federation={"max_share": 0.5})
    honest = (10 * 1 + 20 * 2 + 40 * 4) / 70
    torch.testing.assert_close(state.parts["m", "B"], torch.full((3, 2), (honest + 7.77) / 2))
    line = record.metrics[0]
    assert [update.weight for update in line.updates] == pytest.approx([10, 20, 70, 40])
    assert line.train_loss == pytest.approx((9 * 70 + 0.5 * (10 + 20 * 2 + 40 * 4)) / 140)
    state, _ = play(Claiming(answer=boast), rounds=1, federation={"max_share": 1})
    torch.testing.assert_close(state.parts["m", "B"], torch.full((3, 2), 7.77), atol=1e-3, rtol=0)


def test_the_share_counts_among_those_who_came():
    """Two of four are lost: of the others neither has more than the other."""
    answer = FakeEngine(
        answer=lambda plan, u: [u if plan.client > 1 else Failure(u.client, "lost")]
    )
    state, record = play(answer, rounds=1, federation={"max_share": 0.5})
    torch.testing.assert_close(state.parts["m", "B"], torch.full((3, 2), 3.5))
    assert [update.weight for update in record.metrics[0].updates] == [30, 30]


def test_a_share_that_nobody_could_keep_to_is_refused():
    with pytest.raises(BadInput, match=r"max_share = 0.2 is less than an equal share of 4"):
        small.config(federation={"clients": 9, "clients_per_round": 4, "max_share": 0.2})
    assert small.config(federation={"clients": 5, "max_share": 0.2}).largest_share == 0.2


@pytest.mark.parametrize(
    ("engine", "clients", "share"),
    [
        ({"name": "in_process"}, 9, 1.0),
        ({"name": "flower"}, 9, 0.5),
        ({"name": "flower"}, 2, 1.0),
        ({"name": "flower", "runtime": "simulation"}, 9, 1.0),
    ],
)
def test_sites_of_others_are_held_to_a_half_unless_the_run_says_otherwise(engine, clients, share):
    found = small.config(federation={"clients": clients}, engine=engine)
    assert found.largest_share == share


# Evaluations -------------------------------------------------------------------------------


def evaluated(*results):
    engine = FakeEngine()
    engine.evaluate = lambda plan, split: [
        Evaluation(client, n, {"loss": (0.5 * n, n), "confusion": confusion})
        for client, (n, confusion) in enumerate(results)
    ]
    return engine


HALF = (10, (3.0, 2.0, 3.0, 2.0))


def test_one_client_s_right_answers_move_the_scores_by_its_share_at_most():
    n = 10**7
    engine = evaluated(HALF, HALF, HALF, (n, (float(n), 0.0, 0.0, 0.0)))
    _, record = play(engine, rounds=1, federation={"max_share": 0.25})
    line = record.metrics[0]
    assert line.validation["accuracy"] == pytest.approx(0.5 * 0.75 + 0.25)
    assert [site.scores["accuracy"] for site in line.sites] == [0.5, 0.5, 0.5, 1.0]
    assert sum(map(sum, line.detail.confusion)) == 40
    _, record = play(engine, rounds=1, federation={"max_share": 1})
    assert record.metrics[0].validation["accuracy"] == pytest.approx(1.0, abs=1e-4)


def test_scores_of_clients_below_the_share_are_those_of_all_their_examples():
    engine = evaluated(HALF, (20, (8.0, 2.0, 3.0, 7.0)), HALF)
    limited, plain = (
        play(engine, rounds=1, federation={"max_share": share})[1].metrics[0] for share in (0.5, 1)
    )
    assert limited.validation == plain.validation
    assert limited.detail == plain.detail


ALONE = {"engine": {"workers": 1, "stack": 1}}  # another stack has other last bits

# What was made of a round ------------------------------------------------------------------


def huge(value, client=2):
    return one_bad(
        lambda update: replace(
            update, parts=Adapter(update.parts.layout, torch.full_like(update.parts.flat, value))
        ),
        client,
    )


@pytest.mark.parametrize("value", [3e38, -3e38, 1e30, 1e4])
def test_a_round_that_one_client_spoils_is_done_again_without_it(value):
    """Finite all of them: 3e38 times the number of examples is not."""
    engine = FakeEngine(answer=huge(value))
    torch.manual_seed(0)
    state, record = play(engine, rounds=2)
    torch.manual_seed(0)
    without, other = play(FakeEngine(answer=one_bad(lambda u: Failure(2, "lost"))), rounds=2)
    assert torch.equal(state.parts.flat, without.parts.flat)
    for line, expected in zip(record.metrics, other.metrics, strict=True):
        [failure] = line.failures
        assert (failure.client, failure.reason) == (2, "too_far")
        assert "it moved" in failure.detail
        assert "federation.max_jump" in failure.detail
        assert (line.clients, line.cohort, line.attempts) == (3, 4, 1)
        assert line.updates == expected.updates
        assert line.bytes_up == 4 / 3 * expected.bytes_up + expected.bytes_up
    assert [len(plans) for plans in engine.plans] == [4, 3, 4, 3]


def test_one_value_is_enough_and_the_honest_are_not_named():
    def one_value(update):
        parts = update.parts.clone()
        parts["m", "B" if ("m", "B") in parts else "A"][0, 0] = 3e38
        return replace(update, parts=parts)

    _, record = play(FakeEngine(answer=one_bad(one_value)), rounds=2)
    for line in record.metrics:
        assert [(f.client, f.reason) for f in line.failures] == [(2, "too_far")]


def test_with_max_jump_null_only_what_is_not_finite_is_refused():
    off = {"max_jump": None}
    _, record = play(FakeEngine(answer=huge(1e30)), rounds=1, federation=off)
    assert record.metrics[0].failures == ()
    _, record = play(FakeEngine(answer=huge(3e38)), rounds=1, federation=off)
    assert [f.client for f in record.metrics[0].failures] == [2]


def test_of_two_clients_the_one_that_makes_it_infinite_is_named():
    state, record = play(FakeEngine(2, answer=huge(3e38, 1)), rounds=1)
    assert [f.client for f in record.metrics[0].failures] == [1]
    torch.testing.assert_close(state.parts["m", "B"], torch.ones(3, 2))


def test_where_the_quorum_does_not_hold_without_them_the_round_is_lost():
    with pytest.raises(RunFailed, match=r"quorum of 100%.*client 2: too_far it moved B"):
        play(FakeEngine(answer=huge(3e38)), rounds=1, federation={"quorum": 1.0})


def test_a_spoilt_round_goes_on_with_another_cohort_where_too_few_are_left():
    spoilers = {0, 1, 2}

    def answer(plan, update):
        return huge(3e38, plan.client)(plan, update) if plan.client in spoilers else [update]

    engine = FakeEngine(8, answer=answer)
    federation = {"clients": 8, "clients_per_round": 3, "quorum": 1.0}
    _, record = play(engine, rounds=6, federation=federation)
    for line in record.metrics:
        assert line.clients == 3
        assert {update.client for update in line.updates}.isdisjoint(spoilers)
    assert any(line.failures for line in record.metrics)


def test_who_spoils_three_rounds_in_a_row_is_asked_no_more():
    engine = FakeEngine(answer=huge(3e38))
    state, record = play(engine, rounds=5)
    assert [len(plans) for plans in engine.plans] == [4, 3, 4, 3, 4, 3, 3, 3]
    assert [len(line.failures) for line in record.metrics] == [1, 1, 1, 0, 0]
    said = "client 2: its updates spoiled 3 rounds in a row; it is asked no more"
    assert [line.faults for line in record.metrics] == [(), (), (said,), (), ()]
    assert [line.clients for line in record.metrics] == [3] * 5
    assert state.spoilt == {2: 3}


def test_one_sound_update_clears_a_client_and_a_round_without_it_does_not():
    def answer(plan, update):
        sound = plan.client != 2 or plan.round == 3
        return [update] if sound else huge(3e38)(plan, update)

    _, record = play(FakeEngine(answer=answer), rounds=7)
    assert [len(line.failures) for line in record.metrics] == [1, 1, 0, 1, 1, 1, 0]

    engine = FakeEngine(8, answer=lambda plan, update: huge(3e38)(plan, update))
    state, record = play(engine, rounds=30, federation={"clients_per_round": 4})
    assert [sum(line.failures != () for line in record.metrics), state.spoilt] == [3, {2: 3}]


def test_no_one_is_left_out_where_the_quorum_needs_them():
    engine = FakeEngine(2, answer=huge(3e38, 1))
    federation = {"clients": 2, "quorum": 0.5}
    state, record = play(engine, rounds=5, federation=federation)
    assert [len(line.failures) for line in record.metrics] == [1, 1, 1, 0, 0]
    needed = {**federation, "quorum": 1.0}
    assert left_out(replace(state, spoilt={1: 9}), 2, 1) == {1}
    assert left_out(replace(state, spoilt={1: 9}), 2, 2) == set()
    with pytest.raises(RunFailed, match="quorum"):
        play(engine, rounds=5, federation=needed)


def test_where_all_together_are_too_large_nobody_is_blamed():
    answer = FakeEngine(answer=lambda plan, update: huge(3e38, plan.client)(plan, update))
    with pytest.raises(RunFailed, match=r"round 1: .*not finite, and none of them"):
        play(answer, rounds=1)


def test_clients_that_take_very_different_numbers_of_steps_are_not_to_blame():
    """Distances over three orders of magnitude, as where steps follow from examples."""
    far = {0: 1.0, 1: 9.0, 2: 80.0, 3: 700.0}

    def answer(plan, update):
        return huge(far[plan.client], plan.client)(plan, update)

    _, record = play(FakeEngine(answer=answer), rounds=1)
    assert max(far.values()) > JUMP * 9
    assert record.metrics[0].failures == ()


def test_a_client_that_moves_where_half_of_them_stay_is_held_to_the_part_s_length():
    sent = {}

    def answer(plan, update):
        parts = sent.setdefault(plan.client, plan.send.select(plan.upload))
        moved = parts.flat + (1e6 if plan.client == 1 else 0.0)
        return [replace(update, parts=Adapter(parts.layout, moved))]

    _, record = play(FakeEngine(answer=answer), rounds=1, method={"schedule": "A"})
    assert [(f.client, f.reason) for f in record.metrics[0].failures] == [(1, "too_far")]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("state", ["reset", "persist"])
def test_under_every_method_the_round_is_that_of_the_others(name, state):
    """Done again from where it began: what clients keep for themselves included, bit for bit."""
    if state == "persist":
        state = small.TAKES.get(name, {}).get("optimizer", {}).get("state", state)
    kept = {"state": state}
    federation = {"clients": 5}
    settings = small.config(method={"name": name}, federation=federation, optimizer=kept, **ALONE)

    def play_with(spoil):
        engine = small.engine(settings, sizes=(9, 5, 7, 6, 8))
        train = engine.train
        engine.train = lambda plans: (spoil(u) if u.client == 1 else u for u in train(plans))
        return small.run(settings, engine)

    def far(update):
        return replace(update, parts=Adapter(update.parts.layout, 3e38 * update.parts.flat.sign()))

    state, record = play_with(far)
    expected, _ = play_with(lambda update: Failure(1, "lost"))
    assert torch.equal(state.parts.flat, expected.parts.flat)
    for line in record.metrics:
        found = [(f.client, f.reason) for f in line.failures]
        assert found == [(1, "too_far")] * (line.round <= MOST_SPOILT)


# What nobody thought of --------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda u: replace(u, parts=Adapter(u.parts.layout, u.parts.flat.to(torch.complex64))),
        lambda u: replace(u, metrics={"train_loss": "low"}),
        lambda u: replace(u, num_examples=None),
        lambda u: replace(u, num_examples=10**400),
        lambda u: replace(u, parts=None),
    ],
)
def test_whatever_is_wrong_with_one_answer_is_that_client_s_failure(spoil):
    _, record = play(FakeEngine(answer=one_bad(spoil)), rounds=1)
    line = record.metrics[0]
    assert [failure.client for failure in line.failures] == [2]
    assert line.clients == 3


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 1e12])
def test_a_loss_that_no_batch_has_is_the_client_s_failure(loss):
    engine = FakeEngine(answer=one_bad(lambda u: replace(u, metrics={"train_loss": loss})))
    _, record = play(engine, rounds=1)
    assert [(f.client, f.reason) for f in record.metrics[0].failures] == [(2, "train_loss")]
    assert record.metrics[0].train_loss == pytest.approx((5 + 20 + 80) / 70)


@pytest.mark.parametrize("error", [BadMessage("no"), ZeroDivisionError(), MemoryError()])
def test_a_stage_that_cannot_decode_fails_for_that_client_alone(monkeypatch, error):
    settings = [{"name": "int8", "feedback": False}]
    up = make_chain(small.config(stages=settings).stages)
    coded = FakeEngine(answer=lambda plan, update: [up.encode(update, {}, At(0, 1, 0))[0]])
    play(coded, rounds=1, stages=settings)
    monkeypatch.setattr(Int8, "decode", lambda self, update, wanted: (_ for _ in ()).throw(error))
    with pytest.raises(RunFailed, match="client 3: malformed"):
        play(coded, rounds=1, stages=settings)


def test_what_a_client_says_is_told_in_one_short_line():
    failure = Failure(1, "client_error", "\x1b[2J\x07no\nsuch  thing" + "x" * 10_000)
    assert failure.detail.startswith("[2J no such thing")
    assert len(failure.detail) == 500
    assert failure.detail.isprintable()
