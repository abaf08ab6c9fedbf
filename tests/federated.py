"""Runs across sites and what they are compared with: helpers of the tests of the Flower engine."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rolora.callbacks import Callback
from rolora.config import load_config
from rolora.core.parsing import parse_section
from rolora.core.types import Adapter
from rolora.engines.flower import connect, messages
from rolora.engines.flower.handler import SiteHandler
from rolora.engines.flower.results import NodeError, Reply
from rolora.engines.flower.serve import load_site
from rolora.engines.flower.settings import SiteConfig
from rolora.engines.flower.told import WHY, reason_of
from rolora.methods import METHODS
from rolora.running import execute
from rolora.tasks import TASKS, make_task


def write_run(directory, model):
    """Write a run's YAML, and its data: a tiny BERT, three clients, 200 sentences of two labels."""
    generator = torch.Generator().manual_seed(0)
    with (directory / "sentences.jsonl").open("w") as file:
        for i in range(200):
            words = torch.randint(6, 60, (3 + i % 8,), generator=generator).tolist()
            text = " ".join(f"w{word}" for word in [i % 2, i % 2, *words])
            file.write(json.dumps({"sentence": text, "verdict": ["no", "yes"][i % 2]}) + "\n")
    config = {
        "rounds": 4,
        "model": {"name": str(model), "device": "cpu"},
        "lora": {"r": 2, "lora_alpha": 8},
        "data": {
            "path": str(directory / "sentences.jsonl"),
            "text": "sentence",
            "label": "verdict",
            "max_length": 16,
        },
        "federation": {"clients": 3, "deadline": 60, "max_share": 0.5},
        "optimizer": {"lr": 0.01, "local_steps": 2, "batch_size": 8},
        "engine": {"workers": 1},
    }
    (directory / "run.yaml").write_text(yaml.safe_dump(config))
    return directory / "run.yaml"


ANYTHING = {
    "methods": list(METHODS),
    "heads": ["frozen", "train", "local"],
    "tasks": list(TASKS),
    "examples": 1,
    "least_steps": 1,
    "least_batch": 1,
    "label_counts": True,
}
"""What a site allows that is there to see that runs come out as they should."""


def handler(run_yaml, client, directory, keys=None, **allow):
    """A site's handler that takes the client's share of the run's data; it allows anything but
    what `allow` says. `keys` are ``tls`` and ``peers``.
    """
    run = yaml.safe_load(run_yaml.read_text())
    data = run["data"] = yaml.safe_load(run_yaml.read_text())["data"]
    source = {name: data[name] for name in ("path", "text", "label")}
    raw = {"server": "127.0.0.1:1", "client": client, "data": source, "dealt": True, "threads": 1}
    raw["allow"] = {"models": [run["model"]["name"]], **ANYTHING, **allow}
    site = parse_section(SiteConfig, {**raw, "device": "cpu", **(keys or {})}, "site")
    return SiteHandler(client, lambda run: load_site(site, run), directory / f"site-{client}")


class Quiet(Callback):
    """One that remembers."""

    def __init__(self, finished=lambda metrics: None):
        self.notices, self._finished = [], finished

    def round(self, record):
        self._finished(record)

    def notice(self, text):
        self.notices.append(text)


def simulate(run_yaml, out, *overrides):
    """The run on the simulator."""
    return execute(load_config(run_yaml, overrides), out, False, Quiet(), "test")


def federate(run_yaml, out, *overrides, resume=False, finished=lambda metrics: None):
    """The run across sites."""
    config = load_config(run_yaml, ["engine.name=flower", *overrides])
    return execute(config, out, resume, Quiet(finished), "test")


def adapter(run):
    return load_file(run / "adapter" / "adapter_model.safetensors")


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(federated, simulated):
    """The same adapter, metrics and summary, up to rounding and time."""
    config = yaml.safe_load((simulated / "config.yaml").read_text())
    lossy = bool(config["stages"] or config["server"]["stages"])
    near = 1e-3 if lossy else 1e-5
    (assert_few_codes_differ if lossy else assert_same_adapter)(
        adapter(federated), adapter(simulated)
    )
    for line, other in zip(lines(federated), lines(simulated), strict=True):
        for key in other.keys() - {"seconds"}:
            expected = other[key]
            if key not in ("bytes_down", "faults"):  # an evaluation has sent some of it already
                assert_near(line[key], expected, near, key)
    summary, other = (
        json.loads((run / "summary.json").read_text()) for run in (federated, simulated)
    )
    assert summary["task"] == other["task"]
    assert summary["strata"] == other["strata"]
    assert_near(summary["detail"], other["detail"], near, "detail")
    first = summary["task"]["metrics"][0]["name"]
    exact = pytest.approx(other["final"]["test"][first], abs=1e-6)
    assert summary["final"]["test"][first] == exact
    assert summary["constant"] == pytest.approx(other["constant"], abs=1e-6)


def assert_near(found, expected, near, where):
    """Equal JSON but for numbers that are off by at most `near`, or that part of themselves."""
    if isinstance(expected, float):
        assert found == pytest.approx(expected, abs=near, rel=near), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_near(found[key], value, near, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_near(found[number], value, near, f"{where}[{number}]")
    else:
        assert found == expected, where


def assert_few_codes_differ(ours, theirs):
    """Equal but for the few numbers whose code the last bit of a client's arithmetic decides.

    Which bit that is depends on the processor; one code is 1/127 of a tensor's largest change.
    """
    assert ours.keys() == theirs.keys()
    apart = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in theirs])
    assert apart.max() < 1e-3
    assert (apart > 2e-5).float().mean() < 0.1


def assert_same_adapter(ours, theirs):
    """Equal to 1e-6; where the method moved the base, its factors are unique only as a product."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if ".lora_" not in name or tensor.shape[tensor.shape[0] > tensor.shape[1]] == 2:
            torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=0)
        elif "lora_A" in name:
            other = name.replace("lora_A", "lora_B")
            expected = theirs[other] @ tensor
            torch.testing.assert_close(ours[other] @ ours[name], expected, atol=1e-6, rtol=0)


TOP = "[{name: top_k, share: 0.1}, int8]"
SGD = ["optimizer.name=sgd", "optimizer.lr=1.0"]
SAMPLED = "federation.clients_per_round=2"
PRIVATE = [
    "privacy.noise_multiplier=0.3",
    "privacy.accountant=rdp",
    "privacy.seed=3",
    "server.weighting=uniform",
]
RUNS = {
    "rolora": [],
    "rolora, gauge, sampled": ["method.gauge=orthonormal", SAMPLED],
    "rolora, carried optimiser, gauge, sampled": [
        "optimizer.state=transport",
        "method.gauge=orthonormal",
        SAMPLED,
    ],
    "rolora, adaptive, sampled": ["method.schedule=adaptive", SAMPLED],
    "rolora, kept optimiser, head": ["optimizer.state=persist", "model.head=train", SAMPLED],
    "fedit": ["method.name=fedit", "server.optimizer=fedadam", "server.lr=0.01"],
    "ffa_lora": ["method.name=ffa_lora", SAMPLED],
    "flexlora": ["method.name=flexlora", "lora.client_ranks=[1,2,4]", SAMPLED],
    "flora": ["method.name=flora", SAMPLED],
    "flora, ranks": ["method.name=flora", "lora.client_ranks=[1,2,4]"],
    "fedex_lora, dropout": ["method.name=fedex_lora", "lora.dropout=0.2"],
    "fedsa_lora": ["method.name=fedsa_lora", "model.head=local", SAMPLED],
    "scaffold": ["method.name=scaffold", SAMPLED],
    "fedsvd": ["method.name=fedsvd", SAMPLED],
    "fedrot_lora, carried optimiser, sampled": [
        "method.name=fedrot_lora",
        "optimizer.state=transport",
        SAMPLED,
    ],
    "la_lora, sampled": ["method.name=la_lora", "method.smoothing=0.5", SAMPLED],
    "rolora, int8": ["stages=[int8]", SAMPLED],
    "rolora, int4 both ways": ["stages=[int4]", "server.stages=[int4]", SAMPLED],
    # AdamW's first steps are of one length, so that a last bit decides which are the largest.
    "rolora, top_k, int8 both ways": [f"stages={TOP}", f"server.stages={TOP}", *SGD],
    "rolora, secure sum, head": ["secure_sum.threshold=0.6", "model.head=train"],
    "scaffold, secure sum, sampled": [
        "secure_sum.threshold=0.6",
        "method.name=scaffold",
        "server.weighting=uniform",
        SAMPLED,
    ],
    "rolora, median": ["server.reducer=median"],
    "rolora, private clients, sampled": [*PRIVATE, "privacy.clip=0.1", "model.head=train", SAMPLED],
    "rolora, shares of the noise, int8": [
        *PRIVATE,
        "privacy.clip={A: 0.1, B: 0.2}",
        "privacy.noise=clients",
        "stages=[int8]",
    ],
    "rolora, shares of the noise in a secure sum": [
        *PRIVATE,
        "privacy.clip=0.1",
        "privacy.noise=clients",
        "secure_sum.threshold=0.6",
    ],
    "rolora, private examples, sampled": [
        *PRIVATE,
        "privacy.unit=example",
        "privacy.clip=0.5",
        "optimizer.state=transport",
        SAMPLED,
    ],
    "rolora, calibrated, by information": [
        "objective.logit_adjustment=1",
        "server.weighting=information",
        SAMPLED,
    ],
}


class LocalTransport:
    """Calls the sites' handlers in this process; `answered` may change what comes back."""

    def __init__(self, handlers, hello, answered=lambda client, frames: frames):
        self.handlers, self.hello, self.answered = handlers, hello, answered
        self.max_bytes, self.refusals, self.outages, self.sent = 2**31, {}, [], []

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
        except Exception as error:
            reason = reason_of(error)
            return NodeError(client, client, reason, WHY[reason], 0.0)
        reply = Reply(client, client, list(answer), 0.0)
        more = follow_up(reply)
        return reply if more is None else self.ask(client, more, lambda reply: None)


def connect_locally(monkeypatch, handlers, answers):
    """Have a run on Flower find these handlers; `answers["answered"]` may change what they say."""

    @contextmanager
    def connected(config, notice, given):
        transport = LocalTransport(handlers, connect.hello(config), answers["answered"])
        answers["transport"] = transport
        yield connect.joined(config, make_task(config.task), transport, notice)

    monkeypatch.setattr(connect, "connected", connected)
    monkeypatch.setattr(connect, "_STRAGGLERS_S", 0.0)


def personal(run):
    """The adapters of clients that keep parts of their own."""
    return {
        int(path.name): load_file(path / "adapter_model.safetensors")
        for path in (run / "adapter" / "clients").glob("*")
    }


def assert_sites_keep_theirs(directory, simulated):
    """Every site has left the adapter that the simulator has for its client."""
    for client, own in personal(simulated).items():
        [left] = directory.glob(f"*{client}/adapter/adapter_model.safetensors")
        site = load_file(left)
        assert_same_adapter(site, own)


def reasons(run, failures="failures"):
    """Per round: client and reason of each failure."""
    return [[(f["client"], f["reason"]) for f in line[failures]] for line in lines(run)]


def changed_update(change):
    """An answer whose update is changed, if it is one."""

    def answer(frames):
        if len(frames) < 2:
            return frames
        return messages.pack_update(change(messages.unpack_update(frames)))

    return answer


def with_parts(change):
    return changed_update(lambda update: replace(update, parts=change(update.parts)))


def renamed(parts):
    (module, part), *_ = parts
    return Adapter.of({("elsewhere", part): parts[module, part]})


def unasked(parts):
    """The parts, and a factor that is not this round's."""
    [(module, part), *_] = parts
    return parts.overwrite({(module, "A" if part == "B" else "B"): parts[module, part].T})


BAD = {
    "nan": with_parts(lambda parts: Adapter(parts.layout, parts.flat * float("nan"))),
    "wrong_shape": with_parts(lambda parts: Adapter.of({k: t[..., :1] for k, t in parts.items()})),
    "foreign_part": with_parts(renamed),
    "foreign_client": changed_update(lambda update: replace(update, client=1)),
    "num_examples": changed_update(lambda update: replace(update, num_examples=0)),
    "malformed": lambda frames: [frames[0], b"nonsense"] if len(frames) == 2 else frames,
    "stale": lambda frames: messages.pack_stale({}) if len(frames) == 2 else frames,
}


def is_training(frames):
    return len(frames) > 2 and json.loads(frames[0])["do"] == "train"


def step_of(frames):
    """The name of a step of a sum; of a request to train, ``masked``."""
    if len(frames) == 2:
        return json.loads(frames[0])["step"]
    return "masked" if is_training(frames) else ""


def round_of(frames):
    """Of a step, or of a request to train; 0 for any other."""
    if len(frames) == 2:
        return json.loads(frames[0])["round"]
    return messages.unpack_request(frames).plan.round if is_training(frames) else 0


def leaving(handlers, client, step, number):
    """The site does not answer that step of a round."""
    answer = handlers[client]

    def gone(frames):
        if step_of(frames) == step and round_of(frames) == number:
            raise ConnectionError
        return answer(frames)

    handlers[client] = gone
