"""What holds for the loss that a client's own label shares calibrate, and for its weight."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import small
from rolora.client.objective import Objective, information
from rolora.client.update import local_update
from rolora.config import ObjectiveConfig, TaskConfig
from rolora.core.errors import BadInput
from rolora.core.rules import Job
from rolora.core.types import Failure
from rolora.engines.flower import connect
from rolora.engines.preparation import Loaded, prepare
from rolora.tasks import make_task

CPU = torch.device("cpu")
LABELS = 3
HELD = ((0, 0, 0, 1, 2), (2,), (1, 1), (0, 0, 1, 1, 2, 2), (0, 0, 0, 0, 0, 0, 2))
"""The labels of five clients: skewed, one row, one label, equal, a label missing."""
EQUAL = 3
CALIBRATED = {"objective": {"logit_adjustment": 1}, "server": {"weighting": "information"}}


def data_of(held=HELD):
    """Points with these labels, and each client's rows."""
    labels = torch.tensor([label for own in held for label in own])
    drawn = small.pixel_examples(len(labels), num_labels=LABELS)
    return replace(drawn, targets=labels, strata=labels), small.shares([len(own) for own in held])


def jobs_of(data, rows, settings):
    engine = small.engine(settings, sizes=[len(own) for own in rows], examples=data)
    state = engine.method.init(engine.model.initial_adapter(2, 0))
    jobs = [engine.job(engine.method.plan(state, client)) for client in engine.clients]
    return engine.model, jobs


def trained(tau, clients=range(len(HELD)), together=True):
    settings = small.config(federation={"clients": len(HELD)}, optimizer={"local_steps": 3})
    data, rows = data_of()
    model, jobs = jobs_of(data, rows, settings)
    chosen = [jobs[client] for client in clients]
    objective = ObjectiveConfig(logit_adjustment=tau)

    def train(stack: list[Job]):
        given = (small.CLASSIFICATION, model, data, stack, settings.optimizer, 0)
        return local_update(*given, objective=objective)

    return train(chosen) if together else [train([job])[0] for job in chosen]


# The loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_the_loss_is_that_of_outputs_and_the_log_of_smoothed_shares(tau):
    data, rows = data_of()
    _, jobs = jobs_of(data, rows, small.config(federation={"clients": len(HELD)}))
    made = Objective.of(
        small.CLASSIFICATION, ObjectiveConfig(logit_adjustment=tau), data, jobs, CPU
    )
    output = torch.randn(len(HELD) * 2, LABELS, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0, 1, 1, 2, 2, 0, 2])
    losses = made.losses(output, targets, torch.Size((len(HELD), 2)))
    for k, own in enumerate(HELD):
        shares = [(own.count(label) + 1) / (len(own) + LABELS) for label in range(LABELS)]
        shift = tau * torch.tensor(shares).log()
        mine = slice(2 * k, 2 * k + 2)
        expected = nn.functional.cross_entropy(
            output[mine] + shift, targets[mine], reduction="none"
        )
        torch.testing.assert_close(losses[k], expected)
        settings = ObjectiveConfig(logit_adjustment=tau)
        alone = Objective.of(small.CLASSIFICATION, settings, data, [jobs[k]], CPU)
        single = alone.losses(output[mine], targets[mine], torch.Size((1, 2)))
        assert torch.equal(losses[k], single[0])


def test_with_tau_0_nothing_is_added():
    data, rows = data_of()
    _, jobs = jobs_of(data, rows, small.config(federation={"clients": len(HELD)}))
    assert Objective.of(small.CLASSIFICATION, ObjectiveConfig(), data, jobs, CPU).offsets is None


def test_a_client_of_equal_shares_trains_as_without_and_the_others_do_not():
    for client, (with_it, without) in enumerate(zip(trained(1.0), trained(0.0), strict=True)):
        apart = (with_it.parts.flat - without.parts.flat).abs().max()
        assert (apart < 1e-5) == (client == EQUAL), client


def test_stacked_clients_are_calibrated_as_single_ones():
    for one, other in zip(trained(1.0), trained(1.0, together=False), strict=True):
        torch.testing.assert_close(one.parts.flat, other.parts.flat, rtol=0, atol=1e-6)
        assert one.update.metrics == pytest.approx(other.update.metrics)


def test_a_clients_neighbours_in_the_stack_do_not_change_a_bit_of_it():
    first, reverse = trained(1.0), trained(1.0, range(len(HELD))[::-1])[::-1]
    for one, other in zip(first, reverse, strict=True):
        assert torch.equal(one.parts.flat, other.parts.flat)


def test_evaluation_is_not_calibrated():
    """The scores of an adapter are the same whatever it was trained on."""
    found = []
    for sections in ({}, CALIBRATED):
        settings = small.config(federation={"clients": len(HELD)}, **sections)
        data, rows = data_of()
        engine = small.engine(settings, sizes=[len(own) for own in rows], examples=data)
        state = engine.method.init(engine.model.initial_adapter(2, 0))
        found.append(engine.evaluate(engine.method.evaluation_plan(state), "validation"))
    assert found[0] == found[1]


# The weight --------------------------------------------------------------------------------


def test_information_is_n_times_the_spread_of_the_smoothed_shares():
    data, rows = data_of()
    for own, mine in zip(HELD, rows, strict=True):
        shares = [(own.count(label) + 1) / (len(own) + LABELS) for label in range(LABELS)]
        expected = len(own) * (1 - sum(p * p for p in shares)) * LABELS / (LABELS - 1)
        assert information(data, mine) == pytest.approx(expected, rel=1e-12)
        assert 0.0 < information(data, mine) <= len(own)
    assert information(data, rows[EQUAL]) == len(HELD[EQUAL])


@pytest.mark.parametrize("n", [3, 300, 30_000])
def test_many_rows_of_one_label_teach_no_more_than_a_few(n):
    data, [rows] = data_of([[1] * n])
    assert information(data, rows) < 2 * LABELS


def test_clients_of_equal_shares_weigh_what_their_examples_do():
    equal, adapters = ((0, 1, 2), (0, 0, 1, 1, 2, 2)), []
    for weighting in ("examples", "information"):
        settings = small.config(federation={"clients": 2}, server={"weighting": weighting})
        data, rows = data_of(equal)
        engine = small.engine(settings, sizes=[len(own) for own in rows], examples=data)
        adapters.append(small.run(settings, engine)[0].parts.flat)
    assert torch.equal(*adapters)


def test_the_mean_is_weighted_by_what_clients_can_teach():
    settings = small.config(
        rounds=1, federation={"clients": len(HELD)}, server={"weighting": "information"}
    )
    data, rows = data_of()
    engine = small.engine(settings, sizes=[len(own) for own in rows], examples=data)
    method = engine.method
    start = method.init(engine.model.initial_adapter(2, 0))
    updates = list(engine.train([method.plan(start, client) for client in engine.clients]))
    assert [update.weight for update in updates] == [information(data, mine) for mine in rows]
    flats = torch.stack([update.parts.flat.double() for update in updates])
    weights = torch.tensor([update.weight for update in updates], dtype=torch.float64)
    expected = (weights[:, None] * flats).sum(0) / weights.sum()
    ended = small.run(settings, engine)[0].parts.select(updates[0].parts.parts)
    torch.testing.assert_close(ended.flat.double(), expected, rtol=0, atol=1e-6)


def test_a_resumed_run_is_the_one_that_was_never_interrupted():
    settings = small.config(federation={"clients": len(HELD)}, **CALIBRATED)
    data, rows = data_of()
    sizes = [len(own) for own in rows]
    whole, record = small.run(settings, small.engine(settings, sizes=sizes, examples=data))
    half, _ = record.states[1]
    again, _ = small.run(settings, small.engine(settings, sizes=sizes, examples=data), half)
    assert torch.equal(whole.parts.flat, again.parts.flat)


# Where there are no label shares -------------------------------------------------------------


TASKLESS = {
    "regression": {"name": "regression", "range": [0, 5]},
    "multilabel": {"name": "multilabel"},
}
WANTS = {
    "objective.logit_adjustment": {"objective": {"logit_adjustment": 0.5}},
    "server.weighting": {"server": {"weighting": "information"}},
}


@pytest.mark.parametrize("task", TASKLESS)
@pytest.mark.parametrize("field", WANTS)
def test_a_task_without_label_shares_is_refused_by_name(task, field):
    settings = small.config(task=TASKLESS[task], **WANTS[field])
    made = make_task(TaskConfig(**TASKLESS[task]))
    loaded = Loaded(made, None, small.net_model(), {}, "", held_out=False)
    with pytest.raises(BadInput, match=rf"^{field} = .*{task} has no label shares"):
        prepare(settings, loaded)


@pytest.mark.parametrize("field", WANTS)
def test_a_federation_refuses_it_before_it_looks_for_its_sites(field):
    pytest.importorskip("flwr")
    settings = small.config(task=TASKLESS["regression"], **WANTS[field])
    with pytest.raises(BadInput, match=rf"^{field} = "), connect.connected(settings, print):
        pass


# What a client says of itself ----------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, 0.0, -1.0, 5.001, math.inf, math.nan])
def test_a_weight_that_cannot_be_is_refused(weight):
    failures, kept = answers("information", weight)
    assert [(failure.client, failure.reason) for failure in failures] == [(0, "weight")]
    assert "at most the 5 examples that it registered" in failures[0].detail
    assert len(kept) == len(HELD) - 1


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_a_weight_that_nobody_asked_for_counts_for_nothing(weighting):
    failures, kept = answers(weighting, 1e9)
    assert not failures
    assert kept[0].mass == (1.0 if weighting == "uniform" else len(HELD[0]))


def answers(weighting, weight):
    """A round's failures and accepted updates, where client 0 says that it weighs `weight`."""
    from rolora.server.screen import Screen
    from rolora.stages import make_chain

    settings = small.config(federation={"clients": len(HELD)}, server={"weighting": weighting})
    data, rows = data_of()
    engine = small.engine(settings, sizes=[len(own) for own in rows], examples=data)
    state = engine.method.init(engine.model.initial_adapter(2, 0))
    plans = [engine.method.plan(state, client) for client in engine.clients]
    first, *others = engine.train(plans)
    seen: list[object] = []
    screen = Screen(engine.registered, plans, state, weighting, make_chain([]), seen.append)
    kept = list(screen.sound([replace(first, weight=weight), *others]))
    assert [item for item in seen if isinstance(item, Failure)] == screen.failures
    return screen.failures, kept
