"""Checkpoints: whole or not at all, and never trusted when damaged."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pydoc import locate

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rolora.core.errors import BadInput
from rolora.core.types import EMPTY, Adapter, ServerState
from rolora.records.atomic import write_atomic
from rolora.records.checkpoint import (
    Checkpoint,
    DamagedCheckpoint,
    checkpoints,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)

FILES = ("state.json", "tensors.safetensors")


def checkpoint(number, seed=0):
    generator = torch.Generator().manual_seed(seed + number)
    parts = Adapter.of(
        {
            ("m.0", "A"): torch.randn(2, 5, generator=generator),
            ("m.0", "B"): torch.randn(4, 2, generator=generator),
            ("score.bias", "head"): torch.randn(3, generator=generator),
        }
    )
    return Checkpoint(
        state=ServerState(
            number,
            parts,
            {"A": number - 1, "B": number, "head": 0},
            {"m/m.0::A": torch.randn(2, 5, generator=generator)},
        ),
        ledger={0: {"A": 1}, 12: {"A": 1, "B": number}},
        engine={
            "optimizer/3/B.step": torch.tensor(7.0),
            "parts/3/m.0::B": torch.randn(4, 2, generator=generator),
        },
        history={"best": 0.1 + 0.2, "totals": [1, None]},
        run={"config": {"seed": 0}},
        metrics=[json.dumps({"round": i, "seed": seed}) for i in range(1, 120 * number)],
    )


def same(a, b):
    tensors = [(a.state.optimizer, b.state.optimizer), (a.engine, b.engine)]
    return (
        (a.state.round, a.state.versions) == (b.state.round, b.state.versions)
        and a.state.parts.layout == b.state.parts.layout
        and torch.equal(a.state.parts.flat, b.state.parts.flat)
        and all(x.keys() == y.keys() for x, y in tensors)
        and all(torch.equal(x[name], y[name]) for x, y in tensors for name in x)
        and (a.ledger, a.history, a.run) == (b.ledger, b.history, b.run)
        and list(a.metrics or ()) == list(b.metrics or ())
    )


def test_what_is_loaded_is_what_was_saved(tmp_path):
    path = save_checkpoint(tmp_path, checkpoint(3), keep=2)
    assert path.name == "round_000003"
    assert sorted(os.listdir(path)) == sorted(FILES)
    assert same(load_checkpoint(path), checkpoint(3))
    assert load_newest(tmp_path)[1] == []


def test_an_empty_state_can_be_saved(tmp_path):
    empty = Checkpoint(ServerState(0, EMPTY, {}), {}, {}, {}, {})
    assert same(load_checkpoint(save_checkpoint(tmp_path, empty, keep=2)), empty)


def test_the_last_few_are_kept_and_the_newest_is_loaded(tmp_path):
    for number in range(1, 6):
        save_checkpoint(tmp_path, checkpoint(number), keep=3)
    assert [p.name[-1] for p in checkpoints(tmp_path)] == ["5", "4", "3"]
    assert same(load_newest(tmp_path)[0], checkpoint(5))
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_round_can_be_saved_again(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    path = save_checkpoint(tmp_path, checkpoint(1, seed=9), keep=2)
    assert same(load_checkpoint(path), checkpoint(1, seed=9))


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert load_newest(tmp_path) == (None, [])
    assert load_newest(tmp_path / "missing") == (None, [])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    for number in (1, 2):
        save_checkpoint(directory, checkpoint(number), keep=2)
    return directory


def damage(path, data):
    """Cut, flip, lengthen, empty or remove a file, at a place drawn by hypothesis."""
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "flip", "append", "empty", "remove", "zero"]))
    if kind == "remove":
        path.unlink()
        return
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        content = content[:at]
    elif kind == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
    elif kind == "append":
        content += data.draw(st.binary(min_size=1, max_size=20).filter(lambda b: b.strip()))
    elif kind == "empty":
        content = b""
    else:  # a file system that had not written its last pages yet
        content[at:] = bytes(len(content) - at)
        if not at and not any(content):
            content += b"\0"
    path.write_bytes(bytes(content))


@hypothesis_settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_is_refused_by_name_and_the_one_before_is_used(two, data):
    newest = two / "round_000002"
    pieces = [two / "pieces" / name for name in named(newest) - named(two / "round_000001")]
    kept = {path: path.read_bytes() for path in [*(newest / file for file in FILES), *pieces]}
    path = data.draw(st.sampled_from(sorted(kept)))
    try:
        damage(path, data)
        if path.exists() and path.read_bytes() == kept[path]:
            return  # zeros written over zeros
        with pytest.raises(DamagedCheckpoint) as error:
            load_checkpoint(newest)
        assert str(path) in str(error.value)
        found, passed_over = load_newest(two)
        assert same(found, checkpoint(1))
        assert len(passed_over) == 1
        assert str(path) in passed_over[0]
    finally:
        for file, content in kept.items():
            file.write_bytes(content)


def named(path):
    """The pieces that a checkpoint names."""
    body = json.loads(json.loads((path / "state.json").read_text())["body"])
    return {*body["engine"], *body["metrics"]["shared"]}


@pytest.mark.parametrize(
    "text", ["[]", "null", '{"body": 3, "sha256": ""}', '{"body": "{}"}', "[" * 100_000, "\xff"]
)
def test_a_state_of_another_form_is_refused_by_name(two, tmp_path, text):
    copy = shutil.copytree(two / "round_000002", tmp_path / "round_000002")
    (copy / "state.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedCheckpoint, match=r"round_000002/state.json"):
        load_checkpoint(copy)


def test_tensors_of_another_round_are_refused(two, tmp_path):
    copy = shutil.copytree(two / "round_000002", tmp_path / "round_000002")
    shutil.copy(two / "round_000001/tensors.safetensors", copy)
    with pytest.raises(DamagedCheckpoint, match=r"tensors.safetensors: its checksum"):
        load_checkpoint(copy)


def test_all_damaged_is_no_checkpoint_and_a_line_for_each(tmp_path):
    for number in (1, 2):
        path = save_checkpoint(tmp_path, checkpoint(number), keep=2)
        (path / "state.json").write_text("torn")
    found, lines = load_newest(tmp_path)
    assert found is None
    assert ["round_000002" in lines[0], "round_000001" in lines[1]] == [True, True]


def test_a_crash_while_writing_leaves_the_one_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, checkpoint(1), keep=2)

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr("rolora.records.checkpoint.os.replace", crash)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, checkpoint(2), keep=2)
    monkeypatch.undo()
    assert [path.name for path in checkpoints(tmp_path)] == ["round_000001"]
    assert same(load_newest(tmp_path)[0], checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(2), keep=2)  # what the crash left is no obstacle
    assert same(load_newest(tmp_path)[0], checkpoint(2))


def test_no_pickle_is_written(two):
    for path in checkpoints(two):
        json.loads((path / "state.json").read_text())
        length = int.from_bytes((path / "tensors.safetensors").read_bytes()[:8], "little")
        json.loads((path / "tensors.safetensors").read_bytes()[8 : 8 + length])


# Pieces ------------------------------------------------------------------------------------


def kept_by(client, version=0):
    generator = torch.Generator().manual_seed(1000 * client + version)
    return {f"parts/{client}/m.{i}::B": torch.randn(64, 2, generator=generator) for i in range(3)}


def of_clients(number, versions):
    """A checkpoint of clients of which each keeps what it has by its version."""
    engine = {}
    for client, version in versions.items():
        engine |= kept_by(client, version)
    lines = [json.dumps({"round": i}) for i in range(1, number + 1)]
    return replace(checkpoint(number), engine=engine, metrics=lines)


def pieces(directory):
    return {path.name for path in (directory / "pieces").iterdir()}


def test_only_what_changed_is_written(tmp_path, monkeypatch):
    written = []

    def counting(path, content):
        written.append((path.parent.name, len(content)))
        write_atomic(path, content)

    monkeypatch.setattr("rolora.records.checkpoint.write_atomic", counting)
    versions = dict.fromkeys(range(100), 0)
    save_checkpoint(tmp_path, of_clients(1, versions), keep=2)
    whole = sum(size for _, size in written)
    for number in range(2, 5):
        written.clear()
        versions |= dict.fromkeys(range(5 * number, 5 * number + 5), number)
        path = save_checkpoint(tmp_path, of_clients(number, versions), keep=2)
        assert [where for where, _ in written].count("pieces") == 5
        assert sum(size for _, size in written) < whole / 5
        assert same(load_checkpoint(path), of_clients(number, versions))
    assert pieces(tmp_path) == named(path) | named(tmp_path / "round_000003")
    assert len(pieces(tmp_path)) == 105


def test_a_damaged_piece_is_not_taken_for_written(tmp_path):
    """The run that goes on from an earlier checkpoint comes to the same content again."""
    save_checkpoint(tmp_path, of_clients(1, {0: 0}), keep=2)
    save_checkpoint(tmp_path, of_clients(2, {0: 1}), keep=2)
    [new] = named(tmp_path / "round_000002") - named(tmp_path / "round_000001")
    (tmp_path / "pieces" / new).write_bytes(b"torn")
    assert load_newest(tmp_path)[0].state.round == 1
    save_checkpoint(tmp_path, of_clients(2, {0: 1}), keep=2)
    assert same(load_newest(tmp_path)[0], of_clients(2, {0: 1}))


def test_what_was_passed_over_does_not_outlive_what_comes_after(tmp_path):
    for number in (1, 8):
        save_checkpoint(tmp_path, checkpoint(number), keep=2)
    (tmp_path / "round_000008/state.json").write_text("torn")
    save_checkpoint(tmp_path, checkpoint(2), keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["round_000002"]


class Killed(BaseException):
    pass


STEPS = ("write_atomic", "os.replace", "_sync", "shutil.rmtree", "_share", "_drop", "_shared_names")


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_moment_leaves_a_sound_checkpoint(tmp_path, step, keep):
    """Stop before and after each of the operations of a save, at every time that it is done."""
    whole = {n: of_clients(n, {0: n // 2, 1: 0, 2: n}) for n in range(300, 304)}
    moment = 0
    while True:
        directory = tmp_path / str(moment)
        for number in (300, 301):
            save_checkpoint(directory, whole[number], keep)
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, f"rolora.records.checkpoint.{step}", moment)
            try:
                save_checkpoint(directory, whole[302], keep)
                break
            except Killed:
                pass
        found, damaged = load_newest(directory)
        assert damaged == []
        assert found.state.round in (301, 302)
        assert same(found, whole[found.state.round])
        save_checkpoint(directory, whole[303], keep)
        assert same(load_newest(directory)[0], whole[303])
        assert pieces(directory) == set().union(*map(named, checkpoints(directory)))
        moment += 1
    assert moment >= 2


def stop_at(patch, name, moment):
    """Have the function raise at its `moment`-th half: even ones before it acts, odd ones after."""
    original, left = locate(name), moment

    def stopping(*arguments, **options):
        nonlocal left
        for act in (lambda: None, lambda: original(*arguments, **options)):
            result = act()
            left -= 1
            if left == -1:
                raise Killed
        return result

    patch.setattr(name, stopping)


# Schemas -----------------------------------------------------------------------------------


def sealed(path, change):
    """Change the body of a checkpoint's state and seal it again."""
    body = json.loads(json.loads((path / "state.json").read_text())["body"])
    text = json.dumps(change(body), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (path / "state.json").write_text(json.dumps({"sha256": digest, "body": text}))


def test_a_newer_schema_is_refused_by_name(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    path = save_checkpoint(tmp_path, checkpoint(2), keep=2)
    sealed(path, lambda body: body | {"schema": 3})
    with pytest.raises(BadInput, match=r"round_000002/state.json: schema = 3: written by a newer"):
        load_newest(tmp_path)


def test_a_checkpoint_of_schema_1_is_read(tmp_path):
    expected = checkpoint(3)
    path = save_checkpoint(tmp_path, replace(expected, engine={}, metrics=None), keep=2)
    tensors = load_file(path / "tensors.safetensors")
    tensors |= {f"engine/{name}": tensor for name, tensor in expected.engine.items()}
    save_file(tensors, path / "tensors.safetensors")
    digest = hashlib.sha256((path / "tensors.safetensors").read_bytes()).hexdigest()
    new = ("schema", "engine", "metrics")
    sealed(
        path,
        lambda body: {k: v for k, v in body.items() if k not in new} | {"tensors_sha256": digest},
    )
    found = load_checkpoint(path)
    assert found.metrics is None
    assert same(found, replace(expected, metrics=None))
