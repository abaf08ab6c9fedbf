"""One process at a time: refused by name, free again however the holder ended."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from rolora.core.errors import BadInput
from rolora.records.lock import held

HOLD = """
import sys, time
from pathlib import Path
from rolora.records.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(directory):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_holder_is_named_and_its_death_frees_the_directory(tmp_path):
    directory = tmp_path / "runs/r"
    with holder(directory) as process:
        before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
        message = f"process {process.pid} on {socket.gethostname()}"
        with pytest.raises(BadInput, match=message), held(directory):
            raise AssertionError
        assert before == {path: path.stat().st_mtime_ns for path in directory.iterdir()}
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(directory):
            assert str(os.getpid()) in (directory / ".holder.json").read_text()


def test_nothing_is_left_where_nothing_was_written(tmp_path):
    with held(tmp_path / "a/b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadInput, match="wrong"), held(tmp_path / "a/b"):
        raise BadInput("wrong")
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_stays_and_the_lock_does_not(tmp_path):
    with held(tmp_path / "a"):
        (tmp_path / "a/file").write_text("kept")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


def test_a_directory_may_be_held_again(tmp_path):
    for _ in range(2):
        with held(tmp_path):
            pass


def test_a_damaged_note_of_the_holder_does_not_hide_that_there_is_one(tmp_path):
    with holder(tmp_path):
        (tmp_path / ".holder.json").write_text("[")
        with pytest.raises(BadInput, match="another process is running"), held(tmp_path):
            raise AssertionError
