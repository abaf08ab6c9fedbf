"""The table of attacks: what is run in which order, what is told, and a small one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from invented import SPREAD, run, says_all, settings

import small
from experiments.attacks.config import DEFENCES, NONE, AttacksConfig, Case
from experiments.attacks.figure import figures
from experiments.attacks.report import HELD_BY, claims, summary, tables
from experiments.attacks.runs import Pooled, Result, trial_of
from federated import write_run
from rolora.attacks import ATTACKS
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_overrides
from rolora.reducers import REDUCERS


def test_every_attack_and_every_reducer_has_its_place():
    config = AttacksConfig()
    assert set(config.attacks) == set(ATTACKS)
    assert {defence.reducer for defence in DEFENCES.values()} == set(REDUCERS)
    assert set(HELD_BY) <= set(ATTACKS)
    assert set(HELD_BY.values()) <= set(DEFENCES)


def test_the_most_telling_comes_first_and_nothing_twice():
    config = AttacksConfig()
    waves = list(config.waves())
    every = [case for wave in waves for case in wave]
    assert len(every) == len(set(every))
    assert {(case.defence, case.fraction, case.seed) for case in waves[0]} == {
        (NONE, fraction, 0) for fraction in (0.2, 0.4)
    }
    assert {case.attack for case in waves[0]} == {None, *ATTACKS}
    assert {case.fraction for case in waves[1]} == {0.2}
    assert [{case.seed for case in wave} for wave in waves] == [
        {seed} for seed in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, *range(5), *range(5), *range(5))
    ]
    others = [{case.fraction for case in wave} for wave in waves[10:]]
    assert others == [*[{0.4}] * 5, *[{0.3}] * 5, *[{0.1}] * 5]
    places = {(case.defence, case.fraction) for case in every}
    # Of ten clients four are too many for Krum.
    assert {(d, 0.4) for d in DEFENCES} - places == {("krum", 0.4), ("multi_krum", 0.4)}
    assert len(every) == 5 * 8 * (9 * 4 - 2)


def test_with_nobody_hostile_a_rule_that_is_told_nothing_is_one_cell():
    config = AttacksConfig()

    def cells(defence):
        trials = [trial_of(config, Case(None, f, defence, 0)) for f in config.fractions]
        return {(trial.name, str(trial.settings())) for trial in trials}

    assert len(cells("median")) == 1
    assert len(cells("trimmed_mean")) == 4


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("attacks=[sign_flop]", "attacks = 'sign_flop'.*sign_flip"),
        ("defences=[krumm]", "defences = 'krumm'.*krum"),
        ("fractions=[0.5]", "fractions"),
        ("seeds=[1,1]", "seeds"),
    ],
)
def test_a_wrong_setting_is_refused(override, named):
    with pytest.raises(BadInput, match=named):
        parse_overrides(AttacksConfig, [override], "attacks")


def ended(accuracy, obeyed=0.1):
    return Result(
        accuracy=accuracy, obeyed=obeyed, refused_hostile=2, refused_honest=1, seconds=1.0
    )


def planted(**means):
    """Results at a fifth, of ``attack__defence``, each with a spread of its own; `nobody` is no
    attack.
    """
    found = {}
    for scale, (place, mean) in enumerate(means.items(), start=1):
        attack, defence = place.split("__")
        for seed, extra in enumerate(SPREAD):
            case = Case(None if attack == "nobody" else attack, 0.2, defence, seed)
            value = mean + scale * extra / 4
            found[case] = ended(value, obeyed=value)
    return found


def test_claims_compare_with_nobody_hostile_and_with_no_defence():
    config = AttacksConfig(attacks=("sign_flip", "backdoor"))
    found = planted(
        nobody__mean=0.7,
        sign_flip__mean=0.5,
        sign_flip__median=0.69,
        backdoor__mean=0.9,
        backdoor__multi_krum=0.9,
    )
    standing = {claim.text.split(" (")[0]: claim.standing for claim in claims(config, found)}
    assert standing == {
        "sign_flip: the plain mean ends below itself with nobody hostile": "holds",
        "sign_flip: median ends above the mean": "holds",
        "backdoor: the phrase is obeyed more often, under the plain mean": "holds",
        "backdoor: multi-Krum obeys the phrase less often than the mean": (
            "not decided at this size"
        ),
    }
    few = {case: result for case, result in found.items() if case.seed < 3}
    assert {claim.standing for claim in claims(config, few)} == {"not decided at this size"}


def test_tables_say_what_failed_and_what_is_missing():
    config = AttacksConfig(attacks=("scaled",), defences=("mean", "judged"), fractions=(0.2,))
    found = planted(nobody__mean=0.7, scaled__judged=0.6)
    found[Case("scaled", 0.2, "mean", 0)] = ended(None)
    first, *_, refused = tables(config, found)
    assert first.rows[0][1].startswith("70 ")
    assert first.rows[0][2] == "-"
    assert first.rows[1][1] == "50 (n = 1)"
    assert refused.rows == (("scaled", "20%", "2.0", "1.0"),)
    assert "(1 did)" in summary(config, found)
    assert "9 of 20 places are not finished" in summary(config, found)
    picture, _ = figures(config, found)["attacks"]
    lines = {line.get_label(): list(line.get_xdata()) for line in picture.axes[0].lines}
    assert lines == {"mean": [0.0], "mean, judged": [20.0]}  # of one seed alone nothing is drawn
    assert figures(config, {}) == {}


def test_means_of_token_states_are_asked_for_once_a_text(model_dir):
    own = {"target_modules": ["pooler.dense"]}
    config = small.config(model={"name": str(model_dir("bert"))}, lora=own)
    task = small.CLASSIFICATION
    model = task.adapted(task.backbone(config.model, ("no", "yes"), 0), config)
    data, states = small.text_examples(12), {}
    pooled = Pooled(task.options, states)
    rows = torch.tensor([3, 3, 7, 1])
    with torch.no_grad():
        found, targets = pooled.outputs(model, data, rows, True)
        batch = data.batch(rows)
        body = model.module.bert
        hidden = body.embeddings(batch["input_ids"])
        seen = batch["attention_mask"].bool()
        for layer in body.encoder.layer[:-1]:
            hidden = layer(hidden, seen[:, None, None, :].expand(-1, 1, seen.shape[1], -1))
        mask = seen[:, :, None].float()
        means = (hidden * mask).sum(1) / mask.sum(1)
        expected = model.module.classifier(body.pooler(means[:, None]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(targets, data.targets[rows])
    kept = dict(states)
    assert len(kept) == len(set(data.keys(torch.arange(12))))
    pooled.outputs(model, replace(data, targets=1 - data.targets), rows, True)
    assert all(states[key] is kept[key] for key in states)
    assert len(states) == len(kept)


def test_runs_are_kept_and_told_of_without_running(model_dir, tmp_path):
    write_run(tmp_path, "any")
    sentences = tmp_path / "sentences.jsonl"
    given = settings(
        model=model_dir("bert"),
        data=f"{{path: {sentences}, text: sentence, label: verdict, max_length: 20}}",
        clients=5,
        rounds=2,
        local_steps=1,
        attacks="[scaled,backdoor]",
        defences="[mean,krum]",
        fractions="[0.2,0.4]",
        seeds="[0,1]",
    )
    out = tmp_path / "out"
    first = run("attacks", given, out)
    # Mean: nobody once, two attacks by two fractions; Krum at a fifth alone.
    assert len(first.cells()) == 2 * (1 + 4 + 3)
    says_all(first)
    assert "too few clients" in first.page()
    again = run("attacks", [*given, "finished=true"], out)
    assert again.record()["results"] == first.record()["results"]
    next((out / "cells").glob("scaled_0.4_mean_seed=1*")).unlink()
    part = run("attacks", [*given, "finished=true"], out)
    assert "1 of 18 places are not finished" in part.page()
