"""Any number of labels for each text."""

import math

import numpy as np
import pytest
import torch

from rolora.core.errors import BadInput
from task_cases import column, sums_of, task

ROWS = ["a|b", "", "c", "b; a", "a"]


def targets_of(values, known=None, classes=None):
    return task("multilabel").targets(column(values, classes), known)


def test_lists_and_both_separators_read_the_same():
    expected = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 0, 0]]
    targets, names = targets_of(ROWS)
    assert names == ("a", "b", "c")
    assert targets.dtype == bool
    assert targets.astype(int).tolist() == expected
    lists = [["a", "b"], [], ["c"], ("b", "a", "a"), ["a"]]
    assert targets_of(lists)[0].astype(int).tolist() == expected
    missing = ["a|b", None, "c", "b;a;", "a"]
    assert targets_of(missing)[0].astype(int).tolist() == expected
    empty = ["a|b", math.nan, "c", "b||a", "a"]
    assert targets_of(empty)[0].astype(int).tolist() == expected


def test_numbers_stand_for_the_datas_classes_and_sort_as_numbers():
    targets, names = targets_of([[1], [0, 1], [], []], classes=("good", "bad"))
    assert names == ("good", "bad")
    assert targets.astype(int).tolist() == [[0, 1], [1, 1], [0, 0], [0, 0]]
    assert targets_of(["10|9", "9", "2", "2", "2"])[1] == ("2", "9", "10")
    assert targets_of([3, 1, 3, 3])[1] == ("1", "3")


@pytest.mark.parametrize(
    ("values", "known", "said"),
    [
        (["a|d", "b"], ("a", "b"), r"row 1 of .* the label 'd', which training does not know"),
        ([["a"], [0.5]], None, r"row 2 of .* is 0.5; a label is a whole number"),
        ([["a"], [None]], None, "row 2 of .* is missing"),
        ([{"a": 1}, "a"], None, "row 1 of .* a label is a whole number"),
        (["", None, []], None, "has no label in any row"),
        (["one text", "another", "a third"], None, "3 labels in 3 rows; name the column of labels"),
    ],
)
def test_what_is_no_list_of_labels_is_named(values, known, said):
    with pytest.raises(BadInput, match="data.label = 'label'.*" + said):
        targets_of(values, known)


def test_a_rows_stratum_is_its_rarest_label_in_training():
    made = task("multilabel")
    train, names = targets_of(["a|b", "a", "a", "b", "c|a"])
    assert made.strata_names(names) == ("a", "b", "c", "(none)")
    assert made.strata(train, train).tolist() == [1, 0, 0, 1, 2]
    held, _ = targets_of(["a|b|c", "", "b", "a", "a|b", "b"], names)
    assert made.strata(held, train).tolist() == [2, 3, 1, 0, 1, 1]  # not by their own counts


def test_f1_by_hand():
    made = task("multilabel")
    targets, names = targets_of(["a|b", "a", "b", ""], ("a", "b", "c"))
    output = torch.tensor([[1.0, -1, -1], [1, 1, -1], [-1, 1, -1], [-1, -1, -1]])
    sums = sums_of(made, output, torch.from_numpy(targets), names)
    assert (sums["both"], sums["predicted"], sums["actual"]) == ((2, 1, 0), (2, 2, 0), (2, 2, 0))
    found = made.scores(sums)
    assert found["micro_f1"] == pytest.approx(6 / 8)
    assert found["macro_f1"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["subset_accuracy"] == 0.5


def test_each_label_by_hand():
    made = task("multilabel")
    targets, names = targets_of(["a|b", "a", "b", ""], ("a", "b", "c"))
    output = torch.tensor([[1.0, -1, -1], [1, 1, -1], [-1, 1, -1], [-1, -1, -1]])
    detail = made.detail(sums_of(made, output, torch.from_numpy(targets), names), names)
    assert detail.confusion == ()
    a, b, c = detail.classes
    assert (a.name, a.precision, a.recall, a.f1, a.support) == ("a", 1, 1, 1, 2)
    assert (b.precision, b.recall, b.f1, b.predicted_share) == (0.5, 0.5, 0.5, 0.5)
    assert (c.precision, c.recall, c.f1, c.support) == (None, None, None, 0)


@pytest.mark.parametrize(
    ("output", "said"),
    [([-1.0, -1], "(none)"), ([1.0, -1], "a"), ([1.0, 1], "a | b")],
)
def test_what_every_row_is_given_is_named(output, said):
    made, targets = task("multilabel"), torch.tensor([[True, False], [True, True]])
    output = torch.tensor(output).expand(2, -1).clone()
    assert made.collapsed(sums_of(made, output, targets, "ab"), "ab") == said
    output[0] = -output[0]
    assert made.collapsed(sums_of(made, output, targets, "ab"), "ab") is None


def test_the_best_constant_by_trying_all():
    made, rng = task("multilabel"), np.random.default_rng(0)
    targets = torch.from_numpy(rng.random((60, 4)) < [0.7, 0.4, 0.2, 0.05])
    scores = []
    for code in range(16):
        output = torch.tensor([1.0 if code >> k & 1 else -1.0 for k in range(4)]).expand(60, -1)
        sums = sums_of(made, output, targets, "abcd")
        scores.append(made.scores(sums))
    best = made.constant(sums)
    assert best["micro_f1"] == pytest.approx(max(score["micro_f1"] for score in scores))
    assert best["macro_f1"] == pytest.approx(max(score["macro_f1"] for score in scores))
