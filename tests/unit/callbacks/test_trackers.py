"""Each tracker with its real package and a store on this disk, read back by that package."""

import json
import sqlite3
import struct
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from made_up import Setting, classification, made_round, made_start, made_summary
from rolora.callbacks import TRACKERS, Begun, TensorBoard, Trackio, make_trackers
from rolora.callbacks.tracking import named, numbers
from rolora.config import TrackerName
from rolora.records.detail import ClassRecord, DetailRecord

SETTING = Setting(classification(), rounds=6, failures=0.2)
LABELS = DetailRecord(
    classes=tuple(
        ClassRecord(name=name, precision=None, recall=0.0, f1=f1, support=3, predicted_share=0.0)
        for name, f1 in (("C++", 0.1), ("C#", 0.2))
    )
)
ROUNDS = [
    made_round(SETTING, number, np.random.default_rng(number)).changed(detail=LABELS)
    for number in range(1, 7)
]
SUMMARY = made_summary(SETTING, made_start(SETTING), ROUNDS, np.random.default_rng(0))


def tensorboard(place):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
        if events.Scalars(name)  # a name whose events are all purged stays
    }


def mlflow(place):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("rolora").experiment_id])
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    plain = {"label/C_2b_2b/": "label/C++/", "label/C_23/": "label/C#/"}
    found = {}
    for name, values in history.items():
        group = name[: name.rindex("/") + 1]
        told = plain.get(group, group) + name[len(group) :]
        found[told] = [(metric.step, metric.value) for metric in values]
    return found


def wandb(place):
    found = defaultdict(list)
    for file in sorted(Path(place).glob("offline-run-*/run-*.wandb")):
        summary = {}
        for record in wandb_records(file.read_bytes()):
            line = wandb_items(record.history.item)
            summary |= wandb_items(record.summary.update)
            for name in line.keys() - {"_step", "_runtime", "_timestamp"}:
                found[name].append((line["_step"], line[name]))
        for name in (name for name in summary if name.startswith("test/")):
            found[name].append((summary["_step"], summary[name]))
    return found


def wandb_items(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def wandb_records(data, block=32768):
    """The package has no reader of its own file; it is LevelDB's log after seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, whole = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        at += 7 + length
        whole += data[at - length : at]
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def trackio(place):
    found = defaultdict(list)
    with sqlite3.connect(f"{place}/rolora.db") as database:
        for step, line in database.execute("SELECT step, metrics FROM metrics ORDER BY id"):
            for name, value in json.loads(line).items():
                found[name].append((step, value))
    return found


READERS = {reader.__name__: reader for reader in (tensorboard, mlflow, wandb, trackio)}


def written(rounds, summary=None):
    found = defaultdict(list)
    for record in rounds:
        for name, value in numbers(record):
            found[name].append((record.round, value))
    for name, value in named("test", summary.final.test) if summary else ():
        found[name].append((summary.final.round, value))
    return {name: pytest.approx(np.array(values), rel=1e-6) for name, values in found.items()}


def read(name, directory, expected):
    """What the store holds; another process may write it, a moment later."""
    for _ in range(50):
        found = {key: np.array(value) for key, value in READERS[name](directory / name).items()}
        if found == expected:
            break
        time.sleep(0.1)
    return found


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch):
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def run(tmp_path):
    """A run's directory; ``begun(n)`` is what a process says that goes on after round n."""
    return made(tmp_path / "a run")


def made(directory):
    directory.mkdir()
    (directory / "run.json").write_text(json.dumps({"schema": 2, "id": "c0ffee" * 5}))

    def begun(finished):
        lines = "".join(record.model_dump_json() + "\n" for record in ROUNDS[:finished])
        (directory / "metrics.jsonl").write_text(lines)
        return Begun(directory, SETTING.config, SUMMARY, "made up", (9, 12), finished)

    return SimpleNamespace(directory=directory, begun=begun)


def process(name, run, finished, until):
    """A process that goes on after round `finished` and tells of rounds up to `until`."""
    if name == "tensorboard":  # which reads files in the order of the second in their names
        time.sleep(1.001 - time.time() % 1)
    (tracker,) = make_trackers([name])
    tracker.begin(run.begun(finished))
    for record in ROUNDS[finished:until]:
        tracker.round(record)
    return tracker


@pytest.mark.parametrize("name", TRACKERS)
def test_every_round_is_tracked_once_though_the_run_is_killed_and_resumed(name, run):
    killed = process(name, run, finished=0, until=4)
    assert read(name, run.directory, written(ROUNDS[:4])) == written(ROUNDS[:4])
    killed.close()

    resumed = process(name, run, finished=3, until=6)  # round 4 comes again
    resumed.end(SUMMARY)
    resumed.close()
    whole = written(ROUNDS, SUMMARY)
    assert read(name, run.directory, whole) == whole

    again = process(name, run, finished=6, until=6)  # resumed though it is finished
    again.end(SUMMARY)
    again.close()
    assert read(name, run.directory, whole) == whole


def test_tensorboard_shows_the_rounds_of_a_run_that_started_over_alone(run):
    process("tensorboard", run, finished=0, until=4).close()
    (run.directory / "run.json").write_text(json.dumps({"schema": 2, "id": "decaf" * 6}))
    process("tensorboard", run, finished=0, until=2).close()
    expected = written(ROUNDS[:2])
    assert read("tensorboard", run.directory, expected) == expected


@pytest.mark.parametrize("kind", [TensorBoard, Trackio])
def test_runs_of_one_process_do_not_mix(kind, tmp_path):
    runs = [made(tmp_path / "one"), made(tmp_path / "two")]
    trackers = [kind() for _ in runs]
    for tracker, its in zip(trackers, runs, strict=True):
        tracker.begin(its.begun(0))
    for record, tracker in zip(ROUNDS[:2], trackers, strict=True):
        tracker.round(record)
    for record, its in zip(ROUNDS[:2], runs, strict=True):
        expected = written([record])
        assert read(kind.name, its.directory, expected) == expected


def test_a_directory_of_tensorboard_holds_several_runs(tmp_path):
    runs = [made(tmp_path / "one"), made(tmp_path / "two")]
    for record, its in zip(ROUNDS[:2], runs, strict=True):
        tracker = TensorBoard(tmp_path / "all")
        tracker.begin(its.begun(0))
        tracker.round(record)
        tracker.close()
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "one-c0ffeec0",
        "two-c0ffeec0",
    ]


def test_a_config_may_name_all_trackers_there_are():
    assert get_args(TrackerName) == tuple(TRACKERS)
