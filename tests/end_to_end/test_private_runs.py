"""Private runs as a person has them: what they leave, how they go on, when they end."""

from __future__ import annotations

import json
import shutil
import stat

import pytest
import torch
import yaml

from killed import (
    adapter,
    digest,
    killed_in_evaluation,
    metrics,
    running,
    watch_evaluations,
    words,
    write_project,
)
from rolora.core.types import Failure
from rolora.engines.in_process import InProcess
from rolora.records.checkpoint import load_newest
from rolora.records.rundir import KEY
from shell import rolora


@pytest.fixture
def project(tmp_path, bert, monkeypatch):
    """A folder with a config that runs in half a second."""
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path, bert)


CLIENT = ["privacy.clip=0.2", "server.weighting=uniform", "privacy.accountant=rdp"]
KINDS = {
    "clients": [*CLIENT, "privacy.noise_multiplier=0.5", "federation.clients_per_round=2"],
    "shares": [*CLIENT, "privacy.noise_multiplier=0.5", "privacy.noise=clients"],
    "examples": [*CLIENT, "privacy.noise_multiplier=0.5", "privacy.unit=example"],
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def run(out, *options, config="small.yaml"):
    assert rolora("run", config, *options, "--out", out) == 0
    return json.loads((out / "summary.json").read_text())


@every_kind
def test_a_private_run_tells_what_it_has_spent_and_leaves_its_adapter(project, kind, capsys):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    summary = run(project / "r", *KINDS[kind], "model.head=train")
    said = words(capsys.readouterr())
    spent = [line["epsilon"] for line in metrics(project / "r")]
    assert spent == sorted(spent)
    assert spent[0] > 0
    assert f"epsilon {spent[0]:.3g}" in said
    assert summary["privacy"]["epsilon"] == spent[-1]
    assert f"{spent[-1]:.3g}" in said
    assert rolora("report", project / "r") == 0
    page = (project / "r/report.html").read_text()
    assert f"epsilon {spent[-1]:.3g} a" in page
    told = [
        update["train_loss"] is not None for u in metrics(project / "r") for update in u["updates"]
    ]
    assert any(told) == (kind == "clients")  # where the noise is the clients', no loss is told
    checkpoint, _ = load_newest(project / "r/checkpoint")
    base = yaml.safe_load((project / "r/config.yaml").read_text())["model"]["name"]
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    loaded = PeftModel.from_pretrained(model, str(project / "r/adapter"))
    trained = checkpoint.state.parts
    for (module, part), tensor in trained.items():
        if part != "head":
            theirs = loaded.get_parameter(f"base_model.model.{module}.lora_{part}.default.weight")
            assert torch.equal(theirs, tensor)


@pytest.mark.parametrize("kind", ["shares", "examples"])
def test_a_killed_run_goes_on_with_the_same_noise(project, kind):
    """From one checkpoint two processes come to the same bits, though each key is secret."""
    with running(project / "r", *KINDS[kind], lines=3):
        pass
    rounds = f"rounds={len(metrics(project / 'r')) + 3}"
    shutil.copytree(project / "r", project / "twin")
    for name in ("r", "twin"):
        options = [*KINDS[kind], rounds, "--resume"]
        assert rolora("run", "small.yaml", *options, "--out", project / name) == 0
    assert adapter(project / "r") == adapter(project / "twin")
    assert metrics(project / "r") == metrics(project / "twin")


def test_a_run_that_goes_on_is_the_one_that_was_never_killed(project):
    options = KINDS["clients"]
    with running(project / "r", *options, lines=3):
        pass
    key = project / "r" / KEY
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    rounds = f"rounds={len(metrics(project / 'r')) + 2}"
    assert rolora("run", "small.yaml", *options, rounds, "--out", "r", "--resume") == 0
    (project / "whole").mkdir()
    shutil.copy(key, project / "whole")
    run(project / "whole", *options, rounds)
    assert adapter(project / "r") == adapter(project / "whole")
    assert metrics(project / "r") == metrics(project / "whole")
    run(project / "other", *options, rounds)  # with a key of its own
    assert adapter(project / "other") != adapter(project / "whole")


@pytest.mark.parametrize("kind", ["clients", "examples"])
def test_a_model_that_was_shown_before_a_kill_is_the_one_that_the_run_goes_on_with(
    project, kind, monkeypatch
):
    """Though a client does not answer any more: a round made anew without it would be a second
    release, of another noise, where one is counted.
    """
    all_asked = ["federation.clients_per_round=4", "federation.quorum=0.5"]
    options = [*KINDS[kind], *all_asked, "evaluation.every=1"]
    options = ["run", "small.yaml", *options, "--out", "r"]
    shown = killed_in_evaluation(2, *options)
    assert len(metrics(project / "r")) == 1

    seen, asked, plain = {}, [], InProcess.train
    watch_evaluations(
        lambda plan: seen.setdefault(plan.round - 1, digest(plan)), monkeypatch.setattr
    )

    def train(self, plans, *dealt):
        asked.append(plans[0].round)
        gone = [plan.client for plan in plans if plan.client == 0]
        yield from (Failure(client, "node_lost") for client in gone)
        yield from plain(self, [plan for plan in plans if plan.client != 0], *dealt)

    monkeypatch.setattr(InProcess, "train", train)
    assert rolora(*options, "--resume") == 0
    assert seen[2] == shown
    assert sorted(set(asked)) == [3, 4]
    told = metrics(project / "r")
    assert [line["round"] for line in told] == [1, 2, 3, 4]
    assert all(line["validation"] for line in told)


def test_without_its_key_a_run_does_not_go_on(project, capsys):
    run(project / "r", *KINDS["clients"])
    (project / "r" / KEY).unlink()
    assert rolora("run", "small.yaml", *KINDS["clients"], "rounds=6", "--out", "r", "--resume") == 2
    assert f"{KEY} is gone" in words(capsys.readouterr())


def test_a_target_is_met_by_noise_or_by_an_end(project, capsys):
    solved = run(project / "solved", *CLIENT, "privacy.target_epsilon=6")
    assert 5.9 < solved["privacy"]["epsilon"] <= 6.0
    assert solved["final"]["round"] == 4
    short = run(
        project / "short", *CLIENT, "privacy.target_epsilon=6", "privacy.noise_multiplier=1.5"
    )
    assert short["final"]["round"] < 4
    assert short["privacy"]["epsilon"] <= 6.0
    said = words(capsys.readouterr())
    assert f"privacy.target_epsilon = 6: ended after round {short['final']['round']} of 4" in said
    options = [*CLIENT, "privacy.target_epsilon=6", "rounds=8"]
    assert rolora("run", "small.yaml", *options, "--out", "solved", "--resume") == 2
    assert "rounds = 8, and was 4" in words(capsys.readouterr())
