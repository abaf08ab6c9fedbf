"""The round: cohorts, quorum, screening, what is written down. The engine is a fake."""

import math
import os
import signal
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import small
from rolora.core.errors import RunFailed
from rolora.core.types import Adapter, ClientInfo, Evaluation, Failure, RoundNotes
from rolora.records.schema import FailureRecord
from rolora.records.shield import Interrupted, interruptible
from rolora.records.wire import payload_bytes
from rolora.server.cohort import sample_cohort
from rolora.server.ledger import Ledger
from rolora.server.round import ATTEMPTS, run_rounds
from rounds import FakeEngine, one_bad, play, start, swapped

# The ordinary round ------------------------------------------------------------------------


def test_the_mean_is_weighted_by_examples_or_not():
    state, _ = play(FakeEngine(), rounds=1)
    weights = torch.tensor([10.0, 20, 30, 40])
    expected = (weights * torch.arange(1.0, 5)).sum() / weights.sum()
    torch.testing.assert_close(state.parts["m", "B"], torch.full((3, 2), float(expected)))
    state, record = play(FakeEngine(), rounds=1, server={"weighting": "uniform"})
    torch.testing.assert_close(state.parts["m", "B"], torch.full((3, 2), 2.5))
    assert record.metrics[0].train_loss == pytest.approx(1.5)  # still by examples


def test_each_label_s_scores_are_written_down():
    _, record = play(FakeEngine(), rounds=2, evaluation={"every": 2})
    first, second = record.metrics
    assert first.detail is first.collapsed is None
    assert first.prediction_shares == ()
    assert second.prediction_shares == (14 / 40, 26 / 40)
    assert second.detail.confusion == ((9, 5), (5, 21))
    no, yes = second.detail.classes
    assert (no.name, no.support, no.precision) == ("no", 14, 9 / 14)
    assert (yes.name, yes.support, yes.recall) == ("yes", 26, 21 / 26)
    assert second.collapsed is None


def test_a_label_that_alone_is_predicted_is_named():
    engine = FakeEngine()
    engine.evaluate = lambda plan, split: [
        Evaluation(0, 10, {"loss": (5.0, 10.0), "confusion": (0.0, 4.0, 0.0, 6.0)})
    ]
    _, record = play(engine, rounds=1)
    assert record.metrics[0].collapsed == "yes"
    assert record.metrics[0].detail.classes[0].precision is None


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_each_client_s_part_is_written_down_in_the_clients_order(weighting):
    server = {"weighting": weighting}
    _, record = play(swapped(FakeEngine()), rounds=2, server=server)
    for line in record.metrics:
        assert [update.client for update in line.updates] == [0, 1, 2, 3]
        assert [update.train_loss for update in line.updates] == [0.5, 1.0, 1.5, 2.0]
        assert [update.examples for update in line.updates] == [10, 20, 30, 40]
        weights = [10, 20, 30, 40] if weighting == "examples" else [1, 1, 1, 1]
        assert [update.weight for update in line.updates] == weights
    for update in record.metrics[0].updates:  # B, of 6 numbers, was zero
        assert update.norms == {"B": pytest.approx((update.client + 1) * 6**0.5)}
    assert all(set(update.norms) == {"A"} for update in record.metrics[1].updates)
    assert record.metrics[0].train_loss == play(FakeEngine(), rounds=1)[1].metrics[0].train_loss


def test_a_norm_is_of_the_change_since_the_round_s_start():
    _, record = play(FakeEngine(), rounds=3)
    for number, update in enumerate(record.metrics[2].updates):  # B was 3, the mean, before
        assert update.norms["B"] == pytest.approx(abs(number + 1 - 3.0) * 6**0.5)


def test_clients_of_different_ranks_are_measured_from_what_each_was_sent():
    lora = {"r": 2, "lora_alpha": 8, "client_ranks": [1, 2, 2, 2]}

    def stays(plan, update):
        parts = plan.send.select(plan.upload)
        return [replace(update, parts=parts if plan.client == 0 else update.parts)]

    engine = FakeEngine(answer=stays, ranks={0: 1})
    _, record = play(engine, rounds=1, lora=lora, method={"name": "flexlora"})
    assert record.metrics[0].updates[0].norms == {"A": 0.0, "B": 0.0}
    assert record.metrics[0].updates[1].norms["A"] > 0


def test_a_line_a_round():
    engine = FakeEngine()
    _, record = play(engine, rounds=3, evaluation={"every": 2})
    first, second, third = record.metrics
    assert [line.round for line in record.metrics] == [1, 2, 3]
    assert [line.phase for line in record.metrics] == ["B", "A", "B"]
    assert (first.clients, first.cohort, first.attempts) == (4, 4, 1)
    assert first.failures == ()
    weights = [1, 2, 3, 4]
    loss = sum(w * 0.5 * w for w in weights) / sum(weights)
    assert first.train_loss == pytest.approx(loss)
    assert first.validation is None
    scores = {"loss": 8.0 / 40, "accuracy": 30 / 40, "macro_f1": (18 / 28 + 42 / 52) / 2}
    assert second.validation == pytest.approx(scores)
    assert third.validation is not None  # always after the last
    assert engine.evaluated == [(2, "validation"), (3, "validation")]
    up = payload_bytes(engine.sound(engine.plans[0][0]).parts.layout)
    assert first.bytes_up == 4 * up
    assert first.bytes_down == 4 * payload_bytes(start().layout)
    assert second.bytes_down == 4 * up  # B again
    assert set(first.seconds) >= {"plan", "train", "aggregate", "total"}
    assert sum(v for k, v in first.seconds.items() if k != "total") == pytest.approx(
        first.seconds["total"], abs=1e-3
    )


def test_evaluation_between_rounds_does_not_change_what_they_do():
    seldom, _ = play(FakeEngine(), rounds=5, evaluation={"every": 5})
    often, record = play(FakeEngine(), rounds=5, evaluation={"every": 1})
    assert [line.phase for line in record.metrics] == list("BABAB")
    assert torch.equal(seldom.parts["m", "B"], often.parts["m", "B"])


def test_the_phase_is_of_the_global_round_under_partial_participation():
    engine = FakeEngine(7)
    play(engine, rounds=6, federation={"clients": 7, "clients_per_round": 2})
    for number, plans in enumerate(engine.plans, 1):
        assert len(plans) == 2
        assert all(plan.train == {"B" if number % 2 else "A"} for plan in plans)
        assert all(plan.round == number for plan in plans)


def test_clients_are_sent_only_what_they_lack():
    engine = FakeEngine(5)
    play(engine, rounds=6, federation={"clients": 5, "clients_per_round": 3})
    held = {}
    changed = {"A": 0, "B": 0}
    for number, plans in enumerate(engine.plans, 1):
        for plan in plans:
            before = held.get(plan.client)
            lacks = {p for p in "AB" if before is None or before[p] != changed[p]}
            assert plan.send.parts == lacks
            held[plan.client] = dict(changed)
        changed["B" if number % 2 else "A"] = number


def test_with_the_gauge_a_client_that_was_there_is_sent_one_factor_a_round():
    engine = FakeEngine()
    play(engine, rounds=5, method={"gauge": "orthonormal"})
    sent = [{frozenset(plan.send.parts) for plan in plans} for plans in engine.plans]
    assert sent == [{frozenset("AB")}, {frozenset("B")}, {frozenset("A")}, {frozenset("B")},
                    {frozenset("A")}]  # fmt: skip


def test_every_answer_is_told_in_order():
    told = []
    play(FakeEngine(answer=one_bad(lambda u: Failure(2, "lost"))), told.append, rounds=1)
    assert [answer.client for answer in told] == [0, 1, 2, 3]
    assert isinstance(told[2], Failure)


def test_a_run_goes_on_from_its_state():
    settings = small.config(rounds=4, federation={"clients": 4})
    method, whole = small.method(settings), small.Memory()
    first = method.init(start())
    end = run_rounds(settings, method, small.CLASSIFICATION, FakeEngine(), first, Ledger(), whole)
    state, held = whole.states[1]
    rest = small.Memory()
    resumed = run_rounds(
        settings, method, small.CLASSIFICATION, FakeEngine(), state, Ledger(held), rest
    )
    assert torch.equal(resumed.parts.flat, end.parts.flat)
    for a, b in zip(rest.metrics, whole.metrics[2:], strict=True):
        assert a.changed(seconds={}) == b.changed(seconds={})


@pytest.mark.parametrize("every", [1, 2, 3])
def test_checkpoints_come_when_due_and_after_the_last_round(every):
    _, record = play(FakeEngine(), rounds=5, checkpoint={"every": every})
    due = [n for n in range(1, 6) if n % every == 0 or n == 5]
    assert [state.round for state, _ in record.states] == due


def test_an_interrupt_is_passed_on_after_the_last_finished_round_is_saved():
    def interrupt(plan, update):
        if plan.round == 4 and plan.client == 1:
            raise KeyboardInterrupt
        return [update]

    settings = small.config(rounds=6, federation={"clients": 4}, checkpoint={"every": 5})
    method, record = small.method(settings), small.Memory()
    with pytest.raises(KeyboardInterrupt):
        run_rounds(
            settings,
            method,
            small.CLASSIFICATION,
            FakeEngine(answer=interrupt),
            method.init(start()),
            Ledger(),
            record,
        )
    assert [state.round for state, _ in record.states] == [3]
    assert [line.round for line in record.metrics] == [1, 2, 3]


class Sent(BaseException):
    """Stands for any other end of a process."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, RunFailed, ValueError, Sent])
def test_a_round_is_finished_once_it_is_written_and_what_ends_the_run_loses_none(error):
    class Failing(FakeEngine):
        def evaluate(self, plan, split):
            if plan.round == 4:  # that is, after round 3
                raise error("in the evaluation")
            return super().evaluate(plan, split)

    settings = small.config(
        rounds=6, federation={"clients": 4}, checkpoint={"every": 5}, evaluation={"every": 1}
    )
    method, record, ledger = small.method(settings), small.Memory(), Ledger()
    with pytest.raises(error):
        run_rounds(
            settings, method, small.CLASSIFICATION, Failing(), method.init(start()), ledger, record
        )
    [(state, held)] = record.states
    assert state.round == 2
    assert [line.round for line in record.metrics] == [1, 2]
    assert held[0] == {"A": 0, "B": 1}  # as after round 2, though it has been sent round 3's
    assert ledger.held[0] == {"A": 2, "B": 1}


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("during", ["round_finished", "checkpoint"])
def test_signals_while_a_round_is_written_come_after_it(during, every):
    """Three quick ones, as of an impatient hand."""
    last = 5 if (during, every) == ("checkpoint", 5) else 3

    class Signalled(small.Memory):
        def round_finished(self, metrics):
            self.signal("round_finished", metrics.round)
            super().round_finished(metrics)

        def checkpoint(self, state, ledger, engine, unseen=None):
            self.signal("checkpoint", state.round)
            super().checkpoint(state, ledger, engine)

        def signal(self, where, number):
            if (where, number) == (during, last):
                for _ in range(3):
                    os.kill(os.getpid(), signal.SIGTERM)

    settings = small.config(rounds=6, federation={"clients": 4}, checkpoint={"every": every})
    method, record = small.method(settings), Signalled()
    with pytest.raises(Interrupted), interruptible():
        run_rounds(
            settings,
            method,
            small.CLASSIFICATION,
            FakeEngine(),
            method.init(start()),
            Ledger(),
            record,
        )
    assert [line.round for line in record.metrics] == list(range(1, last + 1))
    saved = [state.round for state, _ in record.states]
    assert saved == (list(range(1, last + 1)) if every == 1 else [last])


# Cohorts -----------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**40), st.integers(1, 500))
def test_the_cohort_is_a_function_of_seed_and_round(clients, size, seed, number):
    size = min(size, clients)
    settings = small.config(seed=seed, federation={"clients": clients, "clients_per_round": size})
    known = [ClientInfo(i, 2, 5) for i in range(clients)]
    cohort = sample_cohort(settings, known, number, 0)
    assert cohort == sample_cohort(settings, known, number, 0)
    ids = [client.id for client in cohort]
    assert len(set(ids)) == size
    assert ids == sorted(ids)


def test_cohorts_differ_by_round_seed_and_attempt_and_reach_everybody():
    known = [ClientInfo(i, 2, 5) for i in range(20)]

    def drawn(number=1, attempt=0, seed=0):
        settings = small.config(seed=seed, federation={"clients": 20, "clients_per_round": 5})
        return [c.id for c in sample_cohort(settings, known, number, attempt)]

    assert drawn() != drawn(number=2)
    assert drawn() != drawn(attempt=1)
    assert drawn() != drawn(seed=1)
    counts = torch.bincount(torch.tensor([i for n in range(400) for i in drawn(n)]), minlength=20)
    assert counts.min() > 60  # 100 expected, standard deviation 8.7
    assert counts.max() < 140


def test_a_resumed_run_draws_the_same_cohorts():
    engine, again = FakeEngine(9), FakeEngine(9)
    federation = {"clients": 9, "clients_per_round": 3}
    play(engine, rounds=5, federation=federation)
    settings = small.config(rounds=5, federation=federation)
    method = small.method(settings)
    state = replace(method.init(start()), round=3)
    run_rounds(settings, method, small.CLASSIFICATION, again, state, Ledger(), small.Memory())
    assert [[p.client for p in plans] for plans in again.plans] == [
        [p.client for p in plans] for plans in engine.plans[3:]
    ]


# Screening ---------------------------------------------------------------------------------


def with_value(value, key=("m", "B")):
    def spoil(update):
        parts = update.parts.clone()
        parts[key][0, 0] = value
        return replace(update, parts=parts)

    return spoil


def with_parts(change):
    return lambda update: replace(update, parts=Adapter.of(change(dict(update.parts))))


BAD = {
    "nan": (with_value(math.nan), "m B"),
    "inf": (with_value(-math.inf), "m B"),
    "missing_part": (with_parts(lambda parts: {}), "m B"),
    "foreign_part": (with_parts(lambda p: {**p, ("m", "A"): torch.ones(2, 5)}), "m A was not"),
    "foreign_part ": (with_parts(lambda p: {**p, ("n", "B"): torch.ones(3, 2)}), "n B was not"),
    "wrong_shape": (with_parts(lambda p: {("m", "B"): torch.ones(2, 3)}), "[2, 3], must be [3, 2]"),
    "wrong_shape ": (with_parts(lambda p: {("m", "B"): torch.ones(3, 4)}), "[3, 4], must be"),
    "num_examples": (lambda update: replace(update, num_examples=0), "0, must be 1 to the 30"),
    "num_examples ": (lambda update: replace(update, num_examples=-5), "-5, must be 1 to the 30"),
    "num_examples  ": (lambda update: replace(update, num_examples=31), "31, must be 1 to the 30"),
    "foreign_client": (lambda update: replace(update, client=99), "not asked"),
    "repeated": (lambda update: replace(update, client=1), "answered this round already"),
    "lost": (lambda update: Failure(update.client, "lost", "the connection broke"), "broke"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_update_is_refused_by_name_and_the_round_goes_on_without_it(kind):
    spoil, words = BAD[kind]
    state, record = play(FakeEngine(answer=one_bad(spoil)), rounds=1)
    (line,) = record.metrics
    (failure,) = line.failures
    assert failure.reason == kind.strip()
    assert words in failure.detail
    assert failure.client == {"foreign_client": 99, "repeated": 1}.get(kind, 2)
    assert (line.clients, line.cohort) == (3, 4)
    weights = torch.tensor([10.0, 20, 40])
    expected = float((weights * torch.tensor([1.0, 2, 4])).sum() / weights.sum())
    torch.testing.assert_close(state.parts["m", "B"], torch.full((3, 2), expected))


@pytest.mark.parametrize("kind", BAD)
def test_a_client_whose_update_was_refused_is_sent_everything_again(kind):
    spoil, _ = BAD[kind]

    def answer(plan, update):
        return [spoil(update) if (plan.client, plan.round) == (2, 1) else update]

    engine = FakeEngine(answer=answer)
    play(engine, rounds=2)
    sent = {plan.client: plan.send.parts for plan in engine.plans[1]}
    assert sent == {0: {"B"}, 1: {"B"}, 2: {"A", "B"}, 3: {"B"}}


def test_what_an_engine_leaves_unanswered_is_no_success():
    engine = FakeEngine(answer=lambda plan, update: [] if plan.client == 3 else [update])
    _, record = play(engine, rounds=1)
    assert record.metrics[0].clients == 3


def test_a_second_answer_does_not_count_twice():
    engine = FakeEngine(answer=lambda plan, update: [update, update])
    state, record = play(engine, rounds=1)
    assert [f.reason for f in record.metrics[0].failures] == ["repeated"] * 4
    once, _ = play(FakeEngine(), rounds=1)
    assert torch.equal(state.parts["m", "B"], once.parts["m", "B"])


def test_a_loss_that_is_not_known_is_written_as_null():
    _, record = play(FakeEngine(answer=one_bad(lambda u: replace(u, metrics={}))), rounds=1)
    assert record.metrics[0].train_loss is None
    assert record.metrics[0].clients == 4


# Quorum ------------------------------------------------------------------------------------


def failing(chance):
    """Clients for which `chance(round, attempt, client)` holds are lost."""
    attempts = {}

    def answer(plan, update):
        seen = attempts.setdefault((plan.round, plan.client), [])
        seen.append(plan)
        if chance(plan.round, len(seen) - 1, plan.client):
            return [Failure(plan.client, "lost")]
        return [update]

    return answer


@pytest.mark.parametrize(
    ("clients", "quorum", "lost", "holds"),
    [
        (4, 0.5, 2, True),
        (4, 0.5, 3, False),
        (4, 1.0, 1, False),
        (4, 1.0, 0, True),
        (5, 0.5, 2, True),  # three of five: half, rounded up
        (5, 0.5, 3, False),
        (4, 0.01, 3, True),
        (4, 0.01, 4, False),
        (25, 0.28, 18, True),  # 0.28 * 25 is 7, though not in floating point
        (25, 0.28, 19, False),
    ],
)
def test_a_round_needs_its_quorum(clients, quorum, lost, holds):
    engine = FakeEngine(clients, answer=failing(lambda r, a, client: client < lost))
    federation = {"clients": clients, "quorum": quorum}
    if holds:
        _, record = play(engine, rounds=1, federation=federation)
        assert record.metrics[0].clients == clients - lost
        assert record.metrics[0].attempts == 1
    else:
        with pytest.raises(RunFailed, match=r"round 1: the quorum.*lost 3 times.*client \d+: lost"):
            play(engine, rounds=1, federation=federation)
        assert len(engine.plans) == ATTEMPTS == 3


def test_a_lost_quorum_is_tried_again_with_another_cohort_and_all_bytes_count():
    def lost(number, attempt, client):
        return len(engine.plans) == 1 and client != engine.plans[0][0].client

    engine = FakeEngine(12, answer=failing(lost))
    federation = {"clients": 12, "clients_per_round": 4}
    _, record = play(engine, rounds=2, federation=federation)
    first, second = record.metrics
    cohorts = [[plan.client for plan in plans] for plans in engine.plans]
    assert len(cohorts) == 3
    assert cohorts[0] != cohorts[1]
    assert (first.attempts, first.clients, second.attempts) == (2, 4, 1)
    assert len(first.failures) == 3
    sent = sum(payload_bytes(plan.send.layout) for plans in engine.plans[:2] for plan in plans)
    assert first.bytes_down == sent
    assert first.bytes_up == 5 * payload_bytes(start().select({"B"}).layout)


def test_the_state_of_a_lost_attempt_is_thrown_away():
    lost_once = FakeEngine(answer=failing(lambda r, attempt, c: attempt == 0 and c > 0))
    state, record = play(lost_once, rounds=1)
    whole, _ = play(FakeEngine(), rounds=1)
    assert record.metrics[0].attempts == 2
    assert torch.equal(state.parts["m", "B"], whole.parts["m", "B"])


def test_after_three_attempts_the_run_fails_and_the_last_round_is_saved():
    engine = FakeEngine(answer=failing(lambda number, a, c: number == 3))
    settings = small.config(rounds=5, federation={"clients": 4}, checkpoint={"every": 4})
    method, record = small.method(settings), small.Memory()
    with pytest.raises(RunFailed, match=r"round 3: the quorum of 50% of 4 clients"):
        run_rounds(
            settings, method, small.CLASSIFICATION, engine, method.init(start()), Ledger(), record
        )
    assert [state.round for state, _ in record.states] == [2]
    assert len(engine.plans) == 5


# Server optimisers in the round ------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["fedavgm", "fedadam", "fedyogi"])
def test_in_the_round_only_the_active_factor_moves(optimizer):
    settings = small.config(
        rounds=4, federation={"clients": 4}, server={"optimizer": optimizer, "lr": 0.1}
    )
    method, record = small.method(settings), small.Memory()
    first = method.init(start())
    run_rounds(settings, method, small.CLASSIFICATION, FakeEngine(), first, Ledger(), record)
    states = [first, *(state for state, _ in record.states)]
    for number, (old, new) in enumerate(pairwise(states), 1):
        active, frozen = ("B", "A") if number % 2 else ("A", "B")
        assert torch.equal(old.parts["m", frozen], new.parts["m", frozen])
        assert not torch.equal(old.parts["m", active], new.parts["m", active])
    assert any(name.endswith("::A") for name in states[-1].optimizer)
    assert not any(name.endswith("::A") for name in states[1].optimizer)


def test_what_the_engine_notes_is_written_down():
    notes = RoundNotes([Failure(2, "deadline")], ["the server did not answer for 3.0 s"], 7)
    _, plain = play(FakeEngine(), rounds=1)
    _, record = play(FakeEngine(notes=notes), rounds=1)
    (line,), (usual,) = record.metrics, plain.metrics
    assert line.eval_failures == (FailureRecord(client=2, reason="deadline"),)
    assert line.faults == ("the server did not answer for 3.0 s",)
    assert line.bytes_down == usual.bytes_down + 7
    assert (usual.eval_failures, usual.faults) == ((), ())
