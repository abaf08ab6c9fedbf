"""What is said of a run's rounds and memory beforehand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import small
from rolora.engines import estimate as estimating
from rolora.engines.estimate import Work, busiest, estimate
from rolora.records.schema import Estimate
from rolora.records.units import THIN
from rolora.report.expected import against_estimate


def engine_of(directory, layers="all", **sections):
    settings = small.config(
        model={"name": str(directory)},
        lora={"layers": layers},
        **{"engine": {"workers": 1, "stack": 1}, **sections},
    )
    model = small.text_model(directory, settings)
    return small.engine(settings, model, examples=small.text_examples(21))


def first(engine):
    return engine.method.init(engine.model.initial_adapter(2, 0))


def plans(engine):
    return [engine.method.plan(first(engine), client) for client in engine.clients]


def test_seconds_grow_with_the_steps_and_not_with_the_trial(model_dir, monkeypatch):
    monkeypatch.setattr(estimating, "_trained", lambda engine, plans: 3.0)
    found = []
    for steps in (2, 8):
        engine = engine_of(model_dir("bert"), optimizer={"local_steps": steps})
        found.append(estimate(engine, first(engine)).seconds)
    assert found[1] == pytest.approx(4 * found[0], rel=0.2)
    assert found[0] > 3.0 * 3  # three clients of two steps, of which one step was tried


def test_what_frozen_layers_have_seen_costs_less_the_second_time(model_dir):
    engine = engine_of(model_dir("bert"), layers="2")
    work = Work(engine)
    new, again = work.round(plans(engine)), work.round(plans(engine))
    tokens = int(work.data.lengths[work.seen].sum())
    # Two of three layers forward, once, beside one layer forward and back.
    assert new - again == pytest.approx(tokens * 2 / 2)
    everywhere = Work(engine_of(model_dir("bert")))
    assert everywhere.round(plans(engine)) == everywhere.round(plans(engine)) == again


def test_the_last_worker_counts():
    assert busiest([3, 3, 3], 2) == 6
    assert busiest([4, 1, 1, 1], 2) == 4
    assert busiest([], 2) == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_memory_is_the_process_and_what_passes_together_in_every_worker(
    model_dir, monkeypatch, workers
):
    monkeypatch.setattr(estimating, "peak_memory", lambda: 0)
    monkeypatch.setattr(estimating, "resident_memory", lambda: 10**9)
    engine = engine_of(
        model_dir("bert"),
        engine={"workers": workers, "stack": 1},
        optimizer={"batch_size": 8},
        evaluation={"batch_size": 1},
    )
    before = engine.model.module.get_input_embeddings().weight.clone()
    found = estimate(engine, first(engine))
    assert torch.equal(before, engine.model.module.get_input_embeddings().weight)
    assert not engine.replicas
    work = Work(engine)
    for number in range(1, 5):
        work.round([replace(plan, round=number) for plan in plans(engine)])
    assert 12 < work.largest <= 8 * 14
    assert found.memory == 10**9 + workers * work.largest * 3 * (6 * 32 + 3 * 48) * 4


def test_the_truth_stands_beside_what_was_expected():
    summary = SimpleNamespace(
        expected=Estimate(seconds=2.0, memory=1000 * 2**20),
        seconds={"train": 8.8},
        final=SimpleNamespace(round=4),
        peak_memory_mb=950.0,
        device="cpu",
    )
    found = [(name, said.replace(THIN, " ")) for name, said in against_estimate(summary)]
    assert found == [
        ("training a round", "2.2 s (2.0 s expected: 10.0 % more than that)"),
        ("peak memory", "950 MB (1,000 MB expected: 5.0 % less than that)"),
    ]
    summary.expected = None
    assert list(against_estimate(summary)) == [("peak memory", "950 MB")]
