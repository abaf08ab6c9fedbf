"""One label of several: how labels are read is tested with the loaders (`test_data`)."""

import pytest
import torch

from rolora.core.errors import BadInput
from rolora.tasks.classification import MOST_CONFUSED
from task_cases import column, sums_of, task

NAMES = ("a", "b", "c")
TARGETS = torch.tensor([0, 1, 1, 2])
OUTPUT = torch.tensor([[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [2, 0, 0]])
MANY = (*NAMES, *(f"label{i}" for i in range(MOST_CONFUSED - 2)))


def widened(output):
    """The same predictions of `MANY` labels."""
    return torch.cat([output, torch.full((len(output), len(MANY) - output.shape[1]), -9.0)], 1)


def test_sums_by_hand():
    made = task("classification")
    sums = sums_of(made, OUTPUT, TARGETS, NAMES)
    assert sums["confusion"] == (1, 0, 0, 1, 1, 0, 1, 0, 0)
    assert made.scores(sums)["accuracy"] == 0.5
    assert made.scores(sums)["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert made.constant(sums)["accuracy"] == 0.5
    assert made.constant(sums)["macro_f1"] == pytest.approx(2 / 3 / 3)
    assert made.prediction_shares(sums) == (0.75, 0.25, 0)
    assert made.collapsed(sums, NAMES) is None


def test_each_label_by_hand():
    detail = task("classification").detail(
        sums_of(task("classification"), OUTPUT, TARGETS, NAMES), NAMES
    )
    assert detail.confusion == ((1, 0, 0), (1, 1, 0), (1, 0, 0))
    a, b, c = detail.classes
    assert (a.precision, a.recall, a.f1, a.support) == (1 / 3, 1, 1 / 2, 1)
    assert (b.precision, b.recall, b.f1, b.support) == (1, 1 / 2, pytest.approx(2 / 3), 2)
    assert (c.precision, c.recall, c.f1, c.support) == (None, 0, 0, 1)
    assert [label.predicted_share for label in detail.classes] == [0.75, 0.25, 0]


def test_of_many_labels_only_each_one_s_counts_are_kept():
    made = task("classification")
    few = sums_of(made, OUTPUT, TARGETS, NAMES)
    many = sums_of(made, widened(OUTPUT), TARGETS, MANY)
    assert "confusion" not in many
    assert {name: len(values) for name, values in many.items()} == made.sizes(MANY)
    for name in ("accuracy", "macro_f1"):
        assert made.scores(many)[name] == made.scores(few)[name]
    assert made.constant(many) == made.constant(few)
    detail = made.detail(many, MANY)
    assert detail.confusion == ()
    assert detail.classes[:3] == made.detail(few, NAMES).classes
    made.check(many, 4, MANY)


@pytest.mark.parametrize(
    "changes",
    [
        {"both": (2, 0, 0)},  # a is predicted three times and true once
        {"both": (1, 1, 1), "predicted": (2, 1, 1), "actual": (2, 1, 1)},  # a instead of a
        {"predicted": (3, 0, 0)},
        {"actual": (1, 2, 2)},
        {"predicted": (3.5, 0.5, 0)},
    ],
)
def test_counts_of_many_labels_that_no_rows_can_give_are_refused(changes):
    made = task("classification")
    rest = (0.0,) * (len(MANY) - 3)
    honest = {"both": (1, 1, 0), "predicted": (3, 1, 0), "actual": (1, 2, 1)}
    found = {name: tuple(map(float, v)) + rest for name, v in (honest | changes).items()}
    with pytest.raises(ValueError, match="cannot be those of 4 examples"):
        made.check({"loss": (1.0, 4.0), **found}, 4, MANY)


def test_the_one_label_that_is_predicted_is_named():
    made, output = task("classification"), torch.tensor([[0.0, 1.0]]).expand(100, 2).clone()
    targets = torch.arange(100) % 2
    assert made.collapsed(sums_of(made, output, targets, ("no", "yes")), ("no", "yes")) == "yes"
    output[:1] = torch.tensor([1.0, 0])
    assert made.collapsed(sums_of(made, output, targets, ("no", "yes")), ("no", "yes")) == "yes"
    output[:5] = torch.tensor([1.0, 0])
    assert made.collapsed(sums_of(made, output, targets, ("no", "yes")), ("no", "yes")) is None


def test_numbers_are_hinted_at_regression():
    with pytest.raises(BadInput, match=r"another label in every row.*task\.name: regression"):
        task("classification").targets(column(["1", "2", "3"]), None)
