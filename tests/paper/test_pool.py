"""What the pool of processes promises, held to it with jobs that only wait."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console

from experiments.pool import run_jobs
from experiments.workspace import Workspace
from rolora.core.errors import BadInput, RunFailed


@dataclass(frozen=True)
class Wait:
    """A job that waits; `seconds` below zero ends its process, and zero is refused."""

    name: str
    seconds: float


@dataclass
class Waiter:
    """Says which of its jobs it is; knows where it is told of jobs that begin."""

    begun: Path
    done: int = 0

    def settings(self, job):
        return {"seconds": job.seconds}

    def work(self, job):
        (self.begun / job.name).touch()
        if job.seconds < 0:
            time.sleep(-job.seconds)
            os._exit(9)
        if job.seconds == 0:
            raise BadInput("wait: nothing")
        time.sleep(job.seconds)
        self.done += 1
        return {"pid": os.getpid(), "threads": torch.get_num_threads(), "number": self.done}


def waits(*seconds):
    return [Wait(f"job{i}", each) for i, each in enumerate(seconds)]


def pooled(directory, jobs, workers):
    (directory / "begun").mkdir(parents=True, exist_ok=True)
    workspace = Workspace.at(directory, Console(quiet=True))
    return run_jobs("waits", jobs, Waiter(directory / "begun"), workspace, workers)


def kept(directory):
    return {path.name.split("-")[0] for path in (directory / "cells").glob("*.json")}


def begun(directory):
    return {path.name for path in (directory / "begun").iterdir()}


def test_one_worker_is_this_process(tmp_path):
    found = pooled(tmp_path, waits(0.01, 0.01, 0.01), 1)
    assert [result["number"] for result in found] == [1, 2, 3]
    assert {result["pid"] for result in found} == {os.getpid()}


def test_finished_jobs_are_not_begun_again(tmp_path):
    first = pooled(tmp_path, waits(0.01, 0.01), 1)
    for path in (tmp_path / "begun").iterdir():
        path.unlink()
    again = pooled(tmp_path, waits(0.01, 0.01, 0.01), 1)
    assert again[:2] == first
    assert begun(tmp_path) == {"job2"}


@pytest.mark.slow
def test_each_process_has_one_thread_and_a_worker_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = pooled(tmp_path, waits(*[0.2] * 6), 2)
    assert {result["threads"] for result in found} == {1}
    by_process = {}
    for result in found:
        by_process.setdefault(result["pid"], []).append(result["number"])
    assert os.getpid() not in by_process
    assert len(by_process) == 2
    for numbers in by_process.values():
        assert sorted(numbers) == list(range(1, len(numbers) + 1))


@pytest.mark.slow
def test_a_dead_worker_is_one_message_and_what_is_finished_is_kept(tmp_path):
    with pytest.raises(RunFailed) as raised:
        pooled(tmp_path, waits(0.1, -3, 0.1, 0.1, 0.1), 2)
    assert str(raised.value).count("\n") == 0
    assert "a worker process died" in str(raised.value)
    assert "job0" in kept(tmp_path)
    assert "job1" not in kept(tmp_path)


@pytest.mark.slow
def test_a_refused_job_is_raised_as_it_is_and_those_under_way_are_kept(tmp_path):
    with pytest.raises(BadInput, match="wait: nothing"):
        pooled(tmp_path, waits(0.0, 1.0, 1.0, 1.0), 2)
    assert kept(tmp_path) == begun(tmp_path) - {"job0"}
    assert len(kept(tmp_path)) < 3


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_signals(tmp_path, sign):
    """Ctrl-C, which reaches every process of a terminal, waits for the jobs under way and keeps
    them; the processes of a killed parent end with it.
    """
    code = "import sys, test_pool; from pathlib import Path; test_pool.many(Path(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        wait_for(lambda: (tmp_path / "cells").exists() and kept(tmp_path))
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, sign) if sign == signal.SIGINT else process.send_signal(sign)
        assert process.wait(timeout=60) != 0
        gone, alive = psutil.wait_procs(children, timeout=60)
        assert len(gone) >= 2
        assert not alive
    finally:
        process.kill()
    assert 0 < len(kept(tmp_path)) < 40
    if sign == signal.SIGINT:
        assert kept(tmp_path) == begun(tmp_path)


def many(directory):
    """What the killed process runs."""
    pooled(directory, waits(*[0.5] * 40), 2)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
