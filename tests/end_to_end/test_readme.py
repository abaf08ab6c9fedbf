"""The README's commands, copied from the page and run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from sklearn.metrics import matthews_corrcoef
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import pages
import rolora as rolora_library
import small
from rolora.config import parse_config
from rolora.methods.ffa_lora import FFALoRA
from rolora.model.loading import build_lora_model, load_pretrained
from rolora.model.peft_format import save_adapter
from shell import rolora

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()


def blocks(language):
    return [block.text for block in pages.blocks(README, language)]


ELSEWHERE = re.compile(r"(federation|server|client|watch|run run.yaml)\b")
"""Commands that take other machines, or do not end: other tests run them, small."""


def commands():
    """Every other ``rolora`` line of the README, without its comment."""
    found = [command for block in blocks("sh") for command in pages.commands(block)]
    return [command for command in found if not ELSEWHERE.match(" ".join(command))]


def test_the_first_screen_is_a_sentence_a_command_and_a_result():
    title, sentence, command, rest = re.split(r"\n\n", README, maxsplit=3)
    assert title == "# rolora"
    assert sentence.count(".") == 1
    assert "make run" in command
    assert "test accuracy" in rest[:1500]


def test_the_config_on_the_page_is_valid():
    (text,) = blocks("yaml")
    assert parse_config(yaml.safe_load(text)).federation.clients == 3


LINKS = re.findall(r"\]\(([^)\s]+)\)", README)
AT = "https://github.com/rolora/rolora/blob/main/"


def test_links_are_absolute_for_the_package_index_and_lead_to_files_that_are_here():
    assert all(link.startswith("https://") for link in LINKS)
    ours = [link.removeprefix(AT).partition("#")[0] for link in LINKS if link.startswith(AT)]
    assert len(ours) > 10
    assert [path for path in ours if not (REPOSITORY / path).is_file()] == []
    elsewhere = [link for link in LINKS if "rolora/rolora" in link and not link.startswith(AT)]
    assert elsewhere == []


def test_the_lines_that_load_an_adapter_run(model_dir, tmp_path, monkeypatch):
    """As they stand, on an adapter of a small model."""
    config = small.config(model={"name": str(model_dir("bert"))})
    loaded = load_pretrained(config.model, ("no", "yes"), seed=0)
    model = build_lora_model(loaded, config)
    path = tmp_path / "runs/quickstart/adapter"
    save_adapter(path, model.initial_adapter(2, 0), model, loaded, config)
    monkeypatch.chdir(tmp_path)
    (code,) = [block for block in blocks("python") if "PeftModel" in block]
    left = {"BASE": config.model.name}
    exec(code, left)
    assert left["model"].config.id2label == {0: "no", 1: "yes"}
    assert left["tokenizer"]("w1")["input_ids"]


def test_make_and_the_plain_lines_agree():
    makefile = (REPOSITORY / "Makefile").read_text()
    for line in ('-c constraints.txt -e ".[demo]"', "run $(CONFIG)", "CONFIG ?= quickstart"):
        assert line in makefile
    assert '-c constraints.txt -e ".[demo]"' in README


def test_the_commands_of_the_page_go_together(tmp_path, monkeypatch, capsys, run_yaml):
    """In the page's order, by a config that runs in half a second; the comparison on one seed."""
    shutil.copy(run_yaml, tmp_path / "quickstart")  # a file comes before a preset
    monkeypatch.chdir(tmp_path)
    for command in commands():
        if command[0] == "compare":
            command = [*command[:-1], "0"]
        assert rolora(*command) == 0, (command, capsys.readouterr())
    assert (tmp_path / "runs/quickstart/report.html").exists()


def test_the_lines_of_python_run(tmp_path, monkeypatch, run_yaml, bert):
    """As they stand on the page, on three small clients' sentences and a tiny model."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(run_yaml, "quickstart")
    rows = pd.read_json(run_yaml.parent / "sentences.jsonl", lines=True)
    rows.to_csv("reviews.csv", index=False)
    named, objects = [block for block in blocks("python") if "rolora.run(" in block]
    exec(named, {})
    config = yaml.safe_load(run_yaml.read_text())
    del config["data"]["path"]
    parts = {"mine": rows[:60], "yours": rows[60:120].to_dict("records"), "theirs": rows[120:180]}
    exec(
        objects,
        {
            "rolora": rolora_library,
            "config": config,
            "model": AutoModelForSequenceClassification.from_pretrained(bert),
            "tokenizer": AutoTokenizer.from_pretrained(bert),
            "common": rows[180:],
            "one": rows,
            "MyMethod": type("MyMethod", (FFALoRA,), {}),
            "matthews_corrcoef": matthews_corrcoef,
            **parts,
        },
    )
    assert list(Path("tb").iterdir())
    assert (tmp_path / "runs/run-compare/comparison.md").exists()


@pytest.mark.docs
@pytest.mark.timeout(1500)
def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    """In the page's order; the comparison of twelve runs is cut to two short ones."""
    monkeypatch.chdir(tmp_path)
    first = next(c for c in commands() if c == ["run", "quickstart"])
    assert rolora(*first) == 0
    summary = json.loads((tmp_path / "runs/quickstart/summary.json").read_text())
    assert summary["final"]["test"]["accuracy"] >= 0.72
    for command in commands():
        if command == first:
            continue
        if "method.gauge=orthonormal" in command:
            command = [*command, "rounds=2"]
        if command[0] == "compare":
            command = [*command[:-1], "0", "rounds=1", "--methods", "rolora,fedit"]
        assert rolora(*command) == 0, (command, capsys.readouterr())
