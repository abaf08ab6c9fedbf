"""Small runs from the shell, some of them killed on their way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import yaml

from rolora.engines.in_process import InProcess
from shell import FORKS, ended, rolora, start


def write_project(folder, model):
    """A config that runs in half a second, and its data; returns the folder."""
    rows = [{"text": f"w{i % 2} w{i % 2} w{i % 59}", "label": i % 2} for i in range(80)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "rounds": 4,
        "model": {"name": model},
        "lora": {"r": 2, "lora_alpha": 8},
        "data": {"path": "rows.jsonl", "text": "text", "label": "label", "max_length": 16},
        "federation": {"clients": 4},
        "optimizer": {"lr": 0.02, "local_steps": 1, "batch_size": 4},
        "engine": {"workers": 1},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    return folder


@contextmanager
def running(run, *options, lines=3):
    """A long run in a process of its own, once it has written `lines` lines; killed in the end."""
    process = start("run", "small.yaml", "rounds=2000", *options, "--out", run, said="said")
    try:
        wait_for_lines(run, lines, process)
        yield process
    finally:
        process.kill()
        process.join()


def killed_in_evaluation(number, *arguments):
    """A command of which nothing is left once it evaluates the model of round `number`; returns a
    digest of that model.
    """
    process = FORKS.Process(target=_dies, args=(number, arguments, os.getcwd()))
    process.start()
    assert ended(process) == -signal.SIGKILL
    return Path("shown").read_text()


def _dies(number, arguments, directory):
    os.chdir(directory)

    def die(plan):
        if plan.round == number + 1:
            Path("shown").write_text(digest(plan))
            os.kill(os.getpid(), signal.SIGKILL)

    watch_evaluations(die)
    rolora(*arguments)


def watch_evaluations(told, setattr=setattr):
    """Have `told` called with every plan to evaluate, before it is carried out."""
    plain = InProcess.evaluate

    def evaluate(self, plan, split):
        told(plan)
        return plain(self, plan, split)

    setattr(InProcess, "evaluate", evaluate)


def digest(plan):
    """Of what a plan sends."""
    return hashlib.sha256(plan.send.flat.numpy().tobytes()).hexdigest()


def wait_for_lines(run, lines, process):
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() or len(texts(run)) < lines:
        assert process.exitcode is None, Path("said").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def texts(run):
    return (run / "metrics.jsonl").read_text().splitlines()


def metrics(run):
    """The lines of a run without its timings."""
    lines = [json.loads(line) for line in texts(run)]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def adapter(run):
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def words(captured):
    """What was said, without line breaks."""
    return " ".join((captured.out + captured.err).split())
