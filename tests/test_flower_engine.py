"""Rounds on Flower against the simulator, and what a federation survives: real processes."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rolora import federation
from rolora.config import load_config, parse_section
from rolora.engines.flower.handler import SiteHandler
from rolora.engines.flower.results import NodeError, Reply
from rolora.federation import SiteConfig, load_site
from rolora.run import execute


@pytest.fixture(scope="module")
def settings(tmp_path_factory, model_dir):
    """A run's YAML: a tiny BERT, three clients, 200 sentences of two labels."""
    directory = tmp_path_factory.mktemp("federation")
    generator = torch.Generator().manual_seed(0)
    with (directory / "sentences.jsonl").open("w") as file:
        for i in range(200):
            words = torch.randint(6, 60, (3 + i % 8,), generator=generator).tolist()
            text = " ".join(f"w{word}" for word in [i % 2, i % 2, *words])
            file.write(json.dumps({"sentence": text, "verdict": ["no", "yes"][i % 2]}) + "\n")
    config = {
        "rounds": 4,
        "model": {"name": str(model_dir("bert")), "device": "cpu"},
        "lora": {"r": 2, "lora_alpha": 8},
        "data": {
            "path": str(directory / "sentences.jsonl"),
            "text": "sentence",
            "label": "verdict",
            "max_length": 16,
        },
        "federation": {"clients": 3, "deadline": 60},
        "optimizer": {"lr": 0.01, "local_steps": 2, "batch_size": 8},
        "engine": {"workers": 1},
    }
    (directory / "run.yaml").write_text(yaml.safe_dump(config))
    return directory / "run.yaml"


def handler(settings, client, directory):
    """A site's handler that takes the client's share of the run's data."""
    data = yaml.safe_load(settings.read_text())["data"]
    source = {name: data[name] for name in ("path", "text", "label")}
    raw = {"server": "127.0.0.1:1", "client": client, "data": source, "dealt": True, "threads": 1}
    site = parse_section(SiteConfig, {**raw, "device": "cpu"}, "site")
    return SiteHandler(client, lambda run: load_site(site, run), directory / f"site-{client}")


class Quiet:
    """A display that remembers."""

    def __init__(self, finished=lambda metrics: None):
        self.notices, self._finished = [], finished

    def begin(self, ready, finished):
        pass

    def answered(self, answer):
        pass

    def round_finished(self, metrics):
        self._finished(metrics)

    def notice(self, text):
        self.notices.append(text)


def simulate(settings, out, *overrides):
    """The run on the simulator."""
    return execute(load_config(settings, overrides), out, False, Quiet(), "test")


def federate(settings, out, *overrides, resume=False, finished=lambda metrics: None):
    """The run across sites."""
    config = load_config(settings, ["engine.name=flower", *overrides])
    return execute(config, out, resume, Quiet(finished), "test")


def adapter(run):
    return load_file(run / "adapter" / "adapter_model.safetensors")


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(federated, simulated):
    """The same adapter, metrics and summary, up to rounding and time."""
    ours, theirs = adapter(federated), adapter(simulated)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0)
    for line, other in zip(lines(federated), lines(simulated), strict=True):
        for key in other.keys() - {"seconds"}:
            expected = other[key]
            if isinstance(expected, float):
                expected = pytest.approx(expected, abs=1e-5)
            if key != "bytes_down":  # an evaluation has sent some of it already
                assert line[key] == expected, key
    summary, other = (
        json.loads((run / "summary.json").read_text()) for run in (federated, simulated)
    )
    assert summary["label_table"] == other["label_table"]
    assert summary["final"]["test_accuracy"] == other["final"]["test_accuracy"]
    assert summary["majority_accuracy"] == other["majority_accuracy"]


SAMPLED = "federation.clients_per_round=2"
RUNS = {
    "rolora": [],
    "rolora, gauge, sampled": ["method.gauge=orthonormal", SAMPLED],
    "rolora, kept optimiser, head": ["optimizer.state=persist", "model.head=train", SAMPLED],
    "fedit": ["method.name=fedit", "server.optimizer=fedadam", "server.lr=0.01"],
    "ffa_lora": ["method.name=ffa_lora", SAMPLED],
    "flexlora": ["method.name=flexlora", "lora.client_ranks=[1,2,4]", SAMPLED],
    "flora": ["method.name=flora", SAMPLED],
    "flora, ranks": ["method.name=flora", "lora.client_ranks=[1,2,4]"],
    "fedex_lora": ["method.name=fedex_lora"],
    "fedsa_lora": ["method.name=fedsa_lora", "model.head=local", SAMPLED],
}


class LocalTransport:
    """Calls the sites' handlers in this process; `answered` may change what comes back."""

    def __init__(self, handlers, hello, answered=lambda client, frames: frames):
        self.handlers, self.hello, self.answered = handlers, hello, answered
        self.max_bytes, self.refusals, self.sent = 2**31, {}, []

    @property
    def clients(self):
        return {client: handle(self.hello) for client, handle in self.handlers.items()}

    def wait_for(self, clients, timeout_s, among=None):
        return len(self.handlers) >= clients

    def send_and_receive(self, requests, deadline_s, follow_up=lambda reply: None):
        for client, frames in requests.items():
            yield self.ask(client, frames, follow_up)

    def ask(self, client, frames, follow_up):
        if client not in self.handlers:
            return NodeError(client, None, "absent", "not connected", 0.0)
        self.sent.append((client, sum(map(len, frames))))
        try:
            answer = self.answered(client, self.handlers[client](frames))
        except ValueError as error:
            return NodeError(client, client, "client_error", str(error), 0.0)
        reply = Reply(client, client, list(answer), 0.0)
        more = follow_up(reply)
        return reply if more is None else self.ask(client, more, lambda reply: None)


@pytest.fixture
def sites(settings, tmp_path, monkeypatch):
    """Three sites in this process; a run on Flower finds them."""
    handlers = {client: handler(settings, client, tmp_path) for client in range(3)}
    answers = {"answered": lambda client, frames: frames}

    @contextmanager
    def connected(config, notice):
        transport = LocalTransport(handlers, federation.hello(config), answers["answered"])
        answers["transport"] = transport
        yield federation.joined(config, transport, notice)

    monkeypatch.setattr(federation, "connected", connected)
    monkeypatch.setattr(federation, "_STRAGGLERS_S", 0.0)
    return handlers, answers


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_as_on_the_simulator(sites, settings, tmp_path, overrides):
    federate(settings, tmp_path / "federated", *overrides)
    simulate(settings, tmp_path / "simulated", *overrides)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    for client, own in personal(tmp_path / "simulated").items():
        site = load_file(tmp_path / f"site-{client}/adapter/adapter_model.safetensors")
        for name, tensor in own.items():
            torch.testing.assert_close(site[name], tensor, atol=1e-6, rtol=0)


def personal(run):
    """The adapters of clients that keep parts of their own."""
    return {
        int(path.name): load_file(path / "adapter_model.safetensors")
        for path in (run / "adapter" / "clients").glob("*")
    }
