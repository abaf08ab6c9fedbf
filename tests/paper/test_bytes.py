"""Accuracy over bytes: what is run, what is told."""

from __future__ import annotations

import pytest
from invented import SPREAD, run, says_all, settings

from experiments.bytes.config import CODINGS, PLAIN, BytesConfig, run_of
from experiments.bytes.figure import figures
from experiments.bytes.report import Line, claims, coded, summary, tables
from experiments.short_runs import TrialResult
from federated import write_run
from rolora.config import load_config
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_overrides


def test_the_plain_run_is_the_preset_paper_in_one_layer_with_half_of_its_steps():
    ours = run_of(BytesConfig(), PLAIN, 0).model_dump(exclude={"engine"})
    wanted = load_config("paper", ["lora.layers='5'", "optimizer.local_steps=5"])
    assert ours == wanted.model_dump(exclude={"engine"})


@pytest.mark.parametrize("coding", CODINGS.values(), ids=CODINGS)
def test_a_coding_changes_what_travels_and_nothing_else(coding):
    plain, ours = (run_of(BytesConfig(), one, 3).model_dump(mode="json") for one in (PLAIN, coding))
    up, down = ours.pop("stages"), ours["server"].pop("stages")
    assert (len(up), len(down)) == (len(coding.up), len(coding.down))
    assert plain.pop("stages") == plain["server"].pop("stages") == []
    assert ours == plain


def test_a_coding_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match=r"codings: 'int5' is none .did you mean int"):
        parse_overrides(BytesConfig, ["codings=[int5]"], "bytes")
    assert [c.key for c in BytesConfig(codings=("int8",)).compared()] == ["plain", "int8"]


def ending(test, up, down) -> TrialResult:
    return TrialResult(
        rounds=[8, 16],
        accuracy=[0.6, test],
        test_accuracy=test,
        diverged=False,
        bytes_up=up,
        bytes_down=down,
        seconds=1.0,
        bytes_up_by_round=[up // 2, up],
        client_accuracy=None,
        constant=0.5,
        top_share=0.5,
    )


def line(key, mean, share, scale=1.0):
    up, down = round(1000 * share), round(1200 * share)
    return Line(CODINGS[key], [ending(mean + scale * s, up, down) for s in SPREAD])


@pytest.mark.parametrize(
    ("mean", "scale", "standing"),
    [
        (0.7, 0.9, "holds"),
        (0.698, 0.9, "holds"),
        (0.68, 0.9, "does not hold"),
        (0.7, -1.0, "not decided at this size"),
    ],
)
def test_a_quarter_of_the_bytes_is_judged_by_half_a_point(mean, scale, standing):
    lines = {PLAIN.key: line("plain", 0.7, 1.0), "int4": line("int4", mean, 0.2, scale)}
    lines["int8"] = line("int8", mean, 0.3, scale)  # more than a quarter: of it nothing is claimed
    [claim] = claims(lines)
    assert claim.text.startswith("4 bits")
    assert claim.standing == standing
    assert claim.evidence.startswith("20.0 % of the bytes")
    few = {key: Line(one.coding, one.final[:3]) for key, one in lines.items()}
    assert next(claims(few)).standing == "not decided at this size"


def test_the_table_has_the_fewest_bytes_last():
    lines = {key: line(key, 0.7, 1 / (n + 1)) for n, key in enumerate(CODINGS)}
    assert [one.coding.key for one in coded(lines)] == [*CODINGS][1:]
    rows = tables(lines).rows
    assert [row[0] for row in rows] == [coding.label for coding in CODINGS.values()]
    assert [row[-1] for row in rows[:2]] == ["100.0 %", "50.0 %"]
    assert list(figures(lines)) == ["bytes"]
    assert "5 seeds" in summary(BytesConfig(), lines)


def test_runs_are_kept_and_told_of(model_dir, tmp_path):
    write_run(tmp_path, "any")
    small = settings(
        model=model_dir("bert"),
        layers="1-2",
        data=f"{{path: {tmp_path / 'sentences.jsonl'}, text: sentence, label: verdict, "
        "max_length: 16}",
        clients=2,
        rounds=24,
        local_steps=1,
        seeds="[0,1]",
        codings="[top2]",
    )
    first = run("bytes", small, tmp_path / "out")
    assert len(first.cells()) == 2 * 2
    says_all(first)
    by_key = {one["coding"]: one["seeds"][0] for one in first.record()["results"]["lines"]}
    for way in ("bytes_up", "bytes_down"):
        assert by_key["top2"][way] < by_key["plain"][way]
    assert run("bytes", small, tmp_path / "out").record()["results"] == first.record()["results"]
