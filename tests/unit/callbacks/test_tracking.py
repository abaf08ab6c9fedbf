"""What all trackers share, without the package of any."""

import json
import os
import sys

import numpy as np
import pytest

from made_up import Setting, classification, made_round, made_start, made_summary
from rolora.callbacks import TRACKERS, Begun, Tracker, make_trackers
from rolora.callbacks.mlflow import key
from rolora.callbacks.tracking import flat, named, numbers
from rolora.core.errors import BadInput
from rolora.records.detail import ClassRecord, DetailRecord, UpdateRecord

SETTING = Setting(classification(), rounds=4)
ROUNDS = [made_round(SETTING, number, np.random.default_rng(number)) for number in range(1, 5)]
SUMMARY = made_summary(SETTING, made_start(SETTING), ROUNDS, np.random.default_rng(0))


class Remembering(Tracker):
    name = "remembering"
    packages = ()

    def open(self, opening):
        self.opening, self.logged, self.left = opening, [], []
        self.closing.callback(lambda: self.left.append(self.finished))

    def log(self, numbers, step):
        self.logged.append((step, sorted({name.split("/")[0] for name in numbers})))


def begun(directory, finished=0, id="0123456789abcdef"):
    """A tracker that is told that a run begins, or goes on after a round."""
    (directory / "run.json").write_text(json.dumps({"id": id}))
    lines = "".join(record.model_dump_json() + "\n" for record in ROUNDS[:finished])
    (directory / "metrics.jsonl").write_text(lines)
    tracker = Remembering()
    tracker.begin(Begun(directory, SETTING.config, SUMMARY, "made up", (9, 12), finished))
    return tracker


def steps(tracker):
    return [step for step, _ in tracker.logged]


def test_one_that_is_new_to_a_resumed_run_makes_up_for_the_rounds_before(tmp_path):
    tracker = begun(tmp_path, finished=3)
    assert steps(tracker) == [1, 2, 3]
    tracker.round(ROUNDS[3])
    assert steps(tracker) == [1, 2, 3, 4]


def test_a_run_that_starts_over_is_tracked_from_its_first_round(tmp_path):
    begun(tmp_path).round(ROUNDS[0])
    resumed, other = begun(tmp_path), begun(tmp_path, id="another")
    for tracker in (resumed, other):
        tracker.round(ROUNDS[0])
    assert resumed.opening.first == 2
    assert other.opening.first == 1
    assert (steps(resumed), steps(other)) == ([], [1])


def test_test_scores_are_told_once_for_a_round(tmp_path):
    for expected in ([(4, ["test"])], []):
        tracker = begun(tmp_path)
        tracker.end(SUMMARY)
        assert tracker.logged == expected


def test_the_store_is_closed_once_and_knows_whether_the_run_is_finished(tmp_path):
    interrupted, finished = begun(tmp_path), begun(tmp_path)
    finished.end(SUMMARY)
    for tracker in (interrupted, finished):
        tracker.close()
        tracker.close()
    assert (interrupted.left, finished.left) == ([False], [True])
    Remembering().close()  # a run that was refused before it began


def test_the_numbers_of_a_round():
    evaluated, not_evaluated = dict(numbers(ROUNDS[1])), dict(numbers(ROUNDS[0]))
    assert evaluated["validation/accuracy"] == ROUNDS[1].validation["accuracy"]
    assert evaluated["train/loss"] == ROUNDS[1].train_loss
    assert evaluated["clients/answered"] == 10
    assert not any(name.startswith("validation/") for name in not_evaluated)
    assert "train/loss" not in dict(numbers(ROUNDS[0].changed(train_loss=float("nan"))))


def test_the_numbers_of_each_label_and_client():
    spam = ClassRecord(
        name="spam", precision=None, recall=0.0, f1=0.0, support=3, predicted_share=0.0
    )
    update = UpdateRecord(client=7, examples=9, weight=0.5, train_loss=0.6, norms={"B": 0.01})
    record = ROUNDS[0].changed(detail=DetailRecord(classes=(spam,)), updates=(update,))
    told = dict(numbers(record)).items() - dict(numbers(ROUNDS[0])).items()
    assert dict(told) == {
        "label/spam/recall": 0.0,
        "label/spam/f1": 0.0,
        "label/spam/predicted_share": 0.0,
        "client/7/loss": 0.6,
        "client/7/norm_B": 0.01,
    }


def test_what_is_not_defined_is_left_out():
    assert dict(named("test", {"pearson": None, "mse": 0.5})) == {"test/mse": 0.5}


def test_names_that_mlflow_refuses_are_told_apart():
    assert [key(name) for name in ("label/C++/f1", "label/C#/f1", "label/no. 1: ä/f1")] == [
        "label/C_2b_2b/f1",
        "label/C_23/f1",
        "label/no. 1: ä/f1",
    ]


def test_a_config_is_told_as_flat_names_and_plain_values():
    tree = {"lora": {"r": 4, "client_ranks": [2, 4]}, "stages": [{"name": "int8"}], "none": None}
    expected = {"lora.r": 4, "lora.client_ranks": "[2, 4]", "stages.0.name": "int8", "none": None}
    assert dict(flat(tree)) == expected


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_its_extra(name, monkeypatch):
    package = TRACKERS[name].packages[0]
    monkeypatch.setitem(sys.modules, package, None)
    expected = rf"tracking: {name} needs the package {package}; pip install 'rolora\[{name}\]'"
    with pytest.raises(BadInput, match=expected):
        make_trackers([name])


def test_an_unknown_tracker_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match=r"tracking = 'tensorbord': .*did you mean tensorboard\?"):
        make_trackers(["tensorbord"])


@pytest.mark.parametrize("set_by_the_person", [None, "of the person"])
def test_what_keeps_a_package_from_calling_home_is_set_before_its_import(
    set_by_the_person, monkeypatch
):
    class Reading(Tracker):
        name = "reading"
        packages = ("rolora_calls_home",)
        environment = {"ROLORA_CALLS_HOME": "no"}  # noqa: RUF012

    def importing(package):
        assert package == "rolora_calls_home"
        assert os.environ["ROLORA_CALLS_HOME"] == (set_by_the_person or "no")

    monkeypatch.setenv("ROLORA_CALLS_HOME", "")  # restored afterwards
    monkeypatch.delenv("ROLORA_CALLS_HOME")
    if set_by_the_person:
        monkeypatch.setenv("ROLORA_CALLS_HOME", set_by_the_person)
    monkeypatch.setattr("rolora.callbacks.tracking.import_module", importing)
    Reading()
