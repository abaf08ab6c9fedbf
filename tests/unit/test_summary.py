"""What a run makes of its rounds: the best one, by the task's first metric."""

from made_up import MULTILABEL, classification, make_run
from rolora.records.files import read_run
from rolora.records.schema import Metric, TaskRecord
from rolora.running import best_of

ERRORS = TaskRecord(
    name="regression", title="regression", metrics=(Metric("mse", "error", higher_is_better=False),)
)


def rounds(directory, name, values):
    """Rounds with these validation scores; None where nobody looked."""
    made = read_run(make_run(directory, classification(), rounds=len(values))).rounds
    return [
        record.changed(validation=None if value is None else {name: value})
        for record, value in zip(made, values, strict=True)
    ]


def test_the_best_round_is_the_first_of_the_best_scores(tmp_path):
    best = best_of(rounds(tmp_path, "macro_f1", [0.1, None, 0.4, 0.4, 0.3]), MULTILABEL)
    assert (best.round, best.validation) == (3, {"macro_f1": 0.4})


def test_the_best_error_is_the_least(tmp_path):
    best = best_of(rounds(tmp_path, "mse", [None, 0.9, 0.2, float("nan"), 0.3]), ERRORS)
    assert (best.round, best.validation) == (3, {"mse": 0.2})


def test_without_a_look_there_is_no_best(tmp_path):
    assert best_of(rounds(tmp_path, "mse", [None, None]), ERRORS) is None
    assert best_of(rounds(tmp_path, "loss", [0.1, 0.2]), ERRORS) is None
