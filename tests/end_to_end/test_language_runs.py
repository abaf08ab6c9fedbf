"""A language model from the command line: a run, what it leaves, and the exported model."""

import json
import random
import re

import pytest
import torch
import yaml
from test_end_to_end import rolora
from transformers import AutoModelForCausalLM, AutoTokenizer

from rolora import load_run
from rolora.config import load_config
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_section
from rolora.engines.flower.serve import load_site
from rolora.engines.flower.settings import SiteConfig
from rolora.engines.preparation import prepare


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Prompts whose last word says which word the answer repeats, and how often."""
    path, drawn = tmp_path_factory.mktemp("records") / "records.jsonl", random.Random(0)
    with path.open("w") as file:
        for i in range(240):
            k = drawn.randrange(4)
            words = [f"w{drawn.randrange(20, 60)}" for _ in range(drawn.randrange(1, 9))]
            completion = " ".join([f"w{k + 10}"] * (1 + 3 * k))
            row = {"prompt": " ".join([*words, f"w{k}"]), "completion": completion}
            file.write(json.dumps({**row, "subject": f"t{k}", "party": f"p{i % 3}"}) + "\n")
    return path


@pytest.fixture
def project(tmp_path, records, llama, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {
        "rounds": 6,
        "model": {"name": llama, "device": "cpu"},
        "lora": {"r": 2, "lora_alpha": 8},
        "data": {"path": str(records), "max_length": 16},
        "task": {"name": "causal_lm"},
        "federation": {"clients": 3},
        "optimizer": {"lr": 0.02, "local_steps": 6, "batch_size": 8},
        "evaluation": {"every": 3},
        "engine": {"workers": 1},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_a_run_learns_says_what_it_cut_and_its_export_scores_the_same(project, capsys):
    assert rolora("run", "small.yaml", "--out", "r") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "read as prompts and completions (prompt, completion)" in said
    assert "texts are longer than 16 tokens and were cut" in said
    assert "validation loss" in said
    summary = json.loads((project / "r" / "summary.json").read_text())
    lines = [json.loads(line) for line in (project / "r" / "metrics.jsonl").open()]
    final = summary["final"]["test"]
    assert list(final) == ["loss", "perplexity"]
    assert rolora("predict", "r", "--text", "w1") == 2
    assert "answers prompts; ask it by rolora chat" in " ".join(capsys.readouterr().err.split())
    assert final["loss"] < 0.8 * lines[0]["train_loss"]
    assert summary["data"]["cut"]["train"] > 0
    assert summary["test_examples"] == sum(row["examples"] for row in summary["clients"])
    page = (project / "r" / "report.html").read_text()
    assert "Perplexity" in page
    assert "Texts cut short" in page
    assert "onstant guess" not in page
    card = (project / "r" / "adapter" / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card
    assert "model.generate" in card

    assert load_run("r").evaluate(load_config("small.yaml").data.path)["loss"] < 5

    assert rolora("export", "r", "--merge", "merged") == 0
    merged = AutoModelForCausalLM.from_pretrained("merged").eval()
    assert AutoTokenizer.from_pretrained("merged").eos_token == "[EOS]"
    test = prepare(load_config("r/config.yaml")).examples["test"]
    batch = test.batch(torch.arange(len(test)))
    learned = batch.pop("learned").bool()
    with torch.no_grad():
        labels = batch["input_ids"].masked_fill(~learned, -100)
        loss = merged(**batch, labels=labels).loss
    assert float(loss) == pytest.approx(final["loss"], abs=1e-4)


def test_a_run_by_topics_goes_on_to_the_same(project):
    run = ["run", "small.yaml", "task.strata=topic", "task.topics=4"]
    assert rolora(*run, "--out", "whole") == 0
    assert rolora(*run, "rounds=3", "--out", "parts") == 0
    assert rolora(*run, "rounds=6", "--out", "parts", "--resume") == 0
    one, other = (
        (project / name / "adapter" / "adapter_model.safetensors").read_bytes()
        for name in ("whole", "parts")
    )
    assert one == other
    strata = load_run("whole").summary.strata
    assert len(strata.names) == 4
    assert all(re.fullmatch(r"w\d+, w\d+, w\d+", name) for name in strata.names)


def test_topics_are_refused_where_a_site_has_its_own_data(project, records):
    run = load_config("small.yaml", ["task.strata=topic", "task.topics=4"])
    site = {"server": "127.0.0.1:1", "client": 0, "data": {"path": str(records)}, "device": "cpu"}
    site["allow"] = {"models": [run.model.name], "tasks": ["causal_lm"]}
    with pytest.raises(BadInput, match="which no site of a federation sees"):
        load_site(parse_section(SiteConfig, site, "site"), run)


@pytest.mark.parametrize(
    "options",
    [
        ["task.strata=subject"],
        ["partition.name=field", "partition.field=party"],
        ["partition.name=shards"],
    ],
)
def test_clients_are_dealt_by_topic_by_party_or_by_length(project, options):
    prepared = prepare(load_config("small.yaml", options))
    facts = prepared.facts()
    assert all(len(row) == len(facts.strata) for row in facts.strata_table)
    assert sum(map(sum, facts.strata_table)) == facts.examples["train"]
    if "partition.field=party" in options:
        train, shares = prepared.examples["train"], prepared.shares["train"]
        assert [{train.fields["party"][i] for i in rows} for rows in shares] == [
            {"p0"},
            {"p1"},
            {"p2"},
        ]
    if "task.strata=subject" in options:
        assert list(facts.strata) == ["t0", "t1", "t2", "t3"]


def test_compare_chooses_the_lower_loss(project, capsys):
    assert rolora("compare", "small.yaml", "--methods", "rolora,ffa_lora", "rounds=2") == 0
    assert "loss" in capsys.readouterr().out


def test_a_trained_head_is_refused_by_name(project, capsys):
    assert rolora("run", "small.yaml", "model.head=train", "--out", "r") == 2
    assert "model.head = 'train': a language model's" in capsys.readouterr().err
