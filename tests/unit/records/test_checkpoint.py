"""Checkpoints: whole or not at all, and never trusted when damaged."""

import json
import os
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rolora.core.types import EMPTY, Adapter, ServerState
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
    name = data.draw(st.sampled_from(FILES))
    newest = two / "round_000002"
    kept = {file: (newest / file).read_bytes() for file in FILES}
    try:
        damage(newest / name, data)
        if (newest / name).exists() and (newest / name).read_bytes() == kept[name]:
            return  # zeros written over zeros
        with pytest.raises(DamagedCheckpoint) as error:
            load_checkpoint(newest)
        assert str(newest / name) in str(error.value)
        found, passed_over = load_newest(two)
        assert same(found, checkpoint(1))
        assert len(passed_over) == 1
        assert str(newest / name) in passed_over[0]
    finally:
        for file, content in kept.items():
            (newest / file).write_bytes(content)


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
