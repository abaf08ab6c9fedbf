"""What holds for every task."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rolora.tasks import TASKS, added
from task_cases import CASES, drawn, sums_of

every_task = pytest.mark.parametrize("name", TASKS)


def test_every_task_has_a_case():
    assert CASES.keys() == TASKS.keys()


@every_task
def test_a_task_is_known_by_its_name(name):
    kind = TASKS[name]
    assert kind.name == name
    names = [metric.name for metric in kind.metrics]
    assert len(set(names)) == len(names)
    assert "loss" in names


@every_task
@hypothesis_settings(max_examples=15)
@given(n=st.integers(1, 60), cuts=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 99))
def test_sums_add_over_any_split_of_the_rows(name, n, cuts, seed):
    made, targets, names, output = drawn(name, n, seed)
    whole = sums_of(made, output, targets, names)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    edges = [0, *sorted(min(cut, n) for cut in cuts), n]
    parts = [order[a:b] for a, b in pairwise(edges)]
    together = added(sums_of(made, output[rows], targets[rows], names) for rows in parts)
    assert together.keys() == whole.keys()
    for key, values in whole.items():
        assert together[key] == pytest.approx(values, rel=1e-5, abs=1e-5)
    ours, theirs = made.scores(together), made.scores(whole)
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5, nan_ok=True)


@every_task
@pytest.mark.parametrize("n", [40, 700])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_a_known_library(name, n, seed):
    made, targets, names, output = drawn(name, n, seed)
    expected = CASES[name].oracle(output, targets)
    scores = made.scores(sums_of(made, output, targets, names))
    assert list(scores) == [metric.name for metric in made.metrics]
    assert scores.keys() == expected.keys()
    for key, value in expected.items():
        assert scores[key] == pytest.approx(value, abs=CASES[name].tolerance.get(key, 1e-6)), key
    for metric in made.metrics:
        assert not metric.share or 0 <= scores[metric.name] <= 1


@every_task
def test_the_loss_is_one_finite_number_a_row_and_the_one_that_is_scored(name):
    made, targets, names, output = drawn(name, 50)
    output.requires_grad_()
    loss = made.loss(output, targets)
    assert loss.shape == (50,)
    assert loss.isfinite().all()
    loss.mean().backward()
    assert output.grad.isfinite().all()
    assert output.grad.reshape(50, -1).any(1).sum() > 25  # most rows teach something
    output, loss = output.detach(), loss.detach()
    scores = made.scores(sums_of(made, output, targets, names))
    weight = made.weight(targets)
    mean = loss.mean() if weight is None else (loss * weight).sum() / weight.sum()
    assert scores["loss"] == pytest.approx(float(mean), rel=1e-5)
    # No row's loss knows of another's.
    some = torch.tensor([3, 30, 7])
    torch.testing.assert_close(made.loss(output[some], targets[some]), loss[some])


@every_task
def test_a_step_down_the_gradient_lowers_the_loss(name):
    made, targets, _, output = drawn(name, 50)
    output.requires_grad_()
    loss = made.loss(output, targets).mean()
    loss.backward()
    after = made.loss(output.detach() - 0.1 * output.grad, targets).mean()
    assert after < loss


@pytest.mark.parametrize("name", [name for name in TASKS if CASES[name].draws is None])
@hypothesis_settings(max_examples=30)
@given(seed=st.integers(0, 999), size=st.floats(0.1, 5))
def test_no_constant_prediction_beats_the_best_one(name, seed, size):
    made, targets, names, _ = drawn(name, 80, seed % 5)
    values = np.random.default_rng(seed).normal(size=len(names)) * size
    output = torch.tensor(values).float().expand(80, -1)
    sums = sums_of(made, output, targets, names)
    scores, best = made.scores(sums), made.constant(sums)
    assert best
    for metric in made.metrics:
        if metric.name in best:
            sign = 1 if metric.higher_is_better else -1
            assert sign * scores[metric.name] <= sign * best[metric.name] + 1e-6, metric.name


@every_task
def test_the_best_constant_is_a_function_of_the_targets_alone(name):
    made, targets, names, output = drawn(name, 80)
    one = made.constant(sums_of(made, output, targets, names))
    other = made.constant(sums_of(made, -output, targets, names))
    assert one == pytest.approx(other)


@every_task
@hypothesis_settings(max_examples=20)
@given(n=st.integers(1, 40), seed=st.integers(0, 99), scale=st.sampled_from([0.0, 1.0, 1e6]))
def test_honest_sums_pass_whatever_the_model(name, n, seed, scale):
    made, targets, names, output = drawn(name, n, seed)
    made.check(sums_of(made, output * scale, targets, names), n, names)


@every_task
def test_sums_that_cannot_be_are_refused(name):
    made, targets, names, output = drawn(name, 30)
    honest = sums_of(made, output, targets, names)
    made.check(honest, 30, names)

    def refused(sums, n=30):
        with pytest.raises(ValueError, match=r"sums|not"):
            made.check(sums, n, names)

    refused(honest, 31)
    refused(honest, 29)
    refused(honest, 0)
    refused({**honest, "more": (1.0,)})
    for key, values in honest.items():
        refused({k: v for k, v in honest.items() if k != key})
        refused({**honest, key: (*values, 0.0)})
        impossible = [math.nan, math.inf]
        impossible += [-1.0] if key != "moments" else []
        impossible += [1e9] if key != "loss" else []  # of which nobody knows a bound
        for bad, place in product(impossible, {0, len(values) - 1}):
            refused({**honest, key: (*values[:place], bad, *values[place + 1 :])})


@every_task
def test_of_a_broken_model_nothing_is_believed(name):
    made, targets, names, output = drawn(name, 10)
    sums = sums_of(made, output * math.nan, targets, names)
    assert math.isnan(made.scores(sums)["loss"])
    with pytest.raises(ValueError, match="finite"):
        made.check(sums, 10, names)


@every_task
def test_strata_are_numbered_and_named(name):
    made, targets, names, _ = drawn(name, 200)
    strata = made.strata(targets.numpy(), targets.numpy())
    assert strata.dtype == np.int64
    assert strata.shape == (200,)
    assert 0 <= strata.min() <= strata.max() < len(made.strata_names(names))
    assert len(np.unique(strata)) > 1


@every_task
def test_shares_of_predictions_add_to_one_where_there_are_any(name):
    made, targets, names, output = drawn(name, 60)
    shares = made.prediction_shares(sums_of(made, output, targets, names))
    if shares:
        assert len(shares) == len(made.strata_names(names))
        assert sum(shares) == pytest.approx(1)
