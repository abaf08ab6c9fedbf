"""Rounds on Flower against the simulator, and what a federation survives: real processes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rolora import federation
from rolora.config import load_config, parse_section
from rolora.engines.flower import messages
from rolora.engines.flower.handler import SiteHandler
from rolora.engines.flower.results import NodeError, Reply
from rolora.federation import SiteConfig, load_site
from rolora.run import execute
from rolora.types import Adapter, BadInput, RunFailed


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


def products(tensors):
    """``B A`` a module, and the head: the factors of an SVD are not unique, their product is."""
    whole = {name: t for name, t in tensors.items() if ".lora_" not in name}
    for name, A in tensors.items():
        if ".lora_A." in name:
            whole[name] = tensors[name.replace(".lora_A.", ".lora_B.")] @ A
    return whole


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(federated, simulated):
    """The same adapter, metrics and summary, up to rounding and time."""
    assert_same_adapter(adapter(federated), adapter(simulated))
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
        except Exception as error:
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
        assert_same_adapter(site, own)


def personal(run):
    """The adapters of clients that keep parts of their own."""
    return {
        int(path.name): load_file(path / "adapter_model.safetensors")
        for path in (run / "adapter" / "clients").glob("*")
    }


def test_only_what_a_site_lacks_is_sent(sites, settings, tmp_path):
    """A site whose worker was started anew is sent all in the same round; the others are not."""
    handlers, answers = sites

    def restart(metrics):
        if metrics["round"] == 2:
            handlers[1] = handler(settings, 1, tmp_path)
            handlers[1](answers["transport"].hello)

    options = ["evaluation.every=9", "model.head=train"]
    federate(settings, tmp_path / "federated", *options, finished=restart)
    simulate(settings, tmp_path / "simulated", *options)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    sent = {client: [] for client in range(3)}
    for client, size in answers["transport"].sent:
        sent[client].append(size)
    assert len(sent[1]) == len(sent[0]) + 1
    usual, again = sent[1][2], sent[1][3]
    assert again < usual  # the head has come with the first attempt
    assert sent[0][2] == usual


def test_what_a_client_keeps_survives_the_site(sites, settings, tmp_path):
    handlers, answers = sites

    def restart_all(metrics):
        for client in handlers:
            handlers[client] = handler(settings, client, tmp_path)
            handlers[client](answers["transport"].hello)

    options = ["method.name=fedsa_lora", "model.head=local", "optimizer.state=persist"]
    federate(settings, tmp_path / "federated", *options, finished=restart_all)
    simulate(settings, tmp_path / "simulated", *options)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    for client, own in personal(tmp_path / "simulated").items():
        assert_same_adapter(
            load_file(tmp_path / f"site-{client}/adapter/adapter_model.safetensors"), own
        )


@pytest.mark.parametrize(
    "options", [[], ["method.name=fedsa_lora", "model.head=local", "optimizer.state=persist"]]
)
def test_a_server_killed_between_checkpoints_goes_on_to_the_same(
    sites, settings, tmp_path, options
):
    """Three rounds are done, two are in a checkpoint; the third is done again, from what the
    clients kept before it.
    """

    class PowerCut(BaseException):
        pass

    def cut(metrics):
        if metrics["round"] == 3:
            raise PowerCut

    options = [*options, "rounds=5", "checkpoint.every=2"]
    with pytest.raises(PowerCut):
        federate(settings, tmp_path / "federated", *options, finished=cut)
    federate(settings, tmp_path / "federated", *options, resume=True)
    simulate(settings, tmp_path / "simulated", *options)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    assert [line["round"] for line in lines(tmp_path / "federated")] == [1, 2, 3, 4, 5]


def test_a_site_that_joins_late_takes_part_from_then_on(sites, settings, tmp_path):
    handlers, _ = sites
    late = handlers.pop(2)

    def join(metrics):
        if metrics["round"] == 2:
            handlers[2] = late

    federate(settings, tmp_path / "federated", finished=join)
    found = lines(tmp_path / "federated")
    assert [line["clients"] for line in found] == [2, 2, 3, 3]
    assert [[f["reason"] for f in line["failures"]] for line in found] == [
        ["absent"],
        ["absent"],
        [],
        [],
    ]
    summary = json.loads((tmp_path / "federated" / "summary.json").read_text())
    assert all(sum(row) > 0 for row in summary["label_table"])


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


BAD = {
    "nan": with_parts(lambda parts: Adapter(parts.layout, parts.flat * float("nan"))),
    "wrong_shape": with_parts(lambda parts: Adapter.of({k: t[..., :1] for k, t in parts.items()})),
    "foreign_part": with_parts(renamed),
    "foreign_client": changed_update(lambda update: replace(update, client=1)),
    "num_examples": changed_update(lambda update: replace(update, num_examples=0)),
    "malformed": lambda frames: [frames[0], b"nonsense"] if len(frames) == 2 else frames,
    "stale": lambda frames: messages.pack_stale({}) if len(frames) == 2 else frames,
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_answer_is_named_and_left_out(sites, settings, tmp_path, reason):
    handlers, answers = sites
    answers["answered"] = lambda client, frames: BAD[reason](frames) if client == 2 else frames
    federate(settings, tmp_path / "bad", "rounds=2")
    for line in lines(tmp_path / "bad"):
        assert [(f["client"], f["reason"]) for f in line["failures"]] == [(2, reason)]
        assert line["clients"] == 2
    del handlers[2]
    answers["answered"] = lambda client, frames: frames
    federate(settings, tmp_path / "without", "rounds=2")
    assert_same_adapter(adapter(tmp_path / "bad"), adapter(tmp_path / "without"))


def test_a_part_that_was_not_asked_for_is_refused(sites, settings, tmp_path):
    _, answers = sites

    def both(parts):
        [(module, part), *_] = parts
        return parts.overwrite({(module, "A" if part == "B" else "B"): parts[module, part].T})

    answers["answered"] = lambda c, frames: with_parts(both)(frames) if c == 0 else frames
    federate(settings, tmp_path / "bad", "rounds=1")
    assert lines(tmp_path / "bad")[0]["failures"][0]["reason"] == "foreign_part"


def test_a_lost_quorum_ends_the_run_and_it_goes_on_once_found(sites, settings, tmp_path):
    handlers, _ = sites
    gone = {}

    def leave(metrics):
        if metrics["round"] == 2:
            gone.update({client: handlers.pop(client) for client in (1, 2)})

    with pytest.raises(RunFailed, match="quorum"):
        federate(settings, tmp_path / "federated", "engine.patience=0.1", finished=leave)
    assert len(lines(tmp_path / "federated")) == 2
    handlers.update(gone)
    federate(settings, tmp_path / "federated", resume=True)
    simulate(settings, tmp_path / "simulated")
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")


def test_a_site_refuses_what_is_not_for_it(sites, settings, tmp_path):
    """More clients than the run has, another's plan, other data than the run began with."""
    stranger = handler(settings, 7, tmp_path)
    config = load_config(settings, ["engine.name=flower"])
    with pytest.raises(BadInput, match="client = 7: the run has 3 clients"):
        stranger(federation.hello(config))
    handlers, _ = sites
    federate(settings, tmp_path / "run", "rounds=1")
    noted = next((tmp_path / "site-0" / "runs").iterdir()) / "data"
    noted.write_text("others")
    handlers[0] = handler(settings, 0, tmp_path)
    options = ["rounds=2", "federation.quorum=0.5"]
    federate(settings, tmp_path / "run", *options, resume=True)
    [failure] = lines(tmp_path / "run")[1]["failures"]
    assert failure["reason"] == "client_error"
    assert "not those with which this site began" in failure["detail"]


def test_sites_must_agree_on_the_labels(sites, settings, tmp_path):
    handlers, _ = sites
    other = json.dumps(
        {
            "protocol": 1,
            "label_names": ["a", "b"],
            "labels": {"train": [3, 3], "validation": [1, 1], "test": [1, 1]},
            "test_from": "",
            "fingerprint": "",
        }
    )
    handlers[1] = lambda frames: [other.encode()]
    with pytest.raises(BadInput, match=r"client 1: its labels are a, b, .* data\.labels"):
        federate(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_site_with_its_own_data(settings, tmp_path):
    """All of a site's file is its own; the run says how long a text may be and names the labels."""
    file = tmp_path / "own.csv"
    file.write_text("note,kind\n" + "".join(f"w{i} w{i + 1} w{i + 2},yes\n" for i in range(30)))
    raw = {
        "server": "h:1",
        "client": 1,
        "data": {"path": "own.csv", "text": "note", "label": "kind", "test": 0.2},
        "tls": {"authority": "ca.crt", "node_key": "key"},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(raw))
    site = federation.load_settings(SiteConfig, tmp_path / "site.yaml")
    assert site.data.path == file
    assert site.tls.node_key == tmp_path / "key"
    assert site.state == tmp_path / "state"
    loaded = load_site(site, load_config(settings, ["data.labels=['no', 'yes']"]))
    assert loaded.facts.label_names == ("no", "yes")
    assert loaded.facts.labels["train"][0] == 0
    assert sum(loaded.facts.examples(s) for s in ("train", "validation", "test")) == 30
    assert loaded.facts.examples("test") == 6
    assert loaded.config.data.max_length == 16
    assert [len(rows) for rows in loaded.engine.splits["train"].shares][::2] == [0, 0]


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("example.org:1", False),
        ("0.0.0.0:1", False),
        ("10.0.0.3:1", False),
    ],
)
def test_a_network_needs_tls_or_a_word(address, loopback):
    said = []
    assert federation.is_loopback(address) == loopback
    if not loopback:
        with pytest.raises(BadInput, match="--insecure"):
            federation._insecure("server", address, False, said.append)
        federation._insecure("server", address, True, said.append)
        assert "WARNING" in said[0]


def power_cut(service):
    """End a node as a power cut would."""
    os.killpg(service.process.pid, signal.SIGKILL)
    service.process.wait()


@pytest.mark.faults
class TestFaults:
    """The rounds themselves over real processes, some of which fail."""

    def test_a_run_outlives_its_nodes(self, settings, tmp_path):
        """One node is killed in the middle of round 2 and comes back; another client hangs in
        round 3, and sends far too much in round 4.
        """
        pytest.importorskip("flwr")
        from flower_cluster import Cluster

        sites = [handler(settings, client, tmp_path) for client in range(3)]
        trained = {1: 0, 2: 0}

        def killed(frames):
            if is_training(frames):
                trained[1] += 1
                if trained[1] == 2:
                    threading.Thread(target=replace_node).start()
                    time.sleep(30)
            return sites[1](frames)

        def odd(frames):
            answer = sites[2](frames)
            if is_training(frames):
                trained[2] += 1
                if trained[2] == 3:
                    time.sleep(30)
                if trained[2] == 4:
                    return [answer[0], os.urandom(10_000_000)]
            return answer

        with Cluster(tmp_path) as cluster:

            def replace_node():
                power_cut(cluster.nodes[1])
                cluster.start_node(1, sites[1])

            for client, handle in enumerate((sites[0], killed, odd)):
                cluster.start_node(client, handle)
            options = [f"engine.superlink={cluster.address}", "federation.deadline=20"]
            federate(settings, tmp_path / "run", *options, "rounds=6", "evaluation.every=9")
        found = [
            [(f["client"], f["reason"]) for f in x["failures"]] for x in lines(tmp_path / "run")
        ]
        assert found[0] == []
        assert found[1] == [(1, "replaced")]
        assert (2, "deadline") in found[2]
        assert any((2, "too_large") in failures for failures in found[3:])
        assert all((0, reason) not in f for f in found for reason in ("deadline", "absent"))


def is_training(frames):
    return len(frames) > 1 and json.loads(frames[0])["do"] == "train"
