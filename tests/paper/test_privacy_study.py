"""The comparison under differential privacy: what is run, how it is told."""

from __future__ import annotations

import math

import pytest
from invented import SPREAD, run, says_all, settings
from test_preset import ending

from experiments.privacy.config import LINES, RECOMMENDED, ROLORA, PrivacyStudy, run_of, title_of
from experiments.privacy.report import claims, p_values, summary, tables
from experiments.privacy.runs import Line
from federated import write_run
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_overrides
from rolora.engines.preparation import checked_method


@pytest.mark.parametrize("unit", ["client", "example"])
@pytest.mark.parametrize("method", LINES)
def test_every_line_is_a_sound_run_of_its_epsilon(method, unit):
    study = PrivacyStudy(unit=unit)
    config = run_of(study, method, 3.0, 5e-3, 1)
    assert checked_method(config)
    assert config.privacy.target_epsilon == 3.0
    assert config.privacy.seed == 1
    assert (config.optimizer.state == "transport") == (method == RECOMMENDED)
    plain = run_of(study, method, math.inf, 5e-3, 1)
    assert plain.privacy is None
    assert plain.model_copy(update={"privacy": config.privacy}) == config


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("methods=[rolora,flora]", "methods"),
        ("tuning_seeds=[4,5]", "tuning_seeds"),
        ("epsilons=[1,1]", "epsilons"),
        ("epsilons=[0]", "epsilons"),
        ("rates=[0.01,0.005]", "rates"),
    ],
)
def test_settings_that_would_not_be_fair_are_refused(override, named):
    with pytest.raises(BadInput, match=named):
        parse_overrides(PrivacyStudy, [override], "privacy")


def line(method, epsilon, mean, scale=1.0):
    ends = [ending(mean + scale * s) for s in SPREAD]
    return Line(method, epsilon, 5e-3, [2.5e-3, 5e-3, 1e-2], ends)


def test_rolora_is_judged_against_each_by_corrected_tests_within_an_epsilon():
    study = PrivacyStudy(methods=(ROLORA, "fedit", "ffa_lora"), epsilons=(1.0, math.inf))
    lines = {
        (one.method, one.epsilon): one
        for epsilon in study.epsilons
        for one in (
            line(ROLORA, epsilon, 0.75),
            line("fedit", epsilon, 0.65, scale=0.5),
            line("ffa_lora", epsilon, 0.75, scale=0.5),
        )
    }
    found = {claim.text: claim.standing for claim in claims(study, lines)}
    assert found[f"RoLoRA ends above {title_of('fedit')} (epsilon 1)"] == "holds"
    assert found["RoLoRA ends above FFA-LoRA (no privacy)"] == "not decided at this size"
    assert p_values(lines, 1.0)["fedit"] < 0.05
    assert [table.title for table in tables(study, lines)] == ["epsilon 1", "no privacy"]
    assert "not counted" in summary(study, lines)


def test_runs_are_made_and_told(model_dir, tmp_path):
    write_run(tmp_path, "any")
    sentences = tmp_path / "sentences.jsonl"
    small = settings(
        model=model_dir("bert"),
        data=f"{{path: {sentences}, text: sentence, label: verdict, max_length: 16}}",
        clients=2,
        rounds=2,
        local_steps=1,
        methods="[rolora,fedsvd]",
        epsilons="[3]",
        alpha="null",
        batch_size=100,  # all of a client's examples: the noise is solved at once
        rates="[0.01]",
        bounds="[0.01,0.01]",
        seeds="[0,1]",
        tuning_seeds="[100]",
    )
    first = run("privacy", small, tmp_path / "out")
    assert len(first.cells()) == 2 * (1 + 2)
    says_all(first)
    again = first.again()
    assert again.record()["results"] == first.record()["results"]
