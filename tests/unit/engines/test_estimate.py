"""What is said of a run's rounds and memory beforehand."""

from dataclasses import replace
from itertools import chain, repeat
from types import SimpleNamespace

import pytest
import torch

import small
from rolora.engines import estimate as estimating
from rolora.engines.estimate import Fresh, Work, busiest, cached, estimate, watched
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


def plans(engine, number=1):
    state = first(engine)
    found = [engine.method.plan(state, client) for client in engine.clients]
    return [replace(plan, round=number) for plan in found]


@pytest.fixture
def three_seconds(monkeypatch):
    """Whatever is tried takes three seconds."""
    monkeypatch.setattr(estimating, "trained", lambda engine, plans: 3.0)


def test_seconds_grow_with_the_steps_and_not_with_the_trial(model_dir, three_seconds):
    found = []
    for steps in (2, 8):
        engine = engine_of(model_dir("bert"), optimizer={"local_steps": steps})
        found.append(estimate(engine, first(engine)).seconds)
    assert found[1] == pytest.approx(4 * found[0], rel=0.2)
    assert found[0] > 3.0 * 3  # three clients of two steps, of which one step was tried


def test_what_frozen_layers_compute_anew_takes_its_time(model_dir, monkeypatch):
    def slower(engine, plans):
        before = cached(engine)
        for _ in engine.train(plans):
            pass
        return 1.0 + (cached(engine) - before) / 1000

    engine = engine_of(model_dir("bert"), layers="2")
    monkeypatch.setattr(estimating, "trained", slower)
    found = estimate(engine, first(engine)).seconds
    monkeypatch.setattr(estimating, "trained", lambda *given: slower(*given) and 1.0)
    again = engine_of(model_dir("bert"), layers="2")
    assert found - estimate(again, first(again)).seconds == pytest.approx(
        Fresh.of(engine, again.config.rounds).each_round / 1000
    )


@pytest.mark.parametrize("capacity", [2**20, 6000])
def test_the_cache_grows_as_foretold(model_dir, capacity):
    engine = engine_of(model_dir("bert"), layers="2", optimizer={"local_steps": 1, "batch_size": 2})
    engine.model.prefix.cache.capacity = capacity
    list(engine.train(plans(engine)))
    before, rounds = cached(engine), 6
    said = Fresh.of(engine, rounds)
    for number in range(2, 2 + rounds):
        list(engine.train(plans(engine, number)))
    assert before + said.to_come == pytest.approx(cached(engine), rel=0.25)
    assert said.each_round > 0


def test_the_last_worker_counts():
    assert busiest([3, 3, 3], 2) == 6
    assert busiest([4, 1, 1, 1], 2) == 4
    assert busiest([], 2) == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_the_largest_batches_pass_in_every_worker(model_dir, monkeypatch, workers):
    engine = engine_of(
        model_dir("bert"),
        engine={"workers": workers, "stack": 1},
        optimizer={"batch_size": 8},
        evaluation={"batch_size": 5},
    )
    passed, logits = [], type(engine.model).logits

    def noting(model, batch, *given):
        passed.append((batch["input_ids"].numel(), torch.is_grad_enabled()))
        return logits(model, batch, *given)

    monkeypatch.setattr(type(engine.model), "logits", noting)
    estimate(engine, first(engine))
    work = Work(engine)
    for number in range(1, engine.config.rounds + 1):
        work.round(plans(engine, number))
    assert passed.count((work.heaviest.tokens, True)) >= workers
    assert max(tokens for tokens, learns in passed if learns) == work.heaviest.tokens
    looked = [tokens for tokens, learns in passed if not learns]
    lengths = engine.splits["validation"].examples.lengths
    assert looked == [looked[0]] * workers
    assert lengths.max() <= looked[0] <= 5 * lengths.max()


def test_every_kind_of_linear_layer_meets_as_many_rows_as_will_pass(model_dir):
    engine, met = engine_of(model_dir("bert"), layers="2"), {}
    for layer in engine.model.module.modules():
        if isinstance(layer, torch.nn.Linear):
            rows = met.setdefault((layer.weight.shape, layer.bias is None), set())
            layer.register_forward_hook(lambda _, x, y, rows=rows: rows.add(len(x[0])))
    work = Work(engine)
    work.round(plans(engine))
    estimating._meet(engine, work.shapes)
    assert len(met) > 2
    assert all(rows == {shape[0] for shape in work.shapes} for rows in met.values())


@pytest.mark.parametrize("layers", ["all", "2"])
def test_a_run_gives_the_same_bits_after_an_estimate(model_dir, layers):
    with_one, without = (engine_of(model_dir("bert"), layers) for _ in range(2))
    estimate(with_one, first(with_one))
    assert not with_one.replicas
    assert not with_one.own
    for number in (1, 2):
        ours, theirs = (engine.train(plans(engine, number)) for engine in (with_one, without))
        for update, other in zip(ours, theirs, strict=True):
            assert torch.equal(update.parts.flat, other.parts.flat)


def test_memory_is_the_most_of_the_trial_and_what_is_still_to_be_cached(
    model_dir, monkeypatch, three_seconds
):
    monkeypatch.setattr(estimating, "peak_memory", lambda: 0)
    monkeypatch.setattr(estimating, "resident_memory", lambda: 10**9)
    engine = engine_of(model_dir("bert"), layers="2")
    list(engine.train(plans(engine)))
    to_come = Fresh.of(engine, engine.config.rounds).to_come
    assert to_come > 0
    assert estimate(engine, first(engine)).memory == 10**9 + to_come
    took = chain([10**9], repeat(10**9 + 10**7))
    monkeypatch.setattr(estimating, "resident_memory", lambda: next(took))
    assert estimate(engine, first(engine)).memory == 10**9 + 2 * 10**7 + to_come  # and holes
    monkeypatch.setattr(estimating, "peak_memory", lambda: 2 * 10**9)
    assert estimate(engine, first(engine)).memory == 2 * 10**9


def test_memory_that_is_given_back_is_seen():
    with watched() as found:
        before = estimating.resident_memory()
        torch.ones(50 * 2**20)
    assert found.most > before + 150 * 2**20


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
