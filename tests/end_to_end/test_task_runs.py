"""Every task from the command line: a run, what it leaves, and the exported model."""

import csv
import json

import pytest
import torch
import yaml
from test_end_to_end import rolora
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rolora.config import load_config
from rolora.engines.preparation import prepare

TASKS = {
    "classification": {"name": "classification"},
    "regression": {"name": "regression", "range": [0, 3]},
    "multilabel": {"name": "multilabel"},
}
OUTPUTS = {"classification": 4, "regression": 1, "multilabel": 3}
TYPES = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multilabel": "multi_label_classification",
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """240 pairs of texts; how many of w1, w2 and w3 are in the first, and which."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    generator = torch.Generator().manual_seed(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["first", "second", *TASKS])
        for _ in range(240):
            marks = [f"w{k}" for k in (1, 2, 3) if torch.rand(1, generator=generator) < 0.5]
            words = torch.randint(6, 60, (4,), generator=generator).tolist()
            first, second = [*marks, *(f"w{w}" for w in words[:2])], [f"w{w}" for w in words[2:]]
            row = (len(marks), len(marks), "|".join(marks))
            writer.writerow([" ".join(first), " ".join(second), *row])
    return path


@pytest.fixture
def project(tmp_path, pairs, bert, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(task):
        columns = {"text": "first", "text_pair": "second", "label": task}
        config = {
            "rounds": 6,
            "model": {"name": bert, "device": "cpu"},
            "lora": {"r": 2, "lora_alpha": 8},
            "data": {"path": str(pairs), **columns, "max_length": 16},
            "task": TASKS[task],
            "federation": {"clients": 3},
            "optimizer": {"lr": 0.02, "local_steps": 6, "batch_size": 8},
            "evaluation": {"every": 3},
            "engine": {"workers": 1},
        }
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
        return tmp_path

    return write


@pytest.mark.parametrize("method", ["rolora", "fedsa_lora"])
@pytest.mark.parametrize("task", TASKS)
def test_a_run_learns_and_its_export_answers(project, task, method):
    directory = project(task)
    assert rolora("run", "small.yaml", f"method.name={method}", "--out", "r") == 0
    run = directory / "r"
    config = load_config(run / "config.yaml")
    assert config.task.model_dump(mode="json") == TASKS[task]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    prepared = prepare(config)
    names = [metric.name for metric in prepared.task.metrics]
    assert [line["validation"] is not None for line in lines] == [False, False, True] * 2
    assert list(lines[-1]["validation"]) == names
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["final"]["test"]) == names
    assert summary["final"]["test"]["loss"] < summary["constant"]["loss"]
    assert summary["test_examples"] == sum(row["examples"] for row in summary["clients"])

    assert rolora("export", "r", "--merge", "merged") == 0
    merged = AutoModelForSequenceClassification.from_pretrained(directory / "merged").eval()
    assert merged.config.problem_type == TYPES[task]
    tokenizer = AutoTokenizer.from_pretrained(directory / "merged")
    batch = tokenizer(["w1 w2 w9", "w8"], ["w7", "w7"], padding=True, return_tensors="pt")
    with torch.no_grad():
        answer = merged(**batch).logits
    assert answer.shape == (2, OUTPUTS[task])
    if method == "rolora":
        with torch.no_grad():
            rows = torch.arange(len(prepared.examples["test"]))
            logits = merged(**prepared.examples["test"].batch(rows)).logits
        targets, made = prepared.examples["test"].targets, prepared.task
        scores = made.scores(
            made.sums(made.outcome(logits, targets), targets, prepared.examples["test"].names)
        )
        assert scores == pytest.approx(summary["final"]["test"], abs=1e-4)


def test_a_run_goes_on_to_the_same(project):
    directory = project("regression")
    assert rolora("run", "small.yaml", "--out", "whole") == 0
    assert rolora("run", "small.yaml", "rounds=3", "--out", "parts") == 0
    assert rolora("run", "small.yaml", "rounds=6", "--out", "parts", "--resume") == 0
    one, other = (
        (directory / name / "adapter" / "adapter_model.safetensors").read_bytes()
        for name in ("whole", "parts")
    )
    assert one == other


def test_a_task_is_checked_before_anything_is_loaded(project, capsys):
    directory = project("regression")
    options = ["task.range=null", "model.name=no/such/model", "data.path=nowhere.csv"]
    assert rolora("run", "small.yaml", *options, "--out", "r") == 2
    assert "task: range" in capsys.readouterr().err
    assert rolora("run", "small.yaml", "task.name=multilable", "--out", "r") == 2
    assert "did you mean multilabel?" in capsys.readouterr().err
    assert not (directory / "r").exists()


def test_validate_says_what_is_learned(project, capsys):
    project("multilabel")
    assert rolora("validate", "small.yaml") == 0
    assert "multilabel of w1, w2, w3" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["dirichlet", "shards", "iid"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_dealt(project, task, name):
    config = load_config(project(task) / "small.yaml", [f"partition.name={name}"])
    prepared = prepare(config)
    facts = prepared.facts()
    assert sum(map(sum, facts.strata_table)) == facts.examples["train"]
    assert all(len(row) == len(facts.strata) for row in facts.strata_table)
    rows = torch.cat(list(prepared.shares["test"]))
    assert sorted(rows.tolist()) == list(range(facts.examples["test"]))
