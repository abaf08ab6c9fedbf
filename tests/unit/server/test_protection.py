"""Private rounds over clients that are fakes: who takes part, what is made, when it ends."""

from dataclasses import replace

import pytest
import torch

import small
from rolora.core.errors import BadInput, RunFailed
from rolora.core.noise import seeded
from rolora.core.types import Failure
from rolora.records.schema import FailureRecord, RoundRecord, UpdateRecord
from rolora.server.ledger import Ledger
from rolora.server.protection import ExampleLevel, Protection, protection_of
from rolora.server.round import finished as finished_rounds
from rolora.server.round import rounds, run_rounds
from rounds import FakeEngine, one_bad, start

START = start()
PRIVACY = {"clip": 0.5, "noise_multiplier": 0.0, "accountant": "rdp"}


def play(
    engine,
    privacy=PRIVACY,
    seed=1,
    record=None,
    before=(),
    state=None,
    unseen=None,
    **sections,
):
    federation = {"clients": engine.count, **sections.pop("federation", {})}
    settings = small.config(
        federation=federation, server={"weighting": "uniform"}, privacy=privacy, **sections
    )
    method, record = small.method(settings), record or small.Memory()
    guard = protection_of(settings, lambda: seeded(seed), engine.registered, before)
    state = state or method.init(START)
    given = (settings, method, small.CLASSIFICATION, engine, state, Ledger(), record)
    state = finished_rounds(rounds(*given, protection=guard, unseen=unseen))
    return state, record, guard


def asked(engine):
    return [[plan.client for plan in plans] for plans in engine.plans]


def test_each_client_takes_part_by_a_coin_of_its_own():
    engine = FakeEngine(count=10)
    settings = {"federation": {"clients_per_round": 3}, "rounds": 200}
    _, record, _ = play(engine, **settings)
    sizes = torch.tensor([metrics.cohort for metrics in record.metrics]).double()
    assert abs(float(sizes.mean()) - 3) < 4.5 * (10 * 0.3 * 0.7 / 200) ** 0.5
    assert abs(float(sizes.var()) / 2.1 - 1) < 4.5 * (2 / 200) ** 0.5
    together = torch.zeros(10, 10)
    for cohort in asked(engine):
        together[torch.tensor(cohort)[:, None], torch.tensor(cohort)] += 1
    pairs = together[~torch.eye(10, dtype=torch.bool)] / 200  # whoever else takes part
    assert (pairs - 0.09).abs().max() < 5 * (0.09 * 0.91 / 200) ** 0.5
    other = FakeEngine(count=10)
    play(other, seed=2, **settings)
    assert asked(other) != asked(engine)


def test_a_round_without_anybody_is_one():
    engine = FakeEngine(count=3)
    _, record, _ = play(engine, federation={"clients_per_round": 1}, rounds=30)
    empty = [metrics for metrics in record.metrics if metrics.cohort == 0]
    assert empty
    assert len(asked(engine)) == 30 - len(empty)
    assert all(m.clients == 0 and m.train_loss is None and m.phase in "AB" for m in empty)
    states = {state.round: state for state, _ in record.states}
    one = empty[0].round
    if one > 1:
        assert torch.equal(states[one].parts.flat, states[one - 1].parts.flat)


def test_the_aggregate_is_the_clipped_sum_over_what_is_expected():
    engine = FakeEngine(count=4)
    state, _, _ = play(engine, rounds=1)
    changes = torch.tensor([[float(k + 1)] * 6 for k in range(4)])  # B starts at zero
    cut = 0.5 * changes / changes.norm(dim=1, keepdim=True)
    expected = (cut.sum(0) / 4).view(3, 2)
    torch.testing.assert_close(state.parts["m", "B"], expected, rtol=1e-4, atol=1e-6)


def test_one_client_that_sends_the_largest_number_is_one_clip():
    huge = one_bad(lambda u: replace(u, parts=type(u.parts)(u.parts.layout, u.parts.flat * 1e30)))
    honest, _, _ = play(FakeEngine(count=4), rounds=1)
    attacked, record, _ = play(FakeEngine(count=4, answer=huge), rounds=1)
    assert torch.equal(attacked.parts.flat, honest.parts.flat)  # all were cut already
    assert not record.metrics[0].failures


def test_a_round_that_too_few_answer_is_tried_with_the_same_clients():
    engine = FakeEngine(count=12)
    engine.answer = lambda plan, update: (
        [Failure(plan.client, "absent")] if len(engine.plans) == 1 else [update]
    )
    _, record, _ = play(engine, federation={"clients_per_round": 6}, rounds=1)
    first, second = asked(engine)
    assert first == second
    assert record.metrics[0].attempts == 2


class Witness(small.Memory):
    """Notes in which order a run keeps its rounds, shows their models and tells of them."""

    def __init__(self):
        super().__init__()
        self.seen, self.unseen = [], []

    def checkpoint(self, state, ledger, engine, unseen=None):
        super().checkpoint(state, ledger, engine)
        self.seen.append(("kept", state.round))
        self.unseen.append(unseen)

    def round_finished(self, metrics):
        super().round_finished(metrics)
        self.seen.append(("told", metrics.round))


class Shown(FakeEngine):
    """Evaluates before the witness."""

    def __init__(self, witness, **settings):
        super().__init__(**settings)
        self.witness = witness

    def evaluate(self, plan, split):
        self.witness.seen.append(("shown", plan.round - 1))  # which the plan would make the next of
        return super().evaluate(plan, split)


def test_a_model_is_kept_before_it_is_shown_and_none_is_made_in_its_place():
    """Were a round made anew of other answers after its model was shown, that would be one release
    more than is counted.
    """
    settings = {"rounds": 3, "evaluation": {"every": 1}, "checkpoint": {"every": 1}}
    first = Witness()
    _, _, guard = play(Shown(first, count=3), record=first, **settings)
    assert first.seen == [(what, n) for n in (1, 2, 3) for what in ("kept", "shown", "told")]
    state, unseen = first.states[1][0], first.unseen[1]
    assert (state.round, unseen.round, unseen.validation) == (2, 2, None)

    again = Witness()
    engine = Shown(again, count=3)
    given = {"record": again, "before": first.metrics[:1], "state": state, "unseen": unseen}
    _, _, resumed = play(engine, **given, **settings)
    later = [(what, 3) for what in ("kept", "shown", "told")]
    assert again.seen == [("shown", 2), ("told", 2), *later]
    assert [plans[0].round for plans in engine.plans] == [3]
    assert [line.epsilon for line in again.metrics] == [m.epsilon for m in first.metrics[1:]]
    assert resumed.epsilon == guard.epsilon


def test_without_privacy_a_round_is_kept_when_all_is_known_of_it():
    witness = Witness()
    settings = small.config(
        federation={"clients": 3}, rounds=2, evaluation={"every": 1}, checkpoint={"every": 1}
    )
    method, engine = small.method(settings), Shown(witness, count=3)
    given = (settings, method, small.CLASSIFICATION, engine, method.init(START), Ledger(), witness)
    run_rounds(*given)
    assert witness.seen == [(what, n) for n in (1, 2) for what in ("shown", "told", "kept")]
    assert witness.unseen == [None, None]


def test_a_quorum_that_is_lost_for_good_ends_the_run():
    engine = FakeEngine(count=4, answer=lambda plan, update: [Failure(plan.client, "absent")])
    with pytest.raises(RunFailed, match="quorum"):
        play(engine, rounds=1)


def test_epsilon_is_told_round_by_round_and_a_run_ends_before_it_would_pass():
    privacy = {**PRIVACY, "noise_multiplier": 2.0, "target_epsilon": 6.0}
    _, record, guard = play(FakeEngine(), privacy, rounds=20)
    spent = [metrics.epsilon for metrics in record.metrics]
    assert spent == sorted(spent)
    assert 1 < len(spent) < 20
    assert spent[-1] <= 6.0 < guard.accountant.epsilon(len(spent) + 1)
    assert guard.told().epsilon == spent[-1]
    assert [state.round for state, _ in record.states][-1] == len(spent)


def test_a_budget_that_allows_no_round_is_refused():
    privacy = {**PRIVACY, "noise_multiplier": 0.1, "target_epsilon": 1.0}
    with pytest.raises(BadInput, match=r"privacy.target_epsilon = 1: round 1 alone"):
        play(FakeEngine(), privacy)


def test_a_solved_noise_spends_the_target_in_the_last_round():
    privacy = {"clip": 0.5, "target_epsilon": 8.0, "accountant": "rdp"}
    _, record, _ = play(FakeEngine(), privacy, rounds=5)
    assert len(record.metrics) == 5
    assert 7.9 < record.metrics[-1].epsilon <= 8.0


def test_noise_of_a_study_repeats_and_another_seeds_is_another():
    privacy = {**PRIVACY, "noise_multiplier": 1.0}
    one, two, other = (play(FakeEngine(), privacy, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one.parts.flat, two.parts.flat)
    assert not torch.equal(one.parts.flat, other.parts.flat)


def test_rounds_without_a_key_are_refused_where_privacy_is_asked_for():
    settings = small.config(privacy=PRIVACY, server={"weighting": "uniform"})
    method = small.method(settings)
    given = (settings, method, small.CLASSIFICATION, FakeEngine(3), method.init(START), Ledger())
    with pytest.raises(BadInput, match="privacy"):
        run_rounds(*given, small.Memory())


# Examples ----------------------------------------------------------------------------------


def by_example(sizes, **privacy):
    settings = small.config(
        federation={"clients": len(sizes)},
        optimizer={"local_steps": 2, "batch_size": 4},
        privacy={**PRIVACY, "unit": "example", "noise_multiplier": 1.0, **privacy},
        rounds=10,
    )
    return protection_of(settings, lambda: pytest.fail("no key is needed"), sizes.__getitem__)


def finished(number, *clients):
    updates = tuple(UpdateRecord(client=k, examples=1, weight=1, train_loss=None) for k in clients)
    return RoundRecord(
        round=number, phase="B", train_loss=None, updates=updates, clients=len(clients), cohort=3,
        bytes_up=0, bytes_down=0,
    )  # fmt: skip


def test_each_client_has_spent_the_rounds_in_which_it_was_asked():
    guard = by_example([40, 8, 40])
    assert isinstance(guard, ExampleLevel)
    assert guard.epsilons() == {0: 0.0, 1: 0.0, 2: 0.0}
    guard.note(finished(1, 0, 1))
    guard.note(finished(2, 0))
    spent = guard.epsilons()
    assert spent[2] == 0.0 < spent[0]
    assert spent[1] > spent[0]  # half of eight are in every batch
    assert guard.epsilon == max(spent.values())
    failed = finished(3, 0).changed(failures=(FailureRecord(client=2, reason="absent"),))
    guard.note(failed)
    assert guard.epsilons()[2] > 0.0  # its update may have left
    for more in (0, 1, 5):
        every = [each.epsilon(n) for each, n in guard.releases(more).values()]
        assert guard.largest(more) == max(every)


def test_a_client_that_never_joined_has_spent_nothing_and_ends_nothing():
    guard = by_example([40, 0, 40], target_epsilon=12.0)
    assert guard.allows(1)
    assert guard.epsilon == 0.0
    assert set(guard.epsilons()) == {0, 2}


def test_every_client_solves_its_own_noise():
    guard = by_example([40, 4, 40], noise_multiplier=None, target_epsilon=4.0)
    (large, steps), (few, _) = guard.accountant(0), guard.accountant(1)
    assert few.noise > large.noise
    assert large.epsilon(10 * steps) <= 4.0
    assert few.epsilon(10 * steps) <= 4.0
    for number in range(1, 11):
        assert guard.allows(number)
        guard.note(finished(number, 0, 1, 2))
    assert 3.9 < guard.epsilon <= 4.0
    assert len(guard.told().clients) == 3


def test_a_run_of_examples_ends_before_anyone_would_pass():
    guard = by_example([40, 8, 40], target_epsilon=12.0)
    number = 1
    while guard.allows(number):
        guard.note(finished(number, 0, 1, 2))
        number += 1
    assert 1 < number <= 10
    assert guard.epsilon <= 12.0 < guard.largest(more=1)


def test_without_privacy_nothing_is_counted():
    guard = Protection(small.config())
    assert guard.epsilon is None
    assert guard.told() is None
    assert guard.allows(10**6)
