"""How a run ends before its time, and goes on: signals, a second process, damaged directories."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from killed import adapter, metrics, running, texts, wait_for_lines, words, write_project
from rolora.core.errors import RunFailed
from rolora.engines.in_process import InProcess
from rolora.server.screen import Screen
from shell import ended, rolora, send, start


@pytest.fixture
def project(tmp_path, bert, monkeypatch):
    """A folder with a config that runs in half a second."""
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path, bert)


def files(directory):
    """Every file with its content and its time."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def damage_checkpoints(run):
    paths = sorted((run / "checkpoint").glob("round_*/state.json"))
    for path in paths:
        path.write_text("torn")
    return paths


# Two processes -----------------------------------------------------------------------------


def test_a_second_process_is_refused_and_a_killed_one_is_not_in_the_way(project, capsys):
    run = project / "r"
    with running(run, "checkpoint.every=1") as process:
        assert rolora("run", "small.yaml", "--out", "r", "--resume") == 2
        said = words(capsys.readouterr())
        assert f"process {process.pid} on {socket.gethostname()} is running there" in said
        assert rolora("run", "small.yaml", "--out", "r", "--start-over") == 2
        assert rolora("report", "r") == 0
    rounds = len(texts(run)) + 2
    assert rolora("run", "small.yaml", f"rounds={rounds}", "--out", "r", "--resume") == 0
    assert [line["round"] for line in metrics(run)] == list(range(1, rounds + 1))
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_a_cell_of_a_comparison_that_another_process_runs_is_refused(project, capsys):
    cell = project / "c/fedit/seed-0"
    cell.parent.mkdir(parents=True)
    with running(cell, "method.name=fedit"):
        shutil.copy(cell / "config.yaml", project / "cell.yaml")
        options = ["cell.yaml", "--methods", "fedit", "--seeds", "0", "--out", "c"]
        assert rolora("compare", *options) == 2
    assert "is running there" in words(capsys.readouterr())


# Refused runs ------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["lora.r=8", "data.max_length=8"])
def test_a_refused_run_changes_nothing(project, option):
    assert rolora("run", "small.yaml", "--out", "r") == 0
    before = files(project / "r")
    assert rolora("run", "small.yaml", option, "--out", "r", "--resume") == 2
    assert rolora("run", "small.yaml", option, "--out", "r") == 2
    assert files(project / "r") == before


def test_other_data_are_refused_and_change_nothing(project, capsys):
    assert rolora("run", "small.yaml", "--out", "r") == 0
    before = files(project / "r")
    rows = (project / "rows.jsonl").read_text()
    (project / "rows.jsonl").write_text(rows.replace("w1 w1 w1", "w1 w1 w2"))
    assert rolora("run", "small.yaml", "--out", "r", "--resume") == 2
    assert "other data" in words(capsys.readouterr())
    assert files(project / "r") == before


# Signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "times", "code"),
    [(signal.SIGINT, 3, 130), (signal.SIGTERM, 1, 143), (signal.SIGHUP, 2, 129)],
)
def test_every_finished_round_is_kept_whatever_the_signal(project, number, times, code):
    run = project / "r"
    with running(run, "checkpoint.every=1000") as process:
        for _ in range(times):
            send(process, number)
            time.sleep(0.002)
        assert ended(process) == code
    rounds = len(texts(run))
    said = said_by_process()
    assert f"saved as it was after round {rounds}" in said
    assert f"rounds=2000 checkpoint.every=1000 --out {run} --resume" in said
    assert (run / "checkpoint" / f"round_{rounds:06d}").exists()
    options = ["small.yaml", f"rounds={rounds + 2}"]
    assert rolora("run", *options, "--out", "r", "--resume") == 0
    assert rolora("run", *options, "--out", "whole") == 0
    assert metrics(run) == metrics(project / "whole")
    assert adapter(run) == adapter(project / "whole")


def said_by_process():
    return " ".join(Path("said").read_text().split())


def test_a_comparison_ends_in_order_too(project):
    options = ["rounds=2000", "checkpoint.every=1000", "--methods", "fedit", "--seeds", "0"]
    process = start("compare", "small.yaml", *options, "--out", "c", said="said")
    cell = project / "c/fedit/seed-0"
    wait_for_lines(cell, 2, process)
    send(process, signal.SIGTERM)
    assert ended(process) == 143
    rounds = len(texts(cell))
    assert f"saved as it was after round {rounds}" in said_by_process()
    assert (cell / "checkpoint" / f"round_{rounds:06d}").exists()


def test_nohup_is_heeded(project):
    command = ["run", "small.yaml", "rounds=60", "--out", "r"]
    process = start(*command, said="said", ignoring=[signal.SIGHUP])
    wait_for_lines(project / "r", 2, process)
    send(process, signal.SIGHUP)
    assert ended(process) == 0
    assert len(texts(project / "r")) == 60


def test_a_run_that_goes_on_is_not_finished(project, monkeypatch):
    """Else a comparison would take a cell with more rounds to come for finished."""
    assert rolora("run", "small.yaml", "--out", "r") == 0
    monkeypatch.setattr(Screen, "judge", interrupt)
    assert rolora("run", "small.yaml", "rounds=6", "--out", "r", "--resume") == 130
    assert not (project / "r/summary.json").exists()


def interrupt(*_):
    raise KeyboardInterrupt


# No sound checkpoint -----------------------------------------------------------------------


def test_without_a_sound_checkpoint_nothing_starts_over_unless_told_to(project, capsys):
    assert rolora("run", "small.yaml", "--out", "r") == 0
    whole = adapter(project / "r"), metrics(project / "r")
    torn = damage_checkpoints(project / "r")
    before = files(project / "r")
    assert rolora("run", "small.yaml", "--out", "r", "--resume") == 2
    said = words(capsys.readouterr())
    assert len(torn) == 2
    assert all(str(path.relative_to(project)) in said for path in torn)
    assert "--start-over" in said
    assert rolora("compare", "small.yaml", "--methods", "fedit", "--seeds", "0", "--out", "c") == 0
    damage_checkpoints(project / "c/fedit/seed-0")
    (project / "c/fedit/seed-0/summary.json").unlink()
    assert rolora("compare", "small.yaml", "--methods", "fedit", "--seeds", "0", "--out", "c") == 2
    assert files(project / "r") == before
    assert rolora("run", "small.yaml", "--out", "r", "--start-over") == 0
    assert (adapter(project / "r"), metrics(project / "r")) == whole


def test_finished_rounds_without_any_checkpoint_do_not_start_over(project, capsys):
    assert rolora("run", "small.yaml", "--out", "r") == 0
    shutil.rmtree(project / "r/checkpoint")
    assert rolora("run", "small.yaml", "--out", "r", "--resume") == 2
    assert "metrics.jsonl has 4 lines" in words(capsys.readouterr())
    assert len(texts(project / "r")) == 4


def test_a_run_that_ended_before_its_first_round_starts_over_with_a_notice(project, capsys):
    (project / "r").mkdir()
    shutil.copy(project / "small.yaml", project / "r/config.yaml")
    assert rolora("run", "small.yaml", "--out", "r", "--resume") == 0
    assert "before its first round began; it starts over" in words(capsys.readouterr())
    assert len(texts(project / "r")) == 4


def test_a_run_killed_in_its_first_round_goes_on(project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Screen, "judge", interrupt)
        assert rolora("run", "small.yaml", "--out", "r") == 130
    assert not (project / "r/metrics.jsonl").exists()
    assert rolora("run", "small.yaml", "--out", "r", "--resume") == 0
    assert rolora("run", "small.yaml", "lora.r=4", "--out", "r", "--resume") == 2


# metrics.jsonl -----------------------------------------------------------------------------

SPOILT = {
    "empty": lambda text: "",
    "torn": lambda text: text[: len(text) // 2],
    "doubled": lambda text: text + text,
    "edited": lambda text: text.replace('"clients": 4', '"clients": 5'),
    "a line twice": lambda text: text.splitlines(keepends=True)[0] + text,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_metrics_are_restored_from_the_checkpoint(project, capsys, spoil):
    assert rolora("run", "small.yaml", "rounds=2", "--out", "r") == 0
    path = project / "r/metrics.jsonl"
    text = path.read_text()
    path.write_text(spoil(text))
    assert rolora("run", "small.yaml", "rounds=3", "--out", "r", "--resume") == 0
    assert path.read_text().startswith(text)
    assert [line["round"] for line in metrics(project / "r")] == [1, 2, 3]
    noticed = "metrics.jsonl was not what the run had written" in words(capsys.readouterr())
    assert noticed == (not spoil(text).startswith(text))


# A run's name ------------------------------------------------------------------------------


def test_a_run_keeps_its_id_wherever_it_lies(project):
    assert rolora("run", "small.yaml", "rounds=1", "--out", "r") == 0
    first = json.loads((project / "r/run.json").read_text())
    assert first["schema"] == 2
    shutil.move(project / "r", project / "elsewhere")
    assert rolora("run", "small.yaml", "rounds=2", "--out", "elsewhere", "--resume") == 0
    moved = json.loads((project / "elsewhere/run.json").read_text())
    assert {key: moved[key] for key in first} == first
    assert rolora("run", "small.yaml", "rounds=1", "--out", "r") == 0
    assert json.loads((project / "r/run.json").read_text())["id"] != first["id"]


# The final test ----------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "code"), [(RunFailed("no client answered"), 1), (None, 130)])
def test_the_adapter_is_there_whatever_happens_in_the_final_test(project, monkeypatch, error, code):
    assert rolora("run", "small.yaml", "--out", "whole") == 0
    evaluate = InProcess.evaluate

    def failing(self, plan, split):
        if split == "test":
            raise error or KeyboardInterrupt
        return evaluate(self, plan, split)

    with monkeypatch.context() as patch:
        patch.setattr(InProcess, "evaluate", failing)
        assert rolora("run", "small.yaml", "--out", "r") == code
    assert adapter(project / "r") == adapter(project / "whole")
    assert not (project / "r/summary.json").exists()
    monkeypatch.setattr(InProcess, "train", None)  # straight to the test
    assert rolora("run", "small.yaml", "--out", "r", "--resume") == 0
    summaries = [json.loads((project / run / "summary.json").read_text()) for run in ("r", "whole")]
    assert summaries[0]["final"] == summaries[1]["final"]
