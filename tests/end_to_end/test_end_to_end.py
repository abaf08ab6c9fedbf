"""The command line on a small model and real files: what it leaves, says and survives."""

from __future__ import annotations

import json
import signal
import time

import pytest
import torch
import yaml

import small
from rolora.config import load_config
from rolora.engines.preparation import build_engine, prepare
from rolora.methods import METHODS
from shell import ended, rolora, start


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """240 labelled sentences of three labels as jsonl."""
    path = tmp_path_factory.mktemp("data") / "sentences.jsonl"
    generator = torch.Generator().manual_seed(0)
    with path.open("w") as file:
        for i in range(240):
            length = int(torch.randint(3, 12, (1,), generator=generator))
            words = torch.randint(6, 60, (length,), generator=generator).tolist()
            label = i % 3
            text = " ".join(f"w{word}" for word in [label, label, *words])
            row = {"sentence": text, "verdict": ["no", "yes", "maybe"][label], "site": f"s{i % 4}"}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def project(tmp_path, sentences, bert, monkeypatch):
    """A folder with a config that runs in a second."""
    monkeypatch.chdir(tmp_path)
    config = {
        "rounds": 4,
        "model": {"name": bert},
        "lora": {"r": 2, "lora_alpha": 8},
        "data": {"path": str(sentences), "text": "sentence", "label": "verdict", "max_length": 16},
        "federation": {"clients": 4},
        "optimizer": {"lr": 0.02, "local_steps": 2, "batch_size": 8},
        "engine": {"workers": 1},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def metrics(run):
    """The lines of a run without its timings."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def adapter(run):
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_run_leaves_its_directory(project, capsys):
    assert rolora("run", "small.yaml", "--out", "r") == 0
    run = project / "r"
    names = {"config.yaml", "start.json", "metrics.jsonl", "summary.json", "report.html"}
    names |= {"adapter", "checkpoint"}
    assert names <= {path.name for path in run.iterdir()}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert [line["phase"] for line in lines] == ["B", "A", "B", "A"]
    assert all(line["clients"] == 4 and line["failures"] == [] for line in lines)
    assert lines[1]["validation"].keys() == {"accuracy", "macro_f1", "loss"}
    assert [label["name"] for label in lines[1]["detail"]["classes"]] == ["maybe", "no", "yes"]
    assert [update["client"] for update in lines[0]["updates"]] == [0, 1, 2, 3]
    assert lines[0]["validation"] is None
    assert set(lines[0]["seconds"]) >= {"plan", "train", "aggregate", "total"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["data"]["label_names"] == ["maybe", "no", "yes"]
    assert sum(map(sum, summary["strata"]["table"])) == summary["data"]["train"]
    assert load_config(run / "config.yaml") == load_config(project / "small.yaml")
    said = capsys.readouterr().out
    assert "test accuracy" in said
    expected = json.loads((run / "start.json").read_text())["expected"]
    assert summary["expected"] == expected
    assert expected["seconds"] > 0
    assert expected["memory"] > 2**27
    assert "of training a round" in said  # before
    assert "expected: " in said.partition("test accuracy")[2]  # and after
    assert "Training a round" in (run / "report.html").read_text()
    card = (run / "adapter" / "README.md").read_text()  # written again after the final test
    assert f"| accuracy | {100 * summary['final']['test']['accuracy']:.1f} %" in card


@pytest.mark.parametrize("architecture", small.ARCHITECTURES)
def test_peft_loads_the_adapter_and_computes_the_same(project, model_dir, architecture):
    targets = {"distilbert": "[q_lin, v_lin]", "modernbert": "[Wqkv]"}
    options = [f"model.name={model_dir(architecture)}", "rounds=2"]
    options.append(f"lora.target_modules={targets.get(architecture, '[query, value]')}")
    check_adapter(project, "rolora", options)


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("head", ["frozen", "train"])
def test_every_method_leaves_an_adapter_that_peft_loads(project, method, head):
    check_adapter(project, method, [f"model.head={head}"])


def check_adapter(project, method, options):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    options = [*options, f"method.name={method}"]
    assert rolora("run", "small.yaml", *options, "--out", "r") == 0
    config = load_config(project / "r" / "config.yaml")
    prepared = prepare(config)
    engine = build_engine(prepared)
    state = final_state(project / "r")
    saved = project / "r" / "adapter"
    base = AutoModelForSequenceClassification.from_pretrained(config.model.name, num_labels=3)
    loaded = PeftModel.from_pretrained(base, str(saved)).eval()
    rows = torch.arange(12)
    batch = prepared.examples["test"].batch(rows)
    with torch.no_grad():
        theirs = loaded(**batch).logits
    plan = prepared.method.evaluation_plan(state)
    tensors = {key: t if key[1] == "D" else t[None] for key, t in plan.send.items()}
    prepared.model.mount(tensors, [plan.scaling])
    with torch.no_grad():
        ours = prepared.model.logits(batch)
        prepared.model.mount({k: t for k, t in tensors.items() if k[1] == "head"}, [1.0])
        untrained = prepared.model.logits(batch)
    assert engine.clients
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    if method != "fedsa_lora":  # its global B stays zero
        assert (ours - untrained).abs().max() > 1e-3


def final_state(run):
    from rolora.records.checkpoint import load_newest

    checkpoint, damaged = load_newest(run / "checkpoint")
    assert not damaged
    return checkpoint.state


def test_personal_adapters_are_left_for_every_client(project):
    options = ["method.name=fedsa_lora", "model.head=local"]
    assert rolora("run", "small.yaml", *options, "--out", "r") == 0
    own = sorted(path.name for path in (project / "r/adapter/clients").iterdir())
    assert own == ["0", "1", "2", "3"]
    files = [(project / f"r/adapter/clients/{i}/adapter_model.safetensors") for i in own]
    assert len({file.read_bytes() for file in files}) == 4


def test_export_merges_base_and_adapter(project):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert rolora("run", "small.yaml", "--out", "r") == 0
    assert rolora("export", "r", "--merge", "merged") == 0
    merged = AutoModelForSequenceClassification.from_pretrained("merged").eval()
    inputs = AutoTokenizer.from_pretrained("merged")(["w0 w0 w7", "w1 w1 w9"], return_tensors="pt")
    prepared = prepare(load_config(project / "r" / "config.yaml"))
    plan = prepared.method.evaluation_plan(final_state(project / "r"))
    prepared.model.mount({key: t[None] for key, t in plan.send.items()}, [plan.scaling])
    with torch.no_grad():
        ours = prepared.model.logits(dict(inputs))
        torch.testing.assert_close(ours, merged(**inputs).logits, atol=2e-5, rtol=1e-4)
    assert merged.config.id2label == {0: "maybe", 1: "no", 2: "yes"}
    assert rolora("export", "r", "--merge", "merged") == 2


RUNS = {
    "rolora": [],
    "gauge and sampling": ["method.gauge=orthonormal", "federation.clients_per_round=2"],
    "persisted state": ["optimizer.state=persist", "federation.clients_per_round=3"],
    "carried state, gauge": [
        "optimizer.state=transport",
        "method.gauge=orthonormal",
        "federation.clients_per_round=2",
    ],
    "scaffold": ["method.name=scaffold", "federation.clients_per_round=3"],
    "fedsvd": ["method.name=fedsvd", "federation.clients_per_round=3"],
    "int8": ["stages=[int8]", "federation.clients_per_round=3"],
    "adaptive": ["method.schedule=adaptive", "federation.clients_per_round=3"],
    "flora, fedadam": ["method.name=flora", "server.optimizer=fedadam", "server.lr=0.01"],
    "fedex": ["method.name=fedex_lora", "federation.clients_per_round=2"],
    "personal": ["method.name=fedsa_lora", "model.head=local", "federation.clients_per_round=2"],
    "trained head, few checkpoints": ["model.head=train", "checkpoint.every=3"],
}


@pytest.mark.slow
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_a_killed_run_goes_on_bit_for_bit(project, options):
    options = [*options, "rounds=9"]
    assert rolora("run", "small.yaml", *options, "--out", "whole") == 0
    command = ["run", "small.yaml", *options, "--out", "killed", "--resume"]
    for lines in (1, 5):
        kill_after(command, project / "killed", lines)
    assert rolora(*command) == 0
    assert metrics(project / "killed") == metrics(project / "whole")
    assert adapter(project / "killed") == adapter(project / "whole")


def kill_after(command, run, lines):
    """Start the command in its own process and kill -9 it once it has written `lines` lines."""
    process = start(*command, said=run.with_suffix(".said"))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.exitcode is None:
        written = run / "metrics.jsonl"
        if written.exists() and len(written.read_text().splitlines()) >= lines:
            break
        time.sleep(0.002)
    process.kill()
    assert ended(process) == -signal.SIGKILL, run.with_suffix(".said").read_text()


def test_interrupt_keeps_the_run_and_says_how_to_go_on(project, monkeypatch, capsys):
    from rolora.server.screen import Screen

    judged = []
    judge = Screen.judge

    def interrupted(self, update):
        judged.append(update)
        if len(judged) == 10:
            raise KeyboardInterrupt
        return judge(self, update)

    assert rolora("run", "small.yaml", "--out", "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(Screen, "judge", interrupted)
        options = ["run", "small.yaml", "checkpoint.every=4", "--out", "r"]
        assert rolora(*options) == 130
    said = capsys.readouterr().out
    assert "rolora run small.yaml checkpoint.every=4 --out r --resume" in said
    assert len(metrics(project / "r")) == 2
    assert rolora(*options, "--resume") == 0
    assert adapter(project / "r") == adapter(project / "whole")


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(project, capsys):
    assert rolora("run", "small.yaml", "--out", "whole") == 0
    assert rolora("run", "small.yaml", "--out", "r") == 0
    newest = max((project / "r" / "checkpoint").iterdir())
    file = newest / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    assert rolora("run", "small.yaml", "--out", "r", "--resume") == 0
    said = "".join(capsys.readouterr().out.split())
    assert "damagedcheckpointpassedover:r/checkpoint/round_000004/tensors.safetensors" in said
    assert "goingonafterround3" in said
    assert adapter(project / "r") == adapter(project / "whole")
    assert metrics(project / "r") == metrics(project / "whole")


def test_more_rounds_can_be_added_but_nothing_else_changed(project, capsys):
    assert rolora("run", "small.yaml", "rounds=2", "--out", "r") == 0
    assert rolora("run", "small.yaml", "rounds=4", "--out", "r", "--resume") == 0
    assert len(metrics(project / "r")) == 4
    assert rolora("run", "small.yaml", "optimizer.lr=0.5", "--out", "r", "--resume") == 2
    message = capsys.readouterr().err
    assert "optimizer.lr = 0.5, and was 0.02" in message
    assert len(metrics(project / "r")) == 4


def test_a_taken_directory_is_refused(project, capsys):
    assert rolora("run", "small.yaml", "--out", "r") == 0
    before = adapter(project / "r")
    assert rolora("run", "small.yaml", "--out", "r") == 2
    assert "--resume" in capsys.readouterr().err
    assert adapter(project / "r") == before


def test_runs_are_numbered_and_the_last_is_resumed(project):
    assert rolora("run", "small.yaml", "rounds=1") == 0
    assert rolora("run", "small.yaml", "rounds=1") == 0
    assert sorted(path.name for path in (project / "runs").iterdir()) == ["small", "small-2"]
    assert rolora("run", "small.yaml", "rounds=2", "--resume") == 0
    assert len(metrics(project / "runs/small-2")) == 2
    assert len(metrics(project / "runs/small")) == 1


WRONG = {
    "method.name=roloraa": ["method.name = 'roloraa'", "did you mean rolora?"],
    "metod.name=rolora": ["metod: unknown key", "did you mean method?"],
    "lora.r=0": ["lora.r = 0", "greater than or equal to 1"],
    "lora.target_modules=[qery]": ["'qery' matches no linear layer", "did you mean query?"],
    "lora.layers=7-9": ["lora.layers = '7-9'"],
    "model.name=/no/such/model": ["model.name = '/no/such/model'"],
    "model.device=tpu9": ["model.device = 'tpu9'"],
    "data.text=sentense": ["sentense", "did you mean sentence?"],
    "federation.clients=1000": ["federation.clients = 1000"],
    "method.name=fedit method.gauge=orthonormal": ["method.gauge: unknown key", "prox_mu"],
    "lora.client_ranks=[2,4]": ["lora.client_ranks", "rolora methods"],
    "optimizer.state=persist method.gauge=orthonormal": [
        "optimizer.state = 'persist'",
        "transport",
    ],
    "method.gauge=orthonormal server.optimizer=fedavgm": ["server.optimizer = 'fedavgm'", "gauge"],
    "method.gauge=orthonormal server.optimizer=fedyogi": ["server.optimizer = 'fedyogi'", "gauge"],
    "method.name=flora optimizer.state=persist": ["optimizer.state = 'persist'", "FLoRA"],
    "method.name=flora optimizer.state=transport": ["optimizer.state = 'transport'", "FLoRA"],
    "method.schedule=adaptiv": ["method.schedule = 'adaptiv'", "adaptive|[AB]+"],
    "rounds": ["must have the form key.path=value"],
}


@pytest.mark.parametrize(("override", "words"), WRONG.items(), ids=WRONG)
def test_bad_input_ends_with_one_message(project, capsys, override, words):
    assert rolora("run", "small.yaml", *override.split(" "), "--out", "r") == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for word in words:
        assert word in message
    assert not (project / "r").exists()


def test_validate_says_what_would_run(project, capsys):
    assert rolora("validate", "small.yaml", "federation.clients_per_round=2") == 0
    said = capsys.readouterr().out
    assert "6 modules" in said
    assert "4 of" in said
    assert "2 a round" in said
    assert "; " not in said
    pieces = ["method.gauge=orthonormal", "optimizer.state=transport", "server.weighting=uniform"]
    assert rolora("validate", "small.yaml", *pieces) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "(both ways); gauge orthonormal; state transport; weighting uniform" in said
    assert not list(project.glob("runs/*"))


def test_methods_lists_every_method(capsys):
    assert rolora("methods") == 0
    said = capsys.readouterr().out
    for method in METHODS.values():
        assert method.title.split()[0] in said


def test_compare_uses_the_same_partition_and_goes_on(project):
    options = ["small.yaml", "rounds=2", "--methods", "rolora,fedit,flora", "--seeds", "0,1"]
    assert rolora("compare", *options, "--out", "c") == 0
    tables = {}
    for run in (project / "c").glob("*/seed-*"):
        summary = json.loads((run / "summary.json").read_text())
        tables.setdefault(run.name, set()).add(str(summary["strata"]["table"]))
    assert [len(found) for found in tables.values()] == [1, 1]
    assert tables["seed-0"] != tables["seed-1"]
    names = {"comparison.md", "comparison.json", "comparison.png"}
    assert names <= {path.name for path in (project / "c").iterdir()}
    stamps = {path: path.stat().st_mtime_ns for path in (project / "c").rglob("summary.json")}
    assert rolora("compare", *options, "--out", "c") == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert rolora("compare", "small.yaml", "--methods", "rolora,fedat", "--out", "d") == 2


def test_clients_of_different_ranks(project):
    for method in ("flexlora", "flora"):
        options = [f"method.name={method}", "lora.client_ranks=[1,2,4]"]
        assert rolora("run", "small.yaml", *options, "--out", method) == 0


def test_partition_by_a_field(project):
    options = ["partition.name=field", "partition.field=site"]
    assert rolora("run", "small.yaml", *options, "--out", "r") == 0
    summary = json.loads((project / "r/summary.json").read_text())
    assert len(summary["clients"]) == 4


@pytest.mark.slow
def test_ten_thousand_clients_in_constant_memory(project, tmp_path):
    """A round of 100 among 10,000 clients takes no more memory than one among 200."""
    path = tmp_path / "many.csv"
    with path.open("w") as file:
        file.write("sentence,verdict\n")
        file.writelines(
            f"w{i % 2} w{i % 59} w{i % 53} w{i % 47} w{i},{i % 2}\n" for i in range(26000)
        )
    peaks = {}
    for clients in (200, 10_000):
        options = [f"data.path={path}", f"federation.clients={clients}"]
        options += ["federation.clients_per_round=100", "rounds=3", "partition.name=iid"]
        assert ended(start("run", "small.yaml", *options, "--out", f"r{clients}"), 300) == 0
        summary = json.loads((project / f"r{clients}/summary.json").read_text())
        peaks[clients] = summary["peak_memory_mb"]
    assert peaks[10_000] < peaks[200] + 60
