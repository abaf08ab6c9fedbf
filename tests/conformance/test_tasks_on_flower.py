"""Every task across sites gives what it gives on the simulator, and nobody's sums are believed."""

import json

import pytest

pytest.importorskip("flwr")

import torch
import yaml

from federated import (
    assert_same_run,
    connect_locally,
    federate,
    handler,
    lines,
    reasons,
    simulate,
)
from rolora.tasks import TASKS

OPTIONS = {"regression": {"range": [0, 3]}, "causal_lm": {"strata": "topic", "topics": 4}}


@pytest.fixture(scope="module", params=TASKS)
def task_yaml(request, run_yaml, tmp_path_factory, llama):
    """A run of each task over the same 150 texts."""
    directory, task = tmp_path_factory.mktemp(request.param), request.param
    generator = torch.Generator().manual_seed(0)
    with (directory / "texts.jsonl").open("w") as file:
        for _ in range(150):
            marks = [f"w{k}" for k in (1, 2, 3) if torch.rand(1, generator=generator) < 0.5]
            words = torch.randint(6, 60, (4,), generator=generator).tolist()
            answer = " ".join(f"w{10 + len(marks)}" for _ in range(4 * len(marks)))
            target = {"multilabel": marks, "causal_lm": answer}.get(task, len(marks))
            text = " ".join([*marks, *(f"w{word}" for word in words)])
            file.write(json.dumps({"text": text, "target": target}) + "\n")
    config = yaml.safe_load(run_yaml.read_text())
    source = {"path": str(directory / "texts.jsonl"), "text": "text", "label": "target"}
    config["data"] |= source
    # AdamW would divide the rounding of a stack by gradients that are next to nothing.
    config["optimizer"] |= {"name": "sgd", "lr": 0.02}
    if task == "causal_lm":
        config["model"]["name"] = llama
    config["task"] = {"name": task, **OPTIONS.get(task, {})}
    (directory / "run.yaml").write_text(yaml.safe_dump(config))
    return directory / "run.yaml"


@pytest.fixture
def sites(task_yaml, tmp_path, monkeypatch):
    handlers = {client: handler(task_yaml, client, tmp_path) for client in range(3)}
    answers = {"answered": lambda client, frames: frames}
    connect_locally(monkeypatch, handlers, answers)
    return answers


@pytest.mark.parametrize("overrides", [[], ["method.name=fedsa_lora", "model.head=local"]])
def test_as_on_the_simulator(sites, task_yaml, tmp_path, overrides):
    if "causal_lm" in task_yaml.read_text():
        overrides = [item for item in overrides if item != "model.head=local"]
    simulate(task_yaml, tmp_path / "simulated", *overrides)
    federate(task_yaml, tmp_path / "federated", *overrides)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    one, other = (
        json.loads((tmp_path / run / "summary.json").read_text())
        for run in ("federated", "simulated")
    )
    assert one["final"]["test"] == pytest.approx(other["final"]["test"], rel=1e-5, abs=1e-5)
    assert one["constant"] == pytest.approx(other["constant"])
    assert all(line["validation"] for line in lines(tmp_path / "federated")[1::2])


def changed(frames, change):
    """An answer with its evaluation changed, if it is one."""
    if len(frames) != 1 or b"evaluations" not in frames[0]:
        return frames
    answer = json.loads(frames[0])
    change(answer["evaluations"])
    return [json.dumps(answer).encode()]


LIES = {
    "more examples than it has": (
        lambda found: found[0].update(num_examples=10**6),
        "malformed",
    ),
    "twice": (lambda found: found.append(found[0]), "malformed"),
    "another's statistics": (lambda found: found[0]["sums"].update(trust=[1.0]), "malformed"),
    "no number": (lambda found: found[0]["sums"].update(loss=[float("nan"), 1.0]), "malformed"),
    "no mapping": (lambda found: found[0].update(sums=[1]), "malformed"),
    "doubled": (
        lambda found: found[0].update(
            num_examples=2 * found[0]["num_examples"],
            sums={k: [2 * n for n in values] for k, values in found[0]["sums"].items()},
        ),
        "num_examples",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_site_cannot_know_is_not_counted(sites, task_yaml, tmp_path, lie):
    change, reason = LIES[lie]
    sites["answered"] = lambda client, frames: changed(frames, change) if client == 1 else frames
    federate(task_yaml, tmp_path / "run", "rounds=1")
    assert reasons(tmp_path / "run", "eval_failures") == [[(1, reason)]]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [row["client"] for row in summary["clients"]] == [0, 2]


def test_a_model_that_nobody_can_evaluate_does_not_end_the_run(sites, task_yaml, tmp_path):
    change, _ = LIES["no number"]
    sites["answered"] = lambda client, frames: changed(frames, change)
    federate(task_yaml, tmp_path / "run", "rounds=1")
    assert set(lines(tmp_path / "run")[0]["validation"].values()) == {None}
    assert len(reasons(tmp_path / "run", "eval_failures")[0]) == 3
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
