"""A server that misbehaves: what a site refuses, and what it tells."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml

pytest.importorskip("flwr")

from federated import ANYTHING, connect_locally, federate, handler, lines
from rolora.cli.main import app
from rolora.config import Config, load_config
from rolora.core.errors import BadInput
from rolora.core.parsing import parse_section
from rolora.core.types import Adapter
from rolora.engines.flower import connect, messages, payload
from rolora.engines.flower.handler import SiteHandler
from rolora.engines.flower.node import Node
from rolora.engines.flower.policy import Allow, outside
from rolora.engines.flower.serve import load_site
from rolora.engines.flower.settings import SiteConfig
from rolora.engines.flower.told import WHY, Declined
from rolora.engines.flower.worker import Worker
from rolora.report.run_report import write_report
from rolora.tasks import make_task

FEDSA = ["method.name=fedsa_lora", "model.head=local", "rounds=2"]


def hello(run_yaml, *overrides):
    return connect.hello(load_config(run_yaml, ["engine.name=flower", *overrides]))


@pytest.fixture(scope="module")
def honest(run_yaml, tmp_path_factory):
    """What an honest server asks of client 0 of a FedSA-LoRA run with a local head."""
    asked, directory = [], tmp_path_factory.mktemp("honest")
    sites = {client: handler(run_yaml, client, directory) for client in range(3)}

    def listening(frames):
        if len(frames) > 1:
            asked.append(messages.unpack_request(frames))
        return sites[0](frames)

    with pytest.MonkeyPatch.context() as patch:
        answered = {"answered": lambda client, frames: frames}
        connect_locally(patch, {**sites, 0: listening}, answered)
        federate(run_yaml, directory / "run", *FEDSA)
    return asked


@pytest.fixture(scope="module")
def site(run_yaml, tmp_path_factory):
    """A site that has joined that run."""
    site = handler(run_yaml, 0, tmp_path_factory.mktemp("site"))
    site(hello(run_yaml, *FEDSA))
    return site


def ask(site, request):
    return site(messages.Packer()(request))


def changed(**fields):
    """The request with another plan."""
    return lambda request: replace(request, plan=replace(request.plan, **fields))


ALL = frozenset({"A", "B", "head"})
PLANS = {
    "A, B and the head, instead of A": changed(upload=ALL, local=frozenset()),
    "a part that the method keeps local": changed(upload=frozenset({"A", "B"})),
    "a local part told to be shared": changed(local=frozenset({"head"})),
    "training of fewer parts": changed(train=frozenset({"A"})),
    "a part derived that is not": changed(derives=frozenset({"A"})),
    "another rank": changed(rank=4096),
    "another scaling": changed(scaling=1e6),
    "a round after the last": changed(round=3),
    "round 0": changed(round=0),
    "a round that is no number": changed(round="../../x"),
    "another client's plan": changed(client=1),
    "scores on the training examples": lambda request: replace(
        request, do="evaluate", split="train"
    ),
    "something else": lambda request: replace(request, do="dump"),
}


@pytest.mark.parametrize("attack", PLANS.values(), ids=PLANS)
def test_a_plan_that_is_not_the_methods_own_is_refused(site, honest, attack):
    training = next(request for request in honest if request.do == "train")
    with pytest.raises(Declined) as refusal:
        ask(site, attack(training))
    assert refusal.value.reason == "refused"


def test_a_request_to_be_scored_carries_no_training(site, honest):
    scoring = next(request for request in honest if request.do == "evaluate")
    with pytest.raises(Declined, match="upload"):
        ask(site, changed(upload=ALL)(scoring))


def test_a_site_that_hides_its_examples_answers_a_round_from_one_start(run_yaml, tmp_path):
    """Each answer of another start would be one release more than is counted."""
    private = ["privacy.unit=example", "privacy.clip=0.5", "privacy.noise_multiplier=1", "rounds=1"]
    site, asked = handler(run_yaml, 0, tmp_path), []

    def listening(frames):
        if len(frames) > 1:
            asked.append(messages.unpack_request(frames))
        return site(frames)

    sites = {client: handler(run_yaml, client, tmp_path) for client in (1, 2)}
    with pytest.MonkeyPatch.context() as patch:
        connect_locally(patch, {**sites, 0: listening}, {"answered": lambda client, frames: frames})
        federate(run_yaml, tmp_path / "run", *private)
    training = asked[0]
    first = messages.unpack_update(ask(site, training))
    again = messages.unpack_update(ask(site, training))
    assert torch.equal(first.parts.flat, again.parts.flat)
    parts = training.plan.send
    moved = Adapter(parts.layout, parts.flat + 0.1)
    digests = {part: messages.digest(moved.select({part})) for part in moved.parts}
    other = replace(training, plan=replace(training.plan, send=moved), digests=digests)
    with pytest.raises(Declined, match="round-1: not those") as refusal:
        ask(site, other)
    assert refusal.value.reason == "refused"


def test_what_the_method_asks_is_answered(site, honest):
    training = next(request for request in honest if request.do == "train")
    assert messages.unpack_update(ask(site, training)).parts.parts == {"A"}


RUNS = {
    "method.name": ["method.name=fedit"],
    "model.head": ["model.head=train"],
    "model.name": ["model.name=/etc"],
    "task.name": ["task.name=regression"],
    "server.weighting": ["server.weighting=information"],
    "lora rank": ["lora.r=1000", "lora.lora_alpha=1000"],
    "lora scaling": ["lora.lora_alpha=1e9"],
    "optimizer.local_steps = 1:": ["optimizer.local_steps=1", "optimizer.batch_size=64"],
    "optimizer.local_steps = 1000000": ["optimizer.local_steps=1000000"],
    "optimizer.local_epochs": ["optimizer.local_steps=null", "optimizer.local_epochs=10000"],
    "optimizer.batch_size = 1:": ["optimizer.batch_size=1"],
    "evaluation.batch_size": ["evaluation.batch_size=100000"],
    "rounds": ["rounds=100000"],
    "3 examples would make an update": ["data.limit=3", "partition.name=iid", "data.test=0.1"],
}


@pytest.mark.parametrize(("named", "overrides"), RUNS.items(), ids=RUNS)
def test_a_run_that_a_site_does_not_allow_is_refused(run_yaml, tmp_path, named, overrides, caplog):
    """Its log names the setting, and the server learns that it was refused."""
    run = yaml.safe_load(run_yaml.read_text())
    source = {name: run["data"][name] for name in ("path", "text", "label")}
    model = None if named == "model.name" else run["model"]["name"]
    raw = {"server": "h:1", "client": 0, "data": source, "device": "cpu", "model": model}
    site = parse_section(SiteConfig, {**raw, "allow": {"examples": 16}}, "site")
    whole = SiteHandler(0, lambda run: load_site(site, run), tmp_path)
    with Told(whole) as server:
        assert server.hears(hello(run_yaml, *overrides)) == "refused"
    assert named in caplog.text


def test_the_defaults_let_the_default_run_through():
    assert outside(Allow(), Config(), None) == []


def test_a_name_that_does_not_exist_is_not_allowed():
    with pytest.raises(BadInput, match="did you mean rolora"):
        parse_section(Allow, {"methods": ["rolorra"]}, "allow")


def test_the_settings_of_a_run_do_not_change_on_its_way(run_yaml, tmp_path, honest):
    """But for its length, as when it goes on; another run may have others."""
    training = next(request for request in honest if request.do == "train")
    site = handler(run_yaml, 0, tmp_path)
    site(hello(run_yaml, *FEDSA))
    ask(site, training)
    site(hello(run_yaml, *FEDSA, "rounds=6"))
    ask(site, training)
    site(hello(run_yaml, *FEDSA, "optimizer.lr=1.0"))
    with pytest.raises(Declined, match="settings: not those") as refusal:
        ask(site, training)
    assert refusal.value.reason == "refused"
    ask(site, replace(training, run="0" * 32))


class Told:
    """A worker and the node in front of it: what the server hears, in its whole length."""

    def __init__(self, handle):
        self.worker = Worker(handle)
        threading.Thread(target=self.worker.run, daemon=True).start()

    def hears(self, frames):
        metadata = SimpleNamespace(message_id="0123456789")
        message = SimpleNamespace(content=payload.pack(frames), metadata=metadata)
        answer = Node(None, 0, self.worker.path)._carry_out(message)
        if isinstance(answer, str):
            assert answer in WHY
            return answer
        return str(payload.unpack(answer))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.worker.close()


SECRETS = ("secretpath", "secretlabel", "secret text")
GOOD = "".join(f"w{i % 9} w1,{'ny'[i % 2]}\n" for i in range(60))
FILES = {
    "a label that the run does not know": "note,kind\n" + GOOD + "secret text,secretlabel\n",
    "no file": None,
    "a row with too many cells": "note,kind\n" + GOOD + "secret text,secretlabel,secret text,x\n",
    "an empty text": "note,kind\n" + GOOD + ",secretlabel\n",
    "no such column": "secret text,secretlabel\n" + GOOD,
    "not text": b"note,kind\n\xff\xfe secret text,secretlabel\n",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_nothing_of_a_path_a_label_or_a_text_is_told(run_yaml, tmp_path, content, caplog):
    """Whatever is wrong with a site's data; its own log says it."""
    directory = tmp_path / "secretpath"
    directory.mkdir()
    if content is not None:
        raw = content if isinstance(content, bytes) else content.encode()
        (directory / "data.csv").write_bytes(raw)
    source = {"path": str(directory / "data.csv"), "text": "note", "label": "kind"}
    raw = {"server": "h:1", "client": 0, "data": source, "device": "cpu"}
    models = [yaml.safe_load(run_yaml.read_text())["model"]["name"]]
    site = parse_section(SiteConfig, {**raw, "allow": {**ANYTHING, "models": models}}, "site")
    with Told(SiteHandler(0, lambda run: load_site(site, run), tmp_path)) as server:
        heard = server.hears(hello(run_yaml, "data.labels=[n, y]"))
        assert heard == "unfit"
        heard += server.hears([b"{", b"secret text", b""]) + server.hears([b"[[[["])
    assert not [secret for secret in SECRETS if secret in heard]
    assert "secret" in caplog.text


def test_an_error_of_any_kind_tells_its_kind_alone(tmp_path):
    def fails(frames):
        raise RuntimeError("secret text")

    with Told(fails) as server:
        assert server.hears([b"x"]) == "site_error"
    assert server.hears([b"x"]) == "site_away"


def summary(run):
    return json.loads((run / "summary.json").read_text())


def test_label_counts_are_told_only_where_all_allow_it(run_yaml, tmp_path, monkeypatch):
    """Without, the run is the same and the report says how many examples each has."""
    answers = {"answered": lambda client, frames: frames}
    found = {}
    for told in (True, False):
        sites = {c: handler(run_yaml, c, tmp_path / str(told)) for c in range(3)}
        sites[1] = handler(run_yaml, 1, tmp_path / str(told), label_counts=told)
        connect_locally(monkeypatch, sites, answers)
        federate(run_yaml, tmp_path / f"run-{told}", "rounds=1")
        found[told] = summary(tmp_path / f"run-{told}")
        facts = json.loads(sites[1](answers["transport"].hello)[0])
        assert (facts["strata"] is not None) == told
    assert found[True]["strata"]["names"] == ["no", "yes"]
    assert found[False]["strata"]["names"] == []
    totals = [[sum(row)] for row in found[True]["strata"]["table"]]
    assert found[False]["strata"]["table"] == totals
    assert found[False]["final"] == found[True]["final"]
    page = write_report(tmp_path / "run-False").read_text()
    assert "Training examples that each client holds." in page
    assert "not told by every site" in page
    [predicted] = re.findall(r"[^>]+ of the test examples", page)
    assert "no " in predicted
    assert "yes " in predicted


def test_a_site_that_tells_no_scores_trains_all_the_same(run_yaml, tmp_path, monkeypatch):
    sites = {c: handler(run_yaml, c, tmp_path, scores=False) for c in range(3)}
    connect_locally(monkeypatch, sites, {"answered": lambda client, frames: frames})
    federate(run_yaml, tmp_path / "run", "rounds=1")
    assert [line["clients"] for line in lines(tmp_path / "run")] == [3]
    assert summary(tmp_path / "run")["test_examples"] == 0
    assert write_report(tmp_path / "run").exists()


def test_what_a_run_would_take_is_shown(run_yaml, tmp_path, capsys):
    run = yaml.safe_load(run_yaml.read_text())
    source = {name: run["data"][name] for name in ("path", "text", "label")}
    allow = {"models": [run["model"]["name"]], "examples": 16}
    raw = {"server": "h:1", "client": 0, "data": source, "device": "cpu", "allow": allow}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(raw))
    command = ["client", "--config", str(tmp_path / "site.yaml"), "--show"]

    def shown(**sections):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(run | sections))
        with pytest.raises(SystemExit) as end:
            app([*command, str(tmp_path / "run.yaml")], prog_name="rolora")
        return end.value.code, " ".join(capsys.readouterr().out.split())

    code, said = shown()
    assert code == 0
    assert "leaves: B" in said
    assert re.search(r"leaves: A [\d.,]+ KiB in round 2, 4 ", said), said
    assert "4, each of 2 steps, 8 examples a step" in said
    assert "numbers of examples (162 train, 18 validation, 20 test), names of labels" in said
    assert "of each label" not in said
    assert "allows all of it" in said
    _, said = shown(secure_sum={"threshold": 0.6})
    assert said.count("seen in a sum over 2 sites or more") == 3
    code, said = shown(method={"name": "fedit"}, rounds=1000)
    assert code == 2
    assert "refused method.name = 'fedit': allow.methods has rolora" in said
    assert "refused rounds = 1000: allow.rounds is 200" in said
    assert "leaves" not in said


@pytest.mark.parametrize(
    "change",
    [
        {"examples": {"train": 10**400, "validation": 1, "test": 1}},
        {"examples": {"train": 5.5, "validation": 1, "test": 1}},
        {"examples": {"train": 5}},
        {"strata": {"train": [9, 9], "validation": [0, 1], "test": [0, 1]}},
    ],
)
def test_counts_that_cannot_be_are_refused(run_yaml, change):
    facts = messages.ClientFacts(
        names=("no", "yes"),
        examples={"train": 5, "validation": 1, "test": 1},
        strata={"train": (2, 3), "validation": (0, 1), "test": (0, 1)},
        test_from="",
        fingerprint="",
    )
    task = make_task(load_config(run_yaml).task)
    assert messages.unpack_facts(messages.pack_facts(facts), task, 10) == facts
    with pytest.raises(messages.WireError):
        messages.unpack_facts(messages.pack_facts(replace(facts, **change)), task, 10)
