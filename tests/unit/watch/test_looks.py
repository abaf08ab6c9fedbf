"""How far each run is, told from its files alone."""

import json
import os
import shutil
import socket

import pytest

from made_up import change_rounds, make_run
from rolora.core.errors import BadInput
from rolora.records.lock import HOLDER, held, is_held
from rolora.watch.looks import Runs


def hold(run, pid=None, host=None):
    """What a process leaves that runs in `run`."""
    word = {"schema": 2, "host": host or socket.gethostname(), "pid": pid or os.getpid()}
    (run / HOLDER).write_text(json.dumps(word))


def states(runs):
    return {look.name: (look.state, look.words) for look in runs.look()}


class TestHeld:
    """Whether a process runs in a directory."""

    def test_while_the_lock_is_held_and_no_longer(self, tmp_path):
        with held(tmp_path / "run"):
            assert is_held(tmp_path / "run")
        assert not is_held(tmp_path / "run")

    def test_a_killed_process_holds_nothing(self, tmp_path):
        hold(tmp_path, pid=2**22 + 1)  # above the largest that Linux gives
        assert not is_held(tmp_path)

    def test_one_of_another_host_is_believed(self, tmp_path):
        hold(tmp_path, pid=2**22 + 1, host="elsewhere")
        assert is_held(tmp_path)

    @pytest.mark.parametrize("word", ["", "{", "[]", '{"host": "h"}', '{"host": "h", "pid": -1}'])
    def test_a_damaged_word_is_none(self, tmp_path, word):
        (tmp_path / HOLDER).write_text(word)
        assert not is_held(tmp_path)


class TestStates:
    """From before the first round to after the last."""

    def test_a_run_on_its_way(self, tmp_path):
        run, runs = tmp_path / "run", None
        run.mkdir()
        hold(run)
        runs = Runs([run])
        assert states(runs) == {"run": ("preparing", "reading model and data")}
        make_run(run, done=0)
        (run / "metrics.jsonl").unlink()
        assert states(runs) == {"run": ("waiting", "for round 1")}
        make_run(run, done=19)
        state, words = states(runs)["run"]
        assert (state, words.replace("\u202f", " ")) == ("running", "for about 6 s more")
        make_run(run, done=20)
        assert states(runs) == {"run": ("running", "the test")}
        make_run(run)
        assert states(runs)["run"][0] == "finished"
        (run / "summary.json").unlink()  # it was resumed for more rounds
        assert states(runs)["run"][0] == "running"
        (run / HOLDER).unlink()
        assert states(runs) == {"run": ("stopped", "after round 20")}
        shutil.rmtree(run)
        assert states(runs)["run"][0] == "gone"
        make_run(run, done=0)
        assert states(runs) == {"run": ("stopped", "before round 1")}

    def test_a_collapse_is_named_until_it_is_over(self, tmp_path):
        run = make_run(tmp_path / "run", done=4)
        change_rounds(run, lambda records: records[1].update(collapsed="positive"))
        assert states(Runs([run])) == {"run": ("stopped", "after round 4")}
        change_rounds(run, lambda records: records[3].update(collapsed="positive"))
        assert states(Runs([run])) == {"run": ("stopped", "after round 4, collapsed")}

    def test_a_line_half_written_is_not_seen_yet(self, tmp_path):
        run = make_run(tmp_path / "run", done=3)
        whole = (run / "metrics.jsonl").read_bytes()
        (run / "metrics.jsonl").write_bytes(whole[:-30])
        runs = Runs([run])
        assert len(runs.look()[0].files.rounds) == 2
        (run / "metrics.jsonl").write_bytes(whole)
        assert len(runs.look()[0].files.rounds) == 3

    def test_a_damaged_run_is_named_and_the_others_are_read(self, tmp_path):
        change_rounds(make_run(tmp_path / "a", done=3), lambda records: records[1].pop("phase"))
        make_run(tmp_path / "b", done=3)
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "config.yaml").write_text("rounds: [")
        found = states(Runs([tmp_path]))
        assert found["a"] == ("damaged", "metrics.jsonl: line 2: phase = " + found["a"][1][31:])
        assert found["b"][0] == "stopped"
        assert found["c"][0] == "damaged"

    def test_what_did_not_change_is_not_read_again(self, tmp_path):
        make_run(tmp_path / "run", done=3)
        runs = Runs([tmp_path])
        first, second = runs.look()[0], runs.look()[0]
        assert first.files is second.files
        assert first.stamp == second.stamp


class TestFinding:
    """Which runs there are."""

    def test_the_runs_of_a_comparison_are_found_in_the_order_of_their_numbers(self, tmp_path):
        for name in ("rolora/seed-10", "rolora/seed-9", "fedit/seed-9"):
            make_run(tmp_path / name, done=1)
        runs = Runs([tmp_path])
        assert list(states(runs)) == ["fedit/seed-9", "rolora/seed-9", "rolora/seed-10"]
        make_run(tmp_path / "fedit/seed-10", done=1)
        assert list(states(runs))[3:] == ["fedit/seed-10"]  # the others keep places and colours

    def test_runs_of_one_name_are_told_apart_by_their_paths(self, tmp_path):
        a, b = (make_run(tmp_path / name / "run", done=1) for name in "ab")
        assert list(states(Runs([a, b]))) == [str(a), str(b)]
        assert list(states(Runs([a]))) == ["run"]

    def test_what_holds_no_run_is_refused(self, tmp_path):
        with pytest.raises(BadInput, match=r"RUN .*there: no such directory"):
            Runs([tmp_path / "there"])
        (tmp_path / "empty" / "sub").mkdir(parents=True)
        with pytest.raises(BadInput, match=r"RUN .*empty: holds no run"):
            Runs([tmp_path / "empty"])
