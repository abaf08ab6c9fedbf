"""Reading a run directory."""

import json
import re

import numpy as np
import pytest

from made_up import make_run, regression, rounds_of, summary_of
from rolora.core.errors import BadInput
from rolora.records.atomic import write_atomic
from rolora.records.files import read_run
from rolora.records.schema import CLASSIFICATION, MethodRecord, Metric, RoundRecord
from rolora.report.run_report import write_report


class TestFiles:
    """Reading a run directory."""

    def test_a_torn_last_line_is_left_out(self, tmp_path):
        run = make_run(tmp_path, done=5)
        path = run / "metrics.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])
        assert [r.round for r in read_run(run).rounds] == [1, 2, 3, 4]
        path.write_bytes(whole[:-1])
        assert [r.round for r in read_run(run).rounds] == [1, 2, 3, 4, 5]

    def test_a_round_written_twice_counts_once(self, tmp_path):
        run = make_run(tmp_path, done=3)
        again = rounds_of(run)[1] | {"train_loss": 0.125}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(again) + "\n")
        rounds = read_run(run).rounds
        assert [r.round for r in rounds] == [1, 2, 3]
        assert rounds[1].train_loss == 0.125

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b"{", "line 2: not JSON"),
            (b"[]", "line 2: record"),
            (b'{"schema": 2, "round": "two"}', "line 2: round = 'two'"),
            (b'{"round": "two"}', "line 2: round = 'two'"),
            (b'{"round": 2, "failures": [{"client": 1}]}', "line 2: failures.0.reason"),
            (b'{"schema": 2, "round": 2}', "line 2: phase"),
            (b'"\xff"', "line 2: cannot be read"),
            (b"[" * 100_000, "line 2"),
        ],
    )
    def test_a_damaged_line_is_named(self, tmp_path, line, message):
        run = make_run(tmp_path, done=3)
        path = run / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
        with pytest.raises(BadInput, match=re.escape(f"metrics.jsonl: {message}")):
            write_report(run)
        assert not (run / "report.html").exists()

    def test_a_damaged_summary_is_named(self, tmp_path):
        run = make_run(tmp_path, rounds=3)
        path, whole = run / "summary.json", summary_of(run)
        path.write_text(json.dumps(summary_of(run), indent=1).replace('"final": {', '"final": ['))
        with pytest.raises(BadInput, match=r"summary\.json: line \d+: not JSON"):
            read_run(run)
        path.write_text(json.dumps({**whole, "final": 3}))
        with pytest.raises(BadInput, match=r"summary\.json: final = 3"):
            read_run(run)
        path.write_text('{"final": 3}')
        with pytest.raises(BadInput, match=r"summary\.json: no Summary of schema 1"):
            read_run(run)

    def test_nan_is_read_as_null(self, tmp_path):
        run = make_run(tmp_path, done=1)
        (run / "metrics.jsonl").write_text('{"round": 1, "train_loss": NaN}\n')
        assert read_run(run).rounds[0].train_loss is None

    def test_a_directory_without_a_run_is_refused(self, tmp_path):
        with pytest.raises(BadInput, match="not a run directory"):
            write_report(tmp_path)

    def test_write_atomic_leaves_the_old_file_where_it_fails(self, tmp_path, monkeypatch):
        path = tmp_path / "a.txt"
        write_atomic(path, "older")
        write_atomic(path, b"old")

        def broken(_: int) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("os.fsync", broken)
        with pytest.raises(OSError, match="disk full"):
            write_atomic(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


class TestSchema:
    """The version in each file."""

    @pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "start.json"])
    @pytest.mark.parametrize("version", [7, 0, "two", None, [2]])
    def test_an_unknown_schema_is_refused_by_name(self, tmp_path, name, version):
        run = make_run(tmp_path, rounds=2)
        if name == "start.json":
            (run / "summary.json").unlink()
        first, *rest = (
            (run / name).read_text().split("\n")
            if "jsonl" in name
            else [json.dumps(json.loads((run / name).read_text()))]
        )
        changed = json.dumps(json.loads(first) | {"schema": version})
        (run / name).write_text("\n".join([changed, *rest]))
        said = f"schema {version!r}, and this rolora reads up to 2"
        with pytest.raises(BadInput, match=rf"{re.escape(name)}.*{re.escape(said)}"):
            read_run(run)

    def test_a_newer_last_line_is_not_taken_for_a_torn_one(self, tmp_path):
        run = make_run(tmp_path, done=2)
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"schema": 3, "round": 3}')
        with pytest.raises(BadInput, match="line 3: is of schema 3"):
            read_run(run)

    def test_unknown_keys_are_passed_over_in_reading_and_refused_in_writing(self, tmp_path):
        run = make_run(tmp_path, rounds=2)
        summary = summary_of(run)
        summary["method"]["colour"] = summary["colour"] = "red"
        summary["task"]["metrics"][0]["colour"] = "red"
        (run / "summary.json").write_text(json.dumps(summary))
        assert "colour" not in read_run(run).summary.model_dump_json()
        with pytest.raises(ValueError, match="colour"):
            MethodRecord(name="rolora", title="RoLoRA", colour="red")
        with pytest.raises(ValueError, match="colour"):
            Metric("loss", "loss", colour="red")

    def test_records_survive_a_file(self, tmp_path):
        run = make_run(tmp_path, regression(), rounds=3)
        files = read_run(run)
        assert files.summary.model_dump_json(indent=1) == (run / "summary.json").read_text()
        lines = [record.model_dump_json() for record in files.rounds]
        assert lines == (run / "metrics.jsonl").read_text().splitlines()

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("-inf")])
    def test_what_is_not_finite_is_null(self, value):
        record = RoundRecord(
            round=1, phase="A", train_loss=value, validation={"loss": value}, clients=1, cohort=1,
            bytes_up=0, bytes_down=0,
        )  # fmt: skip
        assert record.train_loss is record.validation["loss"] is None
        assert json.loads(record.model_dump_json())["validation"] == {"loss": None}

    @pytest.mark.parametrize("value", ["0.5", True, [0.5]])
    def test_a_value_of_another_type_is_refused_in_writing(self, value):
        with pytest.raises(ValueError, match="train_loss"):
            RoundRecord(round=1, phase="A", train_loss=value, clients=1, cohort=1, bytes_up=0,
                        bytes_down=0)  # fmt: skip


ROUND_1 = {
    "round": 1, "phase": "B", "train_loss": 0.69, "eval_loss": 0.6, "eval_accuracy": 0.7,
    "clients": 2, "cohort": 3, "attempts": 1, "bytes_up": 10, "bytes_down": 20,
    "failures": [{"client": 2, "reason": "nan", "detail": ""}], "eval_failures": [], "faults": [],
    "seconds": {"train": 1.0, "total": 1.5},
}  # fmt: skip
SUMMARY_1 = {
    "rolora_version": "0.1.0", "versions": {"torch": "2.13.0"},
    "method": {"name": "fedsa_lora", "title": "FedSA-LoRA", "travels": "A", "citation": "Guo",
               "exact": "personalised"},
    "config_hash": "ab", "model": {"name": "minilm", "type": "bert", "parameters": 5,
                                   "adapter_parameters": 2},
    "data": {"name": "rotten_tomatoes", "train": 6, "validation": 2, "test": 4,
             "test_from": "test", "label_names": ["no", "yes"], "fingerprint": "ff"},
    "label_table": [[1, 2], [3, 0]],
    "client_accuracy": [{"client": 0, "examples": 3, "accuracy": 1.0},
                        {"client": 1, "examples": 1, "accuracy": 0.0}],
    "final": {"round": 1, "eval_accuracy": 0.7, "eval_loss": 0.6, "test_accuracy": 0.75,
              "test_loss": 0.5},
    "test_examples": 4, "test_failures": [], "test_faults": [],
    "best": {"round": 1, "eval_accuracy": 0.7}, "majority_accuracy": 0.5,
    "predicted_label_shares": [0.25, 0.75], "bytes_up": 10, "bytes_down": 20, "failures": 1,
    "seconds": {"train": 1.0, "total": 1.5}, "device": "cpu", "dtype": "float32", "threads": 2,
    "peak_memory_mb": 10.5, "command": "rolora run", "started": "2026-11-22T15:00:01+00:00",
    "finished": "2026-11-22T15:02:24+00:00",
}  # fmt: skip


class TestSchema1:
    """Files from before there was a version."""

    @pytest.fixture
    def run(self, tmp_path):
        make_run(tmp_path, done=0)
        (tmp_path / "start.json").unlink()
        (tmp_path / "metrics.jsonl").write_text(json.dumps(ROUND_1) + "\n")
        return tmp_path

    def test_a_finished_run_is_read(self, run):
        (run / "summary.json").write_text(json.dumps(SUMMARY_1))
        files = read_run(run)
        summary = files.summary
        assert files.rounds[0].validation == {"accuracy": 0.7, "loss": 0.6}
        assert summary.task == CLASSIFICATION
        assert summary.final.validation == {"accuracy": 0.7, "loss": 0.6}
        assert summary.final.test == {"accuracy": 0.75, "loss": 0.5}
        assert summary.best.validation == {"accuracy": 0.7}
        assert summary.constant == {"accuracy": 0.5}
        assert summary.prediction_shares == (0.25, 0.75)
        assert summary.strata.names == ("no", "yes")
        assert summary.strata.sizes == [3, 3]
        assert [c.scores["accuracy"] for c in summary.clients] == [1.0, 0.0]
        assert files.personal
        assert summary.method.exactness == "personalised"
        assert summary.schema_version == 2
        words = write_report(run).read_text()
        assert "Wilson" in words
        assert "FedSA-LoRA on rotten_tomatoes" in words

    def test_an_unfinished_run_is_read(self, run):
        files = read_run(run)
        assert files.summary is None
        assert files.method == "rolora"
        assert "After round 1 validation accuracy is 70.0" in write_report(run).read_text()

    @pytest.mark.parametrize("key", sorted(SUMMARY_1))
    def test_any_key_of_the_summary_may_be_absent(self, run, key):
        rest = {name: value for name, value in SUMMARY_1.items() if name != key}
        (run / "summary.json").write_text(json.dumps(rest))
        assert "</html>" in write_report(run).read_text()
