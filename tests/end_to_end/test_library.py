"""rolora as a program imports it: names, objects in their place, round by round."""

import numpy as np
import pandas as pd
import pytest
import torch

import rolora
from rolora.methods.ffa_lora import FFALoRA


@pytest.fixture
def config(bert):
    return {
        "rounds": 2,
        "model": {"name": str(bert), "device": "cpu"},
        "lora": {"r": 2, "target_modules": ["query", "value"]},
        "data": {"max_length": 16},
        "optimizer": {"lr": 0.01, "local_steps": 2, "batch_size": 8},
        "evaluation": {"every": 1},
        "engine": {"workers": 1},
    }


def rows(n, seed=0, names=("no", "yes")):
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(6, 60, (n, 5), generator=generator).tolist()
    return [
        {"text": " ".join(f"w{word}" for word in [i % 2, i % 2, *row]), "label": names[i % 2]}
        for i, row in enumerate(words)
    ]


class MyMethod(FFALoRA):
    """One that no config names."""

    title = "Mine"


class Told(rolora.Callback):
    def __init__(self):
        self.calls = []

    def begin(self, run):
        self.calls.append(("begin", run.sizes, run.finished))

    def answer(self, answer):
        self.calls.append(("answer", answer.client))

    def round(self, record):
        self.calls.append(("round", record.round))

    def end(self, summary):
        self.calls.append(("end", summary.method.title))

    def close(self):
        self.calls.append(("close",))


def test_the_public_surface():
    assert len(rolora.__all__) <= 25
    assert sorted(rolora.__all__) == dir(rolora)
    for name in rolora.__all__:
        assert getattr(rolora, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        rolora.rum  # noqa: B018


def test_objects_in_place_of_names(bert, config, tmp_path, capsys):
    """The block of the README: own model, data by client, method, metric and callback."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    names = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    model = AutoModelForSequenceClassification.from_pretrained(bert, **names)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    numbered = [{**row, "label": int(row["label"] == "yes")} for row in rows(40, seed=1)]
    clients = [Dataset.from_list(rows(40)), pd.DataFrame(numbered), rows(30, seed=2)]
    clients[0] = clients[0].map(lambda row: {"label": int(row["label"] == "yes")})
    clients[2] = [{**row, "label": int(row["label"] == "yes")} for row in clients[2]]
    told = Told()
    run = rolora.run(
        {**config, "model": {}},
        model=model,
        tokenizer=tokenizer,
        clients=clients,
        test=rows(20, seed=3),
        method=MyMethod(),
        metrics={"agreement": lambda actual, predicted: float(np.mean(actual == predicted))},
        callbacks=[told],
        out=tmp_path / "run",
    )
    assert "Mine" in capsys.readouterr().out
    name, sizes, finished = told.calls[0]
    assert (name, sum(sizes), finished) == ("begin", 98, 0)
    assert all(held > own > 0 for held, own in zip((40, 40, 30), sizes, strict=True))
    assert told.calls[-2:] == [("end", "Mine"), ("close",)]
    assert [call for call in told.calls if call[0] == "round"] == [("round", 1), ("round", 2)]
    assert len([call for call in told.calls if call[0] == "answer"]) == 6
    assert run.metrics["round"].tolist() == [1, 2]
    scores = run.summary.final.test
    assert scores["agreement"] == pytest.approx(scores["accuracy"])
    assert run.metrics["validation.agreement"].notna().all()
    assert run.summary.data.label_names == ("no", "yes")
    said = run.predict(["w1 w1 w9", "w0 w0 w9"])
    assert said["prediction"].isin(["no", "yes"]).all()
    assert np.allclose(said["p(no)"] + said["p(yes)"], 1)
    assert run.evaluate(rows(20, seed=3))["accuracy"] == pytest.approx(scores["accuracy"])
    asked = [{**row, "label": int(row["label"] == "yes")} for row in rows(20, seed=3)]
    assert run.evaluate(asked) == run.evaluate(rows(20, seed=3)), "numbered as in training"
    assert run.report.is_file()
    merged = AutoModelForSequenceClassification.from_pretrained(run.export(tmp_path / "merged"))
    inputs = tokenizer(["w1 w1 w9"], return_tensors="pt")
    with torch.no_grad():
        logits = merged(**inputs).logits.softmax(1)[0]
        assert torch.allclose(logits, run.model()(**inputs).logits.softmax(1)[0], atol=1e-5)
    assert logits.tolist() == pytest.approx([said["p(no)"][0], said["p(yes)"][0]], abs=1e-5)
    # the caller's model is as it was
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in weights.items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    # and a later process reads the run
    again = rolora.load_run(tmp_path / "run", model=model, tokenizer=tokenizer)
    assert again.predict(["w1 w1 w9"])["p(no)"][0] == pytest.approx(said["p(no)"][0], abs=1e-6)
    with pytest.raises(rolora.BadInput, match="unknown method"):
        rolora.plan(tmp_path / "run" / "config.yaml")


def test_what_a_trainer_was_given_is_taken_over(bert, config, tmp_path):
    """Data sets that were tokenised for a Trainer, padded or not, train as the texts do."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bert)
    texts = [{**row, "labels": int(row["label"] == "yes")} for row in rows(120)]

    def tokenised(padding):
        made = Dataset.from_list(texts).map(
            lambda batch: tokenizer(batch["text"], padding=padding), batched=True
        )
        return made.remove_columns(["text", "label"])

    config["data"]["label"] = "labels"
    runs = {
        name: rolora.run(config, train=data, out=tmp_path / name, show=False)
        for name, data in {
            "texts": texts,
            "plain": tokenised(False),
            "padded": tokenised("max_length").to_pandas(),
        }.items()
    }
    for name in ("plain", "padded"):
        assert runs[name].summary.final == runs["texts"].summary.final
    config["data"]["max_length"] = 6
    cut = rolora.plan(config, train=tokenised(False), notice=(said := []).append)
    assert cut.examples["train"] == 98
    assert any("were cut" in line for line in said)
    with pytest.raises(rolora.BadInput, match="hold the token 9999"):
        rolora.plan(config, train=[{"input_ids": [9999, i], "labels": i % 2} for i in range(20)])
    with pytest.raises(rolora.BadInput, match="row 1 of train is 'a'; must be a list"):
        rolora.plan(config, train=[{"input_ids": "a", "labels": 1}])


def test_a_stream_that_is_left_goes_on(config, tmp_path):
    options = {"train": rows(120), "out": tmp_path / "run"}
    for record in rolora.stream(config, **options):  # noqa: B007
        break
    assert record.round == 1
    assert not (tmp_path / "run" / "summary.json").exists()
    with pytest.raises(rolora.BadInput, match="no finished run"):
        rolora.load_run(tmp_path / "run").summary  # noqa: B018
    left = [record.round for record in rolora.stream(config, **options, resume=True)]
    assert left == [2]
    whole = rolora.run(config, train=rows(120), out=tmp_path / "whole", show=False)
    resumed = rolora.load_run(tmp_path / "run")
    for run in (whole, resumed):
        assert run.summary.final.round == 2
    assert resumed.summary.final == whole.summary.final
    with pytest.raises(rolora.BadInput, match="run on other data"):
        rolora.run(config, train=rows(90), out=tmp_path / "run", resume=True, show=False)


def test_a_plan_is_what_would_run(config):
    plan = rolora.plan(config, clients=[rows(40), rows(20, seed=1)])
    assert sum(plan.client_sizes) == plan.examples["train"] == 48
    assert plan.client_sizes[0] > plan.client_sizes[1] > 0
    assert plan.label_names == ("no", "yes")
    assert plan.bytes_up > 0
    assert "config" not in repr(plan)


def test_methods_are_compared_also_one_of_your_own(config, tmp_path):
    found = rolora.compare(
        config,
        methods=["rolora", MyMethod()],
        seeds=[0, 1],
        train=rows(120),
        out=tmp_path / "compare",
        watched=lambda which: rolora.Callback(),
    )
    assert found.table["method"].tolist() == ["rolora", "rolora", "MyMethod", "MyMethod"]
    assert found.comparison.methods["MyMethod"].title == "Mine"
    assert found.runs["MyMethod", 1].summary.final.round == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": object()}, "tokenizer: is that of a model"),
        ({"clients": []}, "clients: is empty"),
        ({"clients": [rows(9)], "train": rows(9)}, "clients and train"),
        ({"test": rows(9)}, "test: goes with clients or train"),
        ({"clients": [rows(9), [{"text": "a"}]]}, r"clients\[1\]: has the columns text"),
        ({"train": "a text"}, "train: must be a datasets.Dataset"),
        ({"model": torch.nn.Linear(2, 2), "train": rows(40)}, "must be a model of Transformers"),
        ({"train": rows(40), "metrics": {"mcc": len}}, "metrics.mcc: must be a function"),
        ({"train": rows(40), "metrics": {"loss": np.dot}}, "metrics.loss: is a score of the task"),
        ({"train": rows(40), "engine": "flower"}, "no site has"),
    ],
)
def test_objects_that_do_not_fit_are_refused(config, tmp_path, options, message):
    engine = options.pop("engine", None)
    if engine:
        config = {**config, "engine": {"name": engine}}
    with pytest.raises(rolora.BadInput, match=message):
        rolora.run(config, out=tmp_path / "run", show=False, **options)
    assert not (tmp_path / "run").exists()


def test_an_unknown_object_is_no_object(config):
    with pytest.raises(TypeError, match="modle"):
        rolora.plan(config, modle=1)
