"""The files of a run: nothing is written before it begins, and a copy is the same run."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest

import small
from rolora.core.errors import BadInput
from rolora.core.types import EMPTY, ServerState
from rolora.records.checkpoint import checkpoints
from rolora.records.rundir import RunDirectory
from rolora.records.schema import RoundRecord
from rolora.server.ledger import Ledger

KEEPS_NOTHING = SimpleNamespace(tensors=lambda round_number: {})


def opened(path, **sections):
    return RunDirectory(path, small.config(**sections), "2026-01-01T00:00:00+00:00")


def played(path, rounds, saved=None):
    """A run of some rounds, of which the first `saved` are in a checkpoint."""
    path.mkdir()
    record = opened(path)
    record.begin(None, "data")
    for number in range(1, rounds + 1):
        record.round_finished(line_of(number))
        if number <= (saved or rounds):
            record.checkpoint(ServerState(number, EMPTY, {}), Ledger(), KEEPS_NOTHING)
    return record


def line_of(number):
    """A round's record, with a character at which other tools than ours break lines."""
    return RoundRecord(
        round=number,
        phase=f"line {number}\u2028",
        train_loss=0.5,
        clients=1,
        cohort=1,
        bytes_up=1,
        bytes_down=1,
    )


def lines(path):
    return [
        json.loads(line)["round"] for line in (path / "metrics.jsonl").read_text().split("\n")[:-1]
    ]


def resealed(path, change):
    """Change the body of a checkpoint and seal it again."""
    body = json.loads(json.loads((path / "state.json").read_text())["body"])
    change(body)
    text = json.dumps(body)
    seal = hashlib.sha256(text.encode()).hexdigest()
    (path / "state.json").write_text(json.dumps({"sha256": seal, "body": text}))


def as_schema_1(path):
    """What a version before ids, pieces and sealed metrics would have left."""

    def older(body):
        for key in ("schema", "engine", "metrics"):
            del body[key]
        del body["history"]["id"]

    for checkpoint in checkpoints(path / "checkpoint"):
        resealed(checkpoint, older)
    (path / "run.json").unlink()


def test_a_run_that_goes_on_may_be_tracked_by_others(tmp_path):
    played(tmp_path / "a", 2)
    assert opened(tmp_path / "a", tracking=["trackio"]).newest(print).state.round == 2


def test_a_copy_is_the_same_run_and_another_run_is_not(tmp_path):
    record = played(tmp_path / "a", 2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = opened(tmp_path / "b")
    assert copy.id != record.id
    copy.newest(print)
    assert copy.id == record.id
    assert played(tmp_path / "c", 1).id != record.id
    assert json.loads((tmp_path / "b/run.json").read_text())["id"] == record.id


def test_the_id_is_not_drawn_from_the_seed(tmp_path):
    assert opened(tmp_path / "a", seed=3).id != opened(tmp_path / "a", seed=3).id


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    played(tmp_path / "a", 5, saved=3)
    again, said = opened(tmp_path / "a"), []
    checkpoint = again.newest(said.append)
    again.begin(checkpoint, "data")
    assert lines(tmp_path / "a") == [1, 2, 3]
    assert [line.phase for line in again.rounds()] == [f"line {n}\u2028" for n in (1, 2, 3)]
    assert said == []


def test_a_checkpoint_of_schema_1_goes_on_under_the_name_that_sites_know(tmp_path):
    record = played(tmp_path / "a", 3, saved=2)
    as_schema_1(tmp_path / "a")
    again, said = opened(tmp_path / "a"), []
    checkpoint = again.newest(said.append)
    where, history = str(tmp_path / "a"), {"started": record.history["started"]}
    name = json.dumps([record.config.seed, record.config.method.name, where, history])
    assert again.id == hashlib.sha256(name.encode()).hexdigest()[:16]
    again.begin(checkpoint, "data")
    assert lines(tmp_path / "a") == [1, 2]
    again.checkpoint(checkpoint.state, Ledger(), KEEPS_NOTHING)
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = opened(tmp_path / "b")
    assert list(moved.newest(said.append).metrics) == [line_of(n).model_dump_json() for n in (1, 2)]
    assert moved.id == again.id
    assert said == []


def test_metrics_of_schema_1_that_are_gone_are_named(tmp_path):
    played(tmp_path / "a", 4)
    as_schema_1(tmp_path / "a")
    path = tmp_path / "a/metrics.jsonl"
    texts = [f"{line}\n" for line in path.read_text().split("\n")[:-1]]
    path.write_text(texts[0] + texts[3] + '{"round": 2\n' + texts[0])
    again, said = opened(tmp_path / "a"), []
    again.begin(again.newest(said.append), "data")
    assert said == ["metrics.jsonl has no line of round 2 (2 missing)"]
    assert lines(tmp_path / "a") == [1, 4]


def test_a_newer_checkpoint_is_refused_and_nothing_changes(tmp_path):
    played(tmp_path / "a", 2)
    resealed(checkpoints(tmp_path / "a/checkpoint")[0], lambda body: body.update(schema=3))
    with pytest.raises(BadInput, match="schema = 3: written by a newer rolora"):
        opened(tmp_path / "a").newest(print)


def test_other_data_are_refused_before_anything_is_written(tmp_path):
    played(tmp_path / "a", 2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    again = opened(tmp_path / "a", rounds=9)
    with pytest.raises(BadInput, match="other data"):
        again.begin(again.newest(print), "others")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}


def test_refused_settings_stand_beside_those_of_before(tmp_path):
    played(tmp_path / "a", 2)
    changed = {"optimizer": {"lr": 0.5, "momentum": 0.5}, "seed": 7, "rounds": 9}
    with pytest.raises(BadInput) as error:
        opened(tmp_path / "a", **changed).newest(print)
    head, *fields = str(error.value).split("\n  ")
    assert head.startswith(f"--resume: {tmp_path / 'a'} was run with other settings; go on with")
    assert fields == [
        "seed = 7, and was 0",
        "optimizer.lr = 0.5, and was 0.01",
        "optimizer.momentum = 0.5, and was 0.0",
    ]


def test_another_method_is_refused_with_its_own_options(tmp_path):
    played(tmp_path / "a", 2)
    with pytest.raises(BadInput, match=r"method\.name = 'fedit', and was 'rolora'"):
        opened(tmp_path / "a", method={"name": "fedit"}).newest(print)


def test_a_setting_that_an_older_version_did_not_have_is_its_default(tmp_path):
    played(tmp_path / "a", 2)
    for checkpoint in checkpoints(tmp_path / "a/checkpoint"):
        resealed(checkpoint, lambda body: body["run"]["config"]["data"].pop("options"))
    assert opened(tmp_path / "a").newest(print).state.round == 2
    with pytest.raises(BadInput, match=r"data.options.sep = ';', and was None"):
        opened(tmp_path / "a", data=FILE | {"options": {"sep": ";"}}).newest(print)


FILE = {"path": "d.csv", "text": "text", "label": "label"}


def test_data_are_known_by_what_is_in_them_not_by_where_they_are(tmp_path):
    (tmp_path / "a").mkdir()
    record = opened(tmp_path / "a", data=FILE)
    record.begin(None, "data")
    record.checkpoint(ServerState(1, EMPTY, {}), Ledger(), KEEPS_NOTHING)
    again = opened(tmp_path / "a", data=FILE | {"path": "/moved/d.csv"})
    again.begin(again.newest(print), "data")
    with pytest.raises(BadInput, match="other data"):
        again.begin(again.newest(print), "others")


def test_what_is_not_of_a_run_is_not_dropped(tmp_path):
    (tmp_path / "a/adapter").mkdir(parents=True)
    record = opened(tmp_path / "a")
    assert not record.holds_run()
    record.begin(record.newest(print), "data")
    assert (tmp_path / "a/adapter").is_dir()
    opened(tmp_path / "a").begin(None, "data")  # over a run
    assert not (tmp_path / "a/adapter").exists()


def test_thousands_of_rounds_do_not_make_a_checkpoint_large(tmp_path):
    record = played(tmp_path / "a", 3000, saved=1)
    path = tmp_path / "a/checkpoint"
    sizes = {}
    for number in (2998, 2999, 3000):
        record.checkpoint(ServerState(number, EMPTY, {}), Ledger(), KEEPS_NOTHING)
        sizes[number] = (path / f"round_{number:06d}/state.json").stat().st_size
        written = {piece: piece.stat().st_mtime_ns for piece in (path / "pieces").iterdir()}
    assert max(sizes.values()) < 50_000
    record.checkpoint(ServerState(3000, EMPTY, {}), Ledger(), KEEPS_NOTHING)
    assert written == {piece: piece.stat().st_mtime_ns for piece in (path / "pieces").iterdir()}
    again = opened(tmp_path / "a")
    assert len(again.newest(print).metrics) == 3000
