"""The table of what is read off updates, and a small one."""

from __future__ import annotations

import pytest
import torch
from invented import SPREAD, run, says_all, settings

from experiments.reconstruction.config import (
    DEFENCES,
    NONE,
    Case,
    Defence,
    ReconstructionConfig,
)
from experiments.reconstruction.figure import KINDS, figures
from experiments.reconstruction.report import claims, summary, tables
from experiments.reconstruction.runs import Result, observed
from federated import write_run
from rolora.attacks.reconstruction import Upload
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_overrides
from rolora.core.types import Adapter


def test_undefended_at_every_rank_and_behind_every_defence_at_some():
    config = ReconstructionConfig(ranks=(4, 64), defended=("A",), seeds=(0,), batches=(1, 4))
    cases = list(config.cases())
    assert len(cases) == len(set(cases)) == 2 * (len(DEFENCES) + 3)
    behind = {(case.factor, case.rank) for case in cases if case.defence != NONE}
    assert behind == {("A", 4)}


def test_the_picture_has_a_place_for_every_defence_and_leaves_out_what_is_not_there():
    shown = [NONE, *(defence for kind in KINDS.values() for defence in kind)]
    assert sorted(shown) == sorted(DEFENCES)
    config = ReconstructionConfig(defences=(NONE, "int8"), batches=(1, 4), seeds=(0,))
    found = {Case("A", 4, batch, NONE, 0): read_back(0.9) for batch in (1, 4)}
    found[Case("A", 4, 1, "int8", 0)] = read_back(0.6)
    picture, _ = figures(config, found)["reconstruction"]
    assert [axes.get_title("left") for axes in picture.axes] == [
        "undefended",
        *(f"A, rank 4: {kind}" for kind in KINDS),
    ]
    lines = {
        line.get_label(): list(line.lines[0].get_ydata()) for line in picture.axes[2].containers
    }
    assert lines == {"one step of SGD": [0.9, 0.9], "int8": [0.6]}
    assert figures(config, {}) == {}


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("defences=[sums]", "defences = 'sums'"),
        ("defended=[C]", "defended"),
        ("before=3", "before"),
    ],
)
def test_a_wrong_setting_is_refused(override, named):
    with pytest.raises(BadInput, match=named):
        parse_overrides(ReconstructionConfig, [override], "reconstruction")


def test_what_is_seen_behind_a_defence():
    def upload(value):
        given = Adapter.of({("m", "A"): torch.full((50, 80), value)})
        return Upload(given, given, torch.tensor([0]))

    change, noise = observed([upload(1.0), upload(2.0)], Defence("sum", sites=2), 0)
    assert (change.flat == 3.0).all()
    assert noise == 0.0
    change, noise = observed([upload(1.0)], Defence("noise", noise=0.1), 0)
    assert noise == pytest.approx(0.1 * 4000**0.5)
    assert float((change.flat - 1.0).std()) == pytest.approx(noise, rel=0.05)
    change, noise = observed([upload(127.0)], Defence("int8", int8=True), 0)
    assert (change.flat == 127.0).all()
    assert noise == pytest.approx(6**-0.5)


def read_back(found):
    return Result(found=found, right=0.8, guessed=0.2, tokens=20.0, seconds=1.0)


def test_claims_are_against_a_guess_and_against_no_defence():
    config = ReconstructionConfig(
        factors=("A",), ranks=(64,), defended=("A",), batches=(1,), defences=(NONE, "int8", "sum_2")
    )
    found = {}
    for scale, (defence, mean) in enumerate(((NONE, 0.9), ("int8", 0.5), ("sum_2", 0.9)), start=1):
        for seed, extra in enumerate(SPREAD):
            found[Case("A", 64, 1, defence, seed)] = read_back(mean + scale * extra)
    standing = [claim.standing for claim in claims(config, found)]
    assert standing == ["holds", "holds", "not decided at this size"]
    undefended, defended = tables(config, found)
    assert undefended.rows[0][1].endswith("(80)")
    assert [row[0] for row in defended.rows] == [DEFENCES[d].label for d in config.defences]
    assert "All is here" in summary(config, found)


def test_batches_of_a_small_run_are_read(model_dir, tmp_path):
    write_run(tmp_path, "any")
    sentences = tmp_path / "sentences.jsonl"
    small = settings(
        model=f"{{name: {model_dir('bert')}}}",
        data=f"{{path: {sentences}, text: sentence, label: verdict}}",
        length=16,
        before=2,
        sites=2,
        ranks="[16,2]",
        batches="[1]",
        defences="[none,noise_0.1,int8]",
        seeds="[0]",
    )
    out = tmp_path / "out"
    first = run("reconstruction", small, out)
    assert len(first.cells()) == 3 + 3
    says_all(first)
    by_place = {
        (one["factor"], one["rank"], one["defence"]): one["found"]
        for one in first.record()["results"]["readings"]
    }
    assert by_place["A", 16, NONE] == 1.0
    assert by_place["A", 16, "noise_0.1"] < 0.7
    assert by_place["B", 2, NONE] == 0.0
    again = run("reconstruction", [*small, "finished=true"], out)
    assert again.record()["results"] == first.record()["results"]
