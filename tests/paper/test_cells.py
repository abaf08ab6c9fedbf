"""Finished cells: kept, found again, and run again where they are damaged."""

import re

import pytest

from experiments.cells import Cells


def test_a_finished_cell_is_not_run_again(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"x": [0.1, 1 / 3, 1e-300], "none": None}

    first = Cells(tmp_path).run("lr 0.1, seed 3", {"lr": 0.1, "seed": 3}, work)
    second = Cells(tmp_path).run("lr 0.1, seed 3", {"seed": 3, "lr": 0.1}, work)
    assert first == second == work()
    assert len(calls) == 2  # the third call is this test's own
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"lr_0\.1_seed_3-[0-9a-f]{12}\.json", file.name)


def test_other_settings_are_another_cell(tmp_path):
    cells = Cells(tmp_path)
    results = [cells.run("one", {"lr": lr}, lambda lr=lr: lr) for lr in (0.1, 0.2)]
    assert results == [0.1, 0.2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("41", "42"),
        lambda text: "[]",
        lambda text: "",
        lambda text: "\x00\xff" * 20,
        lambda text: text.replace('"result"', '"results"'),
    ],
    ids=["cut", "changed", "list", "empty", "binary", "no result"],
)
def test_a_damaged_cell_is_named_and_run_again(tmp_path, damage):
    said = []
    cells = Cells(tmp_path, said.append)
    cells.run("one", {"seed": 1}, lambda: {"accuracy": 0.41})
    path = cells.path("one", {"seed": 1})
    path.write_text(damage(path.read_text()), encoding="latin-1")
    assert cells.run("one", {"seed": 1}, lambda: {"accuracy": 0.5}) == {"accuracy": 0.5}
    assert len(said) == 1
    assert path.name in said[0]
    assert "damaged" in said[0]
    assert cells.run("one", {"seed": 1}, lambda: None) == {"accuracy": 0.5}


def test_an_interrupted_cell_leaves_no_file(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path).run("one", {}, interrupted)
    assert not list(tmp_path.iterdir())


def test_a_result_that_json_cannot_hold_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        Cells(tmp_path).run("one", {}, lambda: {1, 2})
    assert not list(tmp_path.iterdir())
