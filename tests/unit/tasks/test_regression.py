"""A number for each text: reading it, the head's start, and correlations from sums."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats
from transformers import AutoModelForSequenceClassification

from rolora.config import ModelConfig, TaskConfig
from rolora.core.errors import BadInput
from rolora.tasks import added, make_task
from rolora.tasks.regression import GRID
from small import tokenizer
from task_cases import column, sums_of, task

NAMES = ("score",)


def scores(x, y, made=None):
    made = made or task("regression")
    output, targets = torch.as_tensor(x).float()[:, None], torch.as_tensor(y).float()
    return made.scores(sums_of(made, output, targets, NAMES))


# Targets -----------------------------------------------------------------------------------


def test_numbers_and_numbers_as_text_read_the_same():
    made = task("regression")
    targets, names = made.targets(column(["0", " 2.50", "5e0"]), None)
    assert targets.dtype == np.float32
    assert targets.tolist() == [0, 2.5, 5]
    assert names == NAMES
    assert made.targets(column([0, 2.5, 5]), names)[0].tolist() == targets.tolist()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "row 2 of data.path = 'd.csv' is missing"),
        (math.nan, "is missing"),
        ("high", "'high'; regression needs a number"),
        (True, "True; regression needs a number"),
        ([1.0], r"\[1.0\]; regression needs a number"),
        ("nan", "'nan'; regression needs a number"),
        (5.2, r"5.2, outside task.range = \[0, 5\]"),
        ("-inf", r"outside task.range"),
    ],
)
def test_what_is_no_target_is_named(value, said):
    with pytest.raises(BadInput, match=said) as error:
        task("regression").targets(column([1.0, value, 2.0]), None)
    assert "data.label = 'label': row 2" in str(error.value)


def test_it_has_no_labels():
    with pytest.raises(BadInput, match=r"data\.labels: regression has no labels"):
        task("regression").targets(column([1.0]), ("no", "yes"))


def test_strata_are_tenths_of_the_range():
    made = task("regression")
    found = made.strata(np.array([0, 0.49, 0.5, 2.6, 4.5, 5], np.float32), np.zeros(1))
    assert found.tolist() == [0, 0, 1, 5, 9, 9]
    assert made.strata_names(NAMES)[5] == "2.5 to 3"


# The model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_drawn_head_starts_at_the_middle_in_units_of_half_the_range(model_dir, architecture):
    settings = ModelConfig(name=str(model_dir(architecture)), device="cpu")
    ids = torch.randint(4, 60, (9, 6), generator=torch.Generator().manual_seed(0))

    def answers(low, high):
        made = make_task(TaskConfig(name="regression", range=[low, high]))
        pretrained = made.backbone(settings, NAMES, 0)
        assert pretrained.module.config.problem_type == "regression"
        with torch.no_grad():
            return pretrained.module.eval()(ids).logits

    unit = answers(-1, 1)
    assert unit.shape == (9, 1)
    torch.testing.assert_close(answers(0, 10), 5 + 5 * unit)


def test_a_trained_head_stays_as_it_is(model_dir, tmp_path):
    trained = AutoModelForSequenceClassification.from_pretrained(model_dir("bert"), num_labels=1)
    trained.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    loaded = task("regression").backbone(ModelConfig(name=str(tmp_path), device="cpu"), NAMES, 0)
    assert not loaded.drawn
    torch.testing.assert_close(loaded.module.classifier.weight, trained.classifier.weight)
    torch.testing.assert_close(loaded.module.classifier.bias, trained.classifier.bias)


def test_the_loss_does_not_know_the_unit():
    output, targets = torch.randn(20, 1), torch.rand(20) * 2 - 1
    small = make_task(TaskConfig(name="regression", range=[-1, 1]))
    large = make_task(TaskConfig(name="regression", range=[0, 5000]))
    there = (2500 + 2500 * output, 2500 + 2500 * targets)
    torch.testing.assert_close(large.loss(*there), small.loss(output, targets))
    ours, theirs = (
        made.scores(sums_of(made, *pair, NAMES))
        for made, pair in ((large, there), (small, (output, targets)))
    )
    assert ours["mse"] == pytest.approx(theirs["mse"] * 2500**2, rel=1e-5)


# Correlations ------------------------------------------------------------------------------


def lost(values):
    """The share of the variance of the ranks that lies inside the histogram's intervals."""
    cells = np.clip(((values - 2.5) / 2.5 + 1) / 2 * GRID, 0, GRID - 1).astype(int)
    shares = np.bincount(cells) / len(values)
    equal = np.unique(values, return_counts=True)[1] / len(values)
    return math.sqrt(min(1.0, (shares**3).sum() / max(1e-12, 1 - (equal**3).sum())))


@hypothesis_settings(max_examples=60)
@given(
    n=st.integers(30, 3000),
    a=st.floats(0.3, 5),
    b=st.floats(0.3, 5),
    slope=st.floats(-1, 1),
    noise=st.floats(0.01, 2),
    digits=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 999),
)
@example(n=46, a=4.0, b=0.375, slope=1 / 64, noise=1 / 64, digits=1, seed=1)
def test_spearman_is_within_its_bound_of_scipys(n, a, b, slope, noise, digits, seed):
    rng = np.random.default_rng(seed)
    y = (rng.beta(a, b, n) * 5).round(digits).astype(np.float32)
    x = (2.5 + slope * (y - 2.5) + rng.normal(size=n) * noise).astype(np.float32)
    exact, e_x, e_y = stats.spearmanr(x, y).statistic, lost(x), lost(y)
    found = scores(x, y)["spearman"]
    if math.isnan(found):  # all in one interval: its ranks are not told apart
        assert max(e_x, e_y) == 1
        return
    assert abs(found - exact) <= e_x + e_y + max(e_x, e_y) ** 2 + 1e-6


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.5])
def test_spread_over_the_range_spearman_is_off_by_less_than_a_hundredth(noise):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = rng.uniform(0, 5, 1500)
        x = y + rng.normal(size=1500) * noise
        assert scores(x, y)["spearman"] == pytest.approx(stats.spearmanr(x, y)[0], abs=0.01)


def test_pearson_of_small_differences_far_from_zero_is_exact():
    rng = np.random.default_rng(0)
    made = make_task(TaskConfig(name="regression", range=[1000, 1010]))
    y = rng.uniform(1000, 1010, 500).astype(np.float32)
    x = (1009 + 1e-2 * (y - 1009) + 1e-2 * rng.normal(size=500)).astype(np.float32)
    expected = stats.pearsonr(x.astype(float), y.astype(float)).statistic
    assert scores(x, y, made)["pearson"] == pytest.approx(expected, abs=1e-6)


def test_what_does_not_vary_has_no_correlation():
    found = scores(np.full(50, 2.7), np.linspace(0, 5, 50))
    assert math.isnan(found["pearson"])
    assert math.isnan(found["spearman"])
    assert found["mse"] > 0
    assert math.isnan(scores([1.0], [2.0])["pearson"])


def test_order_alone_counts_for_spearman():
    y = np.linspace(0.05, 4.95, 50)
    assert scores(5 * (y / 5) ** 3, y)["spearman"] > 0.98
    assert scores(5 - y, y)["spearman"] == pytest.approx(-1)


def test_no_site_outweighs_the_others():
    """One site's predictions are of another planet."""
    rng = np.random.default_rng(0)
    y = torch.tensor(rng.uniform(0, 5, 100)).float()
    made = task("regression")
    honest = sums_of(made, y[:, None], y, NAMES)
    astray = sums_of(made, torch.full((5, 1), 1e30), y[:5], NAMES)
    made.check(astray, 5, NAMES)
    found = made.scores(added([honest, astray]))
    assert found["mse"] <= 5 * (4 * 2.5) ** 2 / 105
    assert found["pearson"] > 0.2


def test_moments_that_do_not_fit_together_are_refused():
    made, y = task("regression"), torch.linspace(0, 5, 50)
    sums = sums_of(made, y[:, None] * 0.8, y, NAMES)
    better = {**sums, "loss": (0.0, 50.0)}
    with pytest.raises(ValueError, match="cannot be those of 50"):
        made.check(better, 50, NAMES)
    x, ysum, xx, yy, xy = sums["moments"]
    with pytest.raises(ValueError, match="cannot be those of 50"):
        made.check({**sums, "moments": (x, ysum, xx, yy, 2 * xy)}, 50, NAMES)
