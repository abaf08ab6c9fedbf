"""One label of several: how labels are read is tested with the loaders (`test_data`)."""

import pytest
import torch

from rolora.core.errors import BadInput
from task_cases import column, sums_of, task


def test_sums_by_hand():
    made, targets = task("classification"), torch.tensor([0, 1, 1, 2])
    output = torch.tensor([[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [2, 0, 0]])
    sums = sums_of(made, output, targets, ("a", "b", "c"))
    assert sums["correct"] == (2,)
    assert sums["predicted"] == (3, 1, 0)
    assert sums["actual"] == (1, 2, 1)
    assert made.scores(sums)["accuracy"] == 0.5
    assert made.constant(sums)["accuracy"] == 0.5
    assert made.prediction_shares(sums) == (0.75, 0.25, 0)


def test_more_right_than_were_guessed_is_refused():
    """All counts fit by themselves: no label was predicted as often as the right answers need."""
    sums = {"loss": (1.0, 4.0), "correct": (3.0,), "predicted": (4.0, 0.0), "actual": (2.0, 2.0)}
    with pytest.raises(ValueError, match="cannot be those of 4 examples"):
        task("classification").check(sums, 4, ("a", "b"))
    task("classification").check({**sums, "correct": (2.0,)}, 4, ("a", "b"))


def test_numbers_are_hinted_at_regression():
    with pytest.raises(BadInput, match=r"another label in every row.*task\.name: regression"):
        task("classification").targets(column(["1", "2", "3"]), None)
