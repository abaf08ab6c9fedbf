"""A client is sent only what it does not hold."""

from dataclasses import replace

import pytest
import torch
from test_methods import MODULES, R, clients_of, method_of, rounds

from rolora.client.replica import MissingPart, Replica
from rolora.core.types import Adapter, ClientInfo
from rolora.server.ledger import Ledger, planned_layout


def sent(case, cohorts, n=4):
    """Per round, per client: the parts that were sent."""
    run = rounds(
        method_of(case), clients_of(case, n), len(cohorts), narrow=True, present=cohorts.__getitem__
    )
    return [{plan.client: set(plan.send.parts) for plan in plans} for _, plans, *_ in run]


def test_rolora_sends_what_the_last_round_changed_and_everything_at_first_contact():
    parts = sent("rolora", [[0, 1], [0], [0, 1], [1, 2], [1]])
    assert parts == [
        {0: {"A", "B"}, 1: {"A", "B"}},
        {0: {"B"}},
        {0: {"A"}, 1: {"A", "B"}},  # client 1 missed the B of round 1 and the A of round 2
        {1: {"B"}, 2: {"A", "B"}},
        {1: {"A"}},
    ]


def test_with_the_gauge_a_client_that_was_there_still_gets_one_factor():
    parts = sent("rolora+gauge", [[0, 1], [0], [0, 1], [0, 1]])
    assert parts[1:] == [{0: {"B"}}, {0: {"A"}, 1: {"A", "B"}}, {0: {"B"}, 1: {"B"}}]


def test_a_frozen_factor_is_sent_once():
    parts = sent("ffa_lora", [[0], [0, 1], [1], [0]])
    assert parts == [{0: {"A", "B"}}, {0: {"B"}, 1: {"A", "B"}}, {1: {"B"}}, {0: {"B"}}]


def test_a_part_that_stays_with_the_client_is_sent_at_first_contact_alone():
    parts = sent("fedsa_lora", [[0], [0, 1], [1], [0]])
    assert parts == [{0: {"A", "B"}}, {0: {"A"}, 1: {"A", "B"}}, {1: {"A"}}, {0: {"A"}}]


@pytest.mark.parametrize(("case", "own"), [("fedex_lora", {"A", "B"}), ("flora", set())])
def test_of_the_base_change_the_present_get_the_increment_and_the_late_all_of_it(case, own):
    parts = sent(case, [[0], [0], [0, 1], [0, 1], [0, 2], [1]])
    increment, whole = own | {"U", "V"}, own | {"D"}
    first = {"A", "B"} if own else set()
    assert parts == [
        {0: first},
        {0: increment},
        {0: increment, 1: first | {"D"}},
        {0: increment, 1: increment},
        {0: increment, 2: first | {"D"}},
        {1: whole},
    ]


def test_after_a_single_increment_a_new_client_can_add_it_to_the_pretrained_weight():
    parts = sent("flora", [[0], [1]])
    assert parts[1] == {1: {"U", "V"}}


def test_a_client_that_failed_is_sent_everything_again():
    method, ledger = method_of("rolora"), Ledger()
    state = method.init(Adapter.of({("m", "A"): torch.ones(R, 4), ("m", "B"): torch.ones(4, R)}))
    plan = ledger.narrow(method.plan(state, ClientInfo(0, R, 5)))
    ledger.replied(plan)
    assert ledger.narrow(plan).send.parts == set()
    ledger.failed(0)
    ledger.failed(0)  # twice is no error
    assert ledger.narrow(plan).send.parts == {"A", "B"}


def test_a_client_that_made_its_factor_orthonormal_in_a_round_that_was_lost_is_not_assumed_to():
    *_, (state, plans, _, _, new) = rounds(method_of("rolora+gauge"), clients_of("rolora"), 2)
    ledger, plan = Ledger(), plans[0]
    ledger.replied(plan)
    assert ledger.held[plan.client] == dict(state.versions)
    ledger.finished(plan, new)
    (derived,) = plan.derives
    assert ledger.held[plan.client][derived] == new.round


def test_a_plan_that_counts_on_what_is_not_there_is_refused_by_part_and_version():
    *_, (_, plans, *_) = rounds(method_of("rolora"), clients_of("rolora"), 2, narrow=True)
    with pytest.raises(MissingPart, match="round 2, client 0: part A in version 0 was not sent"):
        Replica().start(plans[0])
    *_, (_, plans, *_) = rounds(method_of("flora"), clients_of("flora", 1), 3, narrow=True)
    assert plans[0].send.parts == {"U", "V"}
    with pytest.raises(MissingPart, match="part D in version 1 is not held"):
        Replica().start(plans[0])


def test_a_replica_holds_what_a_later_plan_can_count_on_and_no_more():
    method, replica = method_of("rolora"), Replica()
    for _, plans, *_ in rounds(method, clients_of("rolora"), 6):
        replica.start(plans[0])
        assert all(len(versions) == 1 for versions in replica.versions().values())
    replica = Replica()
    for _, plans, *_ in rounds(method_of("flora"), clients_of("flora", 1), 6, narrow=True):
        replica.start(plans[0])
        assert len(replica.versions().get("D", [])) <= 2


def test_a_round_that_is_tried_again_starts_from_the_same_tensors():
    *_, (_, plans, *_) = rounds(method_of("rolora+gauge"), clients_of("rolora"), 3)
    replica = Replica()
    once, again = replica.start(plans[0]), replica.start(plans[1])
    assert once is again  # one adapter, of which a stack of clients needs no copies


def test_the_planned_layout_has_the_clients_rank():
    method = method_of("flexlora+ranks")
    state = next(iter(rounds(method, clients_of("flexlora"), 1)))[0]
    plan = replace(method.plan(state, ClientInfo(0, 1, 5)))
    shapes = dict(planned_layout(state.parts, plan).entries)
    assert shapes == {
        (module, part): {"A": (1, d_in), "B": (d_out, 1)}[part]
        for module, (d_out, d_in) in MODULES.items()
        for part in "AB"
    }
