"""Rounds across sites against the simulator, without the processes and the network between."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from federated import (
    ANYTHING,
    BAD,
    RUNS,
    adapter,
    assert_same_adapter,
    assert_same_run,
    assert_sites_keep_theirs,
    changed_update,
    federate,
    handler,
    leaving,
    lines,
    reasons,
    simulate,
    unasked,
    with_parts,
)
from rolora.config import load_config
from rolora.core.errors import BadInput, RunFailed
from rolora.core.types import Adapter
from rolora.engines.flower import connect, messages, settings
from rolora.engines.flower.certificates import make_node_key
from rolora.engines.flower.serve import load_site
from rolora.engines.flower.settings import SiteConfig
from rolora.engines.flower.told import Declined
from rolora.report.run_report import write_report


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_as_on_the_simulator(sites, run_yaml, tmp_path, overrides):
    federate(run_yaml, tmp_path / "federated", *overrides)
    simulate(run_yaml, tmp_path / "simulated", *overrides)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    assert_sites_keep_theirs(tmp_path, tmp_path / "simulated")


def test_only_what_a_site_lacks_is_sent(sites, run_yaml, tmp_path):
    """A site whose worker was started anew is sent all in the same round; the others are not."""
    handlers, answers = sites

    def restart(metrics):
        if metrics.round == 2:
            handlers[1] = handler(run_yaml, 1, tmp_path)
            handlers[1](answers["transport"].hello)

    options = ["evaluation.every=9", "model.head=train"]
    federate(run_yaml, tmp_path / "federated", *options, finished=restart)
    simulate(run_yaml, tmp_path / "simulated", *options)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    sent = {client: [] for client in range(3)}
    for client, size in answers["transport"].sent:
        sent[client].append(size)
    assert len(sent[1]) == len(sent[0]) + 1
    usual, again = sent[1][2], sent[1][3]
    assert again < usual  # the head has come with the first attempt
    assert sent[0][2] == usual


def test_whoever_lacks_what_an_increment_adds_to_is_sent_the_part_itself(sites, run_yaml, tmp_path):
    """A site that was started anew before round 3, and one whose copy of round 1 is another."""
    handlers, answers = sites

    def lose(metrics):
        if metrics.round == 1:
            held = handlers[2]._site.replicas[2].held
            for key, parts in held.items():
                held[key] = Adapter(parts.layout, parts.flat + 1.0)
        if metrics.round == 2:
            handlers[1] = handler(run_yaml, 1, tmp_path)
            handlers[1](answers["transport"].hello)

    options = ["evaluation.every=9", "stages=[int8]", "server.stages=[int8]"]
    federate(run_yaml, tmp_path / "federated", *options, finished=lose)
    simulate(run_yaml, tmp_path / "simulated", *options)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    sent = {client: [] for client in range(3)}
    for client, size in answers["transport"].sent:
        sent[client].append(size)
    assert [len(sent[client]) for client in range(3)] == [6, 7, 7]
    assert sent[1][3] > sent[1][2] == sent[0][2] < sent[0][0]


def test_what_a_client_keeps_survives_the_site(sites, run_yaml, tmp_path):
    handlers, answers = sites

    def restart_all(metrics):
        for client in handlers:
            handlers[client] = handler(run_yaml, client, tmp_path)
            handlers[client](answers["transport"].hello)

    options = ["method.name=fedsa_lora", "model.head=local", "optimizer.state=persist"]
    federate(run_yaml, tmp_path / "federated", *options, finished=restart_all)
    simulate(run_yaml, tmp_path / "simulated", *options)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    assert_sites_keep_theirs(tmp_path, tmp_path / "simulated")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["method.name=fedsa_lora", "model.head=local", "optimizer.state=persist"],
        ["stages=[int8]", "server.stages=[int8]"],
    ],
)
def test_a_server_killed_between_checkpoints_goes_on_to_the_same(
    sites, run_yaml, tmp_path, options
):
    """Three rounds are done, two are in a checkpoint; the third is done again, from what the
    clients kept before it.
    """

    class PowerCut(BaseException):
        pass

    def cut(metrics):
        if metrics.round == 3:
            raise PowerCut

    options = [*options, "rounds=5", "checkpoint.every=2"]
    with pytest.raises(PowerCut):
        federate(run_yaml, tmp_path / "federated", *options, finished=cut)
    federate(run_yaml, tmp_path / "federated", *options, resume=True)
    simulate(run_yaml, tmp_path / "simulated", *options)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    assert [line["round"] for line in lines(tmp_path / "federated")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("unit", ["client", "example"])
def test_a_private_run_that_is_cut_while_sites_evaluate_goes_on_with_what_they_were_sent(
    sites, run_yaml, tmp_path, unit
):
    """Though a site does not answer round 2 any more, which would make another round of it."""
    handlers, _ = sites
    first = handlers[0]

    def copying(frames):
        request = messages.unpack_request(frames) if len(frames) > 2 else None
        if request and request.do == "evaluate" and request.plan.round == 3:
            shutil.copytree(tmp_path / "whole", tmp_path / "cut", dirs_exist_ok=True)
        return first(frames)

    handlers[0] = copying
    options = [f"privacy.unit={unit}", "privacy.clip=0.5", "privacy.noise_multiplier=1"]
    options += ["privacy.accountant=rdp", "evaluation.every=1", "rounds=3"]
    options += ["server.weighting=uniform"] if unit == "client" else []
    federate(run_yaml, tmp_path / "whole", *options)
    assert len(lines(tmp_path / "cut")) == 1

    handlers[0] = first
    leaving(handlers, 1, "masked", 2)
    federate(run_yaml, tmp_path / "cut", *options, resume=True)
    whole, cut = adapter(tmp_path / "whole"), adapter(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    told = {"seconds", "bytes_down", "faults"}  # that it was cut, and what is sent again for that
    for one, other in zip(lines(tmp_path / "cut"), lines(tmp_path / "whole"), strict=True):
        assert {k: one[k] for k in one.keys() - told} == {k: other[k] for k in other.keys() - told}


def test_a_run_whose_directory_was_moved_finds_what_its_clients_keep(sites, run_yaml, tmp_path):
    class PowerCut(BaseException):
        pass

    def cut(metrics):
        if metrics.round == 3:
            raise PowerCut

    options = ["method.name=fedsa_lora", "model.head=local", "optimizer.state=persist", "rounds=4"]
    with pytest.raises(PowerCut):
        federate(run_yaml, tmp_path / "first", *options, finished=cut)
    shutil.move(tmp_path / "first", tmp_path / "moved")
    federate(run_yaml, tmp_path / "moved", *options, resume=True)
    simulate(run_yaml, tmp_path / "simulated", *options)
    assert_same_run(tmp_path / "moved", tmp_path / "simulated")
    assert_sites_keep_theirs(tmp_path, tmp_path / "simulated")


def test_a_site_that_joins_late_takes_part_from_then_on(sites, run_yaml, tmp_path):
    handlers, _ = sites
    late = handlers.pop(2)

    def join(metrics):
        if metrics.round == 2:
            handlers[2] = late

    federate(run_yaml, tmp_path / "federated", finished=join)
    assert [line["clients"] for line in lines(tmp_path / "federated")] == [2, 2, 3, 3]
    assert reasons(tmp_path / "federated") == [[(2, "absent")], [(2, "absent")], [], []]
    summary = json.loads((tmp_path / "federated" / "summary.json").read_text())
    assert all(sum(row) > 0 for row in summary["strata"]["table"])


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_answer_is_named_and_left_out(sites, run_yaml, tmp_path, reason):
    handlers, answers = sites
    answers["answered"] = lambda client, frames: BAD[reason](frames) if client == 2 else frames
    federate(run_yaml, tmp_path / "bad", "rounds=2")
    assert reasons(tmp_path / "bad") == 2 * [[(2, reason)]]
    assert [line["clients"] for line in lines(tmp_path / "bad")] == [2, 2]
    del handlers[2]
    answers["answered"] = lambda client, frames: frames
    federate(run_yaml, tmp_path / "without", "rounds=2")
    assert_same_adapter(adapter(tmp_path / "bad"), adapter(tmp_path / "without"))


def test_a_part_that_was_not_asked_for_is_refused(sites, run_yaml, tmp_path):
    _, answers = sites

    answers["answered"] = lambda c, frames: with_parts(unasked)(frames) if c == 0 else frames
    federate(run_yaml, tmp_path / "bad", "rounds=1")
    assert lines(tmp_path / "bad")[0]["failures"][0]["reason"] == "foreign_part"


def test_a_site_that_claims_to_teach_more_than_it_holds_is_refused(sites, run_yaml, tmp_path):
    """Its own number counts where the run asks for it, up to the count with which it joined."""
    _, answers = sites
    boast = changed_update(lambda update: replace(update, weight=update.num_examples + 0.5))
    answers["answered"] = lambda client, frames: boast(frames) if client == 1 else frames
    federate(run_yaml, tmp_path / "asked", "rounds=1", "server.weighting=information")
    assert reasons(tmp_path / "asked") == [[(1, "weight")]]
    federate(run_yaml, tmp_path / "unasked", "rounds=1")
    answers["answered"] = lambda client, frames: frames
    federate(run_yaml, tmp_path / "plain", "rounds=1")
    assert reasons(tmp_path / "unasked") == [[]]
    assert_same_adapter(adapter(tmp_path / "unasked"), adapter(tmp_path / "plain"))


def test_a_lost_quorum_ends_the_run_and_it_goes_on_once_found(sites, run_yaml, tmp_path):
    handlers, _ = sites
    gone = {}

    def leave(metrics):
        if metrics.round == 2:
            gone.update({client: handlers.pop(client) for client in (1, 2)})

    with pytest.raises(RunFailed, match="quorum"):
        federate(run_yaml, tmp_path / "federated", "engine.patience=0.1", finished=leave)
    assert len(lines(tmp_path / "federated")) == 2
    handlers.update(gone)
    federate(run_yaml, tmp_path / "federated", resume=True)
    simulate(run_yaml, tmp_path / "simulated")
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")


def test_a_site_refuses_what_is_not_for_it(sites, run_yaml, tmp_path):
    """More clients than the run has, another's plan, other data than the run began with."""
    stranger = handler(run_yaml, 7, tmp_path)
    config = load_config(run_yaml, ["engine.name=flower"])
    with pytest.raises(Declined, match="client = 7: the run has 3 clients"):
        stranger(connect.hello(config))
    handlers, _ = sites
    federate(run_yaml, tmp_path / "run", "rounds=1")
    noted = next((tmp_path / "site-0" / "runs").iterdir()) / "data"
    noted.write_text("others")
    handlers[0] = handler(run_yaml, 0, tmp_path)
    options = ["rounds=2", "federation.quorum=0.5"]
    federate(run_yaml, tmp_path / "run", *options, resume=True)
    [failure] = lines(tmp_path / "run")[1]["failures"]
    assert failure["reason"] == "other_data"
    assert "not those with which it began" in failure["detail"]


def greeting(handle, **changes):
    """The site, which says something else of its data when it joins."""

    def answer(frames):
        answers = handle(frames)
        if len(frames) > 1:
            return answers
        return [json.dumps({**json.loads(answers[0]), **changes}).encode()]

    return answer


@pytest.mark.parametrize("odd", [0, 1])
def test_a_site_of_other_labels_fails_alone(sites, run_yaml, tmp_path, odd):
    handlers, _ = sites
    handlers[odd] = greeting(handlers[odd], names=["a", "b"])
    federate(run_yaml, tmp_path / "run", "rounds=2")
    assert reasons(tmp_path / "run") == [[(odd, "other_labels")]] * 2
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"]["label_names"] == ["no", "yes"]
    assert [sum(row) > 0 for row in summary["strata"]["table"]] == [c != odd for c in range(3)]


def test_sites_must_agree_on_the_labels(sites, run_yaml, tmp_path):
    handlers, _ = sites
    handlers[1] = greeting(handlers[1], names=["a", "b"])
    with pytest.raises(BadInput, match=r"client 1: its labels are a, b, .* data\.labels"):
        federate(run_yaml, tmp_path / "run", "federation.quorum=1.0")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [1, 1000, -1])
def test_a_site_is_held_after_a_restart_to_the_examples_that_it_declared(
    sites, run_yaml, tmp_path, more
):
    handlers, _ = sites
    federate(run_yaml, tmp_path / "run", "rounds=2")
    facts = json.loads(handlers[1](connect.hello(load_config(run_yaml, [])))[0])
    facts["examples"]["train"] += more
    facts["strata"]["train"][0] += more
    honest = handlers[1]
    handlers[1] = greeting(honest, examples=facts["examples"], strata=facts["strata"])
    federate(run_yaml, tmp_path / "run", "rounds=3", resume=True)
    handlers[1] = honest
    federate(run_yaml, tmp_path / "run", "rounds=4", resume=True)
    assert reasons(tmp_path / "run") == [[], [], [(1, "other_facts")], []]


def test_a_site_with_its_own_data(run_yaml, tmp_path):
    """All of a site's file is its own; the run says how long a text may be and names the labels."""
    file = tmp_path / "own.csv"
    file.write_text("note,kind\n" + "".join(f"w{i} w{i + 1} w{i + 2},yes\n" for i in range(30)))
    raw = {
        "server": "h:1",
        "client": 1,
        "data": {"path": "own.csv", "text": "note", "label": "kind", "test": 0.2},
        "tls": {"authority": "ca.crt", "node_key": "key"},
        "allow": {"models": [yaml.safe_load(run_yaml.read_text())["model"]["name"]], **ANYTHING},
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(raw))
    make_node_key(tmp_path / "key")
    site = settings.load_settings(SiteConfig, tmp_path / "site.yaml")
    assert site.data.path == file
    assert site.tls.node_key == tmp_path / "key"
    assert site.state == tmp_path / "state"
    loaded = load_site(site, load_config(run_yaml, ["data.labels=['no', 'yes']"]))
    assert loaded.facts.names == ("no", "yes")
    assert loaded.facts.strata["train"][0] == 0
    assert sum(loaded.facts.examples.values()) == 30
    assert loaded.facts.examples["test"] == 6
    assert loaded.config.data.max_length == 16
    assert [len(split.shares) for split in loaded.splits.values()] == [1, 1, 1]


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
    assert settings.is_loopback(address) == loopback
    if not loopback:
        with pytest.raises(BadInput, match="--insecure"):
            settings._insecure("server", address, False, said.append)
        settings._insecure("server", address, True, said.append)
        assert "WARNING" in said[0]


def test_what_an_evaluation_sends_is_counted(sites, run_yaml, tmp_path):
    """Sent to be evaluated, a factor need not be sent to be trained on; the last one is extra."""
    federate(run_yaml, tmp_path / "federated", "evaluation.every=1")
    simulate(run_yaml, tmp_path / "simulated", "evaluation.every=1")
    sent, usual = (
        sum(line["bytes_down"] for line in lines(tmp_path / run))
        for run in ("federated", "simulated")
    )
    last = lines(tmp_path / "simulated")[-1]["bytes_up"]
    assert sent == usual + last


def test_a_client_that_is_not_evaluated_is_named(sites, run_yaml, tmp_path):
    """Whether it gives nonsense for an answer or is not there; on the report as well."""
    handlers, answers = sites

    def answered(client, frames):
        return [b"nonsense"] if client == 1 and b"evaluations" in frames[0] else frames

    def leave(metrics):
        handlers.pop(2, None)

    answers["answered"] = answered
    options = ["rounds=2", "evaluation.every=1"]
    federate(run_yaml, tmp_path / "run", *options, finished=leave)
    found = reasons(tmp_path / "run", "eval_failures")
    assert found == [[(1, "malformed")], [(1, "malformed"), (2, "absent")]]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    tested = [(failure["client"], failure["reason"]) for failure in summary["test_failures"]]
    assert tested == [(1, "malformed"), (2, "absent")]
    assert [row["client"] for row in summary["clients"]] == [0]
    assert sum(row["examples"] for row in summary["clients"]) == summary["test_examples"]
    page = write_report(tmp_path / "run").read_text()
    assert "malformed (evaluation)" in page
    assert "<td>test</td>" in page
