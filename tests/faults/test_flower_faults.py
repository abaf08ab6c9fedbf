"""What a run across sites survives: real nodes and a real SuperLink, and rolora's own commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time

import pytest

pytest.importorskip("flwr")

from federated import (
    BAD,
    adapter,
    assert_same_adapter,
    assert_same_run,
    connect_locally,
    federate,
    handler,
    is_training,
    leaving,
    lines,
    reasons,
    round_of,
    simulate,
    step_of,
    unasked,
    with_parts,
)
from flower_cluster import Cluster, Commands, power_cut, wait_for_text
from rolora.engines.flower import certificates, connect, launch, transport
from rolora.report.run_report import write_report

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch):
    """For clients that are not going to come."""
    monkeypatch.setattr(connect, "_STRAGGLERS_S", 1.0)


def at(cluster):
    return f"engine.superlink={cluster.address}"


def faults(run):
    """Round and text of what went wrong with no client in particular."""
    return [(line["round"], text) for line in lines(run) for text in line["faults"]]


def assert_reported(run, *words):
    """Each is on the run's report."""
    page = write_report(run).read_text()
    assert [word for word in words if word not in page] == []


def test_a_run_outlives_its_nodes(run_yaml, tmp_path):
    """One node is killed in the middle of round 2 and comes back; another client hangs in round
    3, and sends far too much in round 4.
    """
    sites = [handler(run_yaml, client, tmp_path) for client in range(3)]
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
        options = [at(cluster), "federation.deadline=20", "rounds=6", "evaluation.every=9"]
        federate(run_yaml, tmp_path / "run", *options)
    found = reasons(tmp_path / "run")
    assert found[0] == []
    assert found[1] == [(1, "replaced")]
    assert (2, "deadline") in found[2]
    assert any((2, "too_large") in failures for failures in found[3:])
    assert all((0, reason) not in f for f in found for reason in ("deadline", "absent"))
    assert_reported(tmp_path / "run", "replaced", "deadline", "too_large")


def test_a_site_is_killed_in_a_secure_sum(run_yaml, tmp_path, monkeypatch):
    """While it trains in round 2, after the others have masked for it; and in round 4, when the sum
    of what it sent is to be opened. The adapter is that of plain runs in which the same is missing.
    """
    sites = [handler(run_yaml, client, tmp_path) for client in range(3)]
    killed = {(2, "masked"), (4, "opened")}

    def mortal(frames):
        at_step = round_of(frames), step_of(frames)
        if at_step in killed:
            killed.remove(at_step)
            threading.Thread(target=replace_node).start()
            time.sleep(30)
        return sites[1](frames)

    options = ["rounds=5", "evaluation.every=9", "federation.max_share=1"]
    with Cluster(tmp_path) as cluster:

        def replace_node():
            power_cut(cluster.nodes[1])
            cluster.start_node(1, sites[1] if not killed else mortal)

        for client, handle in enumerate((sites[0], mortal, sites[2])):
            cluster.start_node(client, handle)
        summed = ["secure_sum.threshold=0.6", "federation.deadline=25"]
        federate(run_yaml, tmp_path / "run", at(cluster), *summed, *options)
    assert reasons(tmp_path / "run") == [[], [(1, "replaced")], [], [(1, "replaced")], []]
    there = [[u["client"] for u in line["updates"]] for line in lines(tmp_path / "run")]
    assert there == [[0, 1, 2], [0, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]]

    plain = {client: handler(run_yaml, client, tmp_path / "plain") for client in range(3)}
    leaving(plain, 1, "masked", 2)
    connect_locally(monkeypatch, plain, {"answered": lambda client, frames: frames})
    federate(run_yaml, tmp_path / "plainly", *options)
    assert_same_adapter(adapter(tmp_path / "run"), adapter(tmp_path / "plainly"))


SPOILT = {
    4: ("nan", BAD["nan"]),
    5: ("wrong_shape", BAD["wrong_shape"]),
    6: ("foreign_part", BAD["foreign_part"]),
    7: ("foreign_part", with_parts(unasked)),
    8: ("too_large", lambda frames: [frames[0], os.urandom(10_000_000)]),
}


def test_a_late_comer_that_sends_nonsense(run_yaml, tmp_path, monkeypatch):
    """It joins in round 3; each kind of nonsense is named, and the adapter is that of the updates
    which were sound.
    """

    def spoiling(site):
        def handle(frames):
            answer = site(frames)
            _, spoil = SPOILT.get(round_of(frames), ("", lambda frames: frames))
            return spoil(answer)

        return handle

    # On a busy machine its hello takes longer than a round waits for it, and round 3 goes without.
    monkeypatch.setattr(transport, "_MOMENT_S", 30.0)
    directory = tmp_path / "federated"
    with Cluster(tmp_path) as cluster:

        def join(metrics):
            if metrics.round == 2:
                late = cluster.start_node(2, spoiling(handler(run_yaml, 2, directory)))
                wait_for_text(late, "serves client 2")

        for client in range(2):
            cluster.start_node(client, handler(run_yaml, client, directory))
        options = ["rounds=9", "evaluation.every=9"]
        federate(run_yaml, tmp_path / "run", at(cluster), *options, finished=join)
    named = [[(2, SPOILT[i][0])] if i in SPOILT else [] for i in range(3, 10)]
    assert reasons(tmp_path / "run") == 2 * [[(2, "absent")]] + named
    assert_reported(tmp_path / "run", "absent", *(reason for reason, _ in SPOILT.values()))

    sites = {client: handler(run_yaml, client, tmp_path / "alone") for client in range(3)}
    good = sites.pop(2)

    def only_in_rounds_3_and_9(metrics):
        sites.pop(2, None)
        if metrics.round in (2, 8):
            sites[2] = good

    connect_locally(monkeypatch, sites, {"answered": lambda client, frames: frames})
    federate(run_yaml, tmp_path / "sound", *options, finished=only_in_rounds_3_and_9)
    assert_same_adapter(adapter(tmp_path / "run"), adapter(tmp_path / "sound"))


def test_the_server_between_is_restarted(run_yaml, tmp_path):
    """In the middle of round 3: nobody fails, and the outage is named."""
    sites = [handler(run_yaml, client, tmp_path) for client in range(3)]

    def slow(frames):
        if round_of(frames) == 3:
            time.sleep(3)
        return sites[1](frames)

    with Cluster(tmp_path, database=True) as cluster:

        def restart():
            power_cut(cluster.superlink)
            cluster.start_superlink()

        def soon(metrics):
            if metrics.round == 2:
                threading.Timer(1, restart).start()

        for client, handle in enumerate((sites[0], slow, sites[2])):
            cluster.start_node(client, handle)
        federate(run_yaml, tmp_path / "run", at(cluster), finished=soon)
    simulate(run_yaml, tmp_path / "simulated")
    assert_same_run(tmp_path / "run", tmp_path / "simulated")
    assert {number for number, _ in faults(tmp_path / "run")} == {3}
    assert_reported(tmp_path / "run", "the server did not answer for")


def test_a_quorum_lost_and_found_again(run_yaml, tmp_path):
    """Two of three sites leave after round 2; the run waits until they are back."""
    sites = [handler(run_yaml, client, tmp_path) for client in range(3)]
    with Cluster(tmp_path) as cluster:

        def start(*clients):
            for client in clients:
                cluster.start_node(client, sites[client])

        def leave(metrics):
            if metrics.round == 2:
                for client in (1, 2):
                    cluster.nodes[client].stop()
                threading.Timer(3, start, (1, 2)).start()

        start(0, 1, 2)
        options = [at(cluster), "federation.quorum=1.0"]
        federate(run_yaml, tmp_path / "run", *options, finished=leave)
    simulate(run_yaml, tmp_path / "simulated")
    assert_same_adapter(adapter(tmp_path / "run"), adapter(tmp_path / "simulated"))
    assert [line["clients"] for line in lines(tmp_path / "run")] == [3, 3, 3, 3]
    assert [(n, text.rpartition(";")[0]) for n, text in faults(tmp_path / "run")] == [
        (3, "fewer than 3 of 3 clients were there")
    ]
    assert_reported(tmp_path / "run", "fewer than 3 of 3 clients were there; waited")


def test_who_is_not_let_in_does_not_hold_up_the_rest(run_yaml, tmp_path):
    """With TLS: a site whose key is not registered, one that trusts another authority."""
    keys, other = tmp_path / "keys", tmp_path / "other"
    for directory in (keys, other):
        directory.mkdir()
        certificates.make_authority(directory, directory.name)
        for client in range(3):
            certificates.make_node_key(directory / f"site{client}")
    certificates.make_server_certificate(keys, ["127.0.0.1"])
    server = launch.ServerTls(keys / "ca.crt", keys / "server.crt", keys / "server.key")
    known = launch.SiteTls(keys / "ca.crt", keys / "site0")
    unknown = launch.SiteTls(keys / "ca.crt", other / "site1")
    misled = launch.SiteTls(other / "ca.crt", keys / "site2")
    with Cluster(tmp_path, server) as cluster:
        for client in (0, 2):
            launch.register_node(cluster.home, keys / f"site{client}.pub", client)
        nodes = [
            cluster.start_node(client, handler(run_yaml, client, tmp_path), tls)
            for client, tls in enumerate((known, unknown, misled))
        ]
        wait_for_text(nodes[0], "serves client 0")
        options = [at(cluster), f"engine.authority={keys / 'ca.crt'}", "federation.quorum=0.3"]
        federate(run_yaml, tmp_path / "run", *options)
        assert [node.process.wait(30) != 0 for node in nodes[1:]] == [True, True]
    assert "[code: 2004]" in nodes[1].output()
    assert "CERTIFICATE_VERIFY_FAILED" in nodes[2].output()
    assert reasons(tmp_path / "run") == 4 * [[(1, "absent"), (2, "absent")]]
    assert_reported(tmp_path / "run", "absent")


def test_a_site_is_given_a_new_key(run_yaml, tmp_path):
    """With the old one it is not let in any more; the others notice nothing."""
    address = f"127.0.0.1:{launch.free_port()}"
    with Commands(tmp_path) as rolora:
        rolora.run("federation", "init", "f", run_yaml, "--one-machine", "--address", address)
        rolora.directory = tmp_path / "f"
        server = rolora.start("server")
        rolora.wait_for_text("serving on")
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.copytree(tmp_path / "f" / "site-1", tmp_path / "f" / "thief")
        (noted,) = (tmp_path / "f").rglob("registered.json")
        sites = json.loads(noted.read_text())
        sites[2]["node"] = None  # as a stop leaves it that came while the site was let in
        noted.write_text(json.dumps(sites))
        rolora.run("federation", "rekey", ".", 1)
        rolora.run("federation", "renew", ".", "--address", address)
        rolora.start("server")
        rolora.wait_for_text("serving on", times=2)
        thief = rolora.start("client", "--config", "thief/site.yaml")
        rolora.wait_for_text("does not know this site's key")
        thief.send_signal(signal.SIGINT)
        for client in range(3):
            rolora.start("client", "--config", f"site-{client}/site.yaml")
        rolora.run("run", "run.yaml", "--out", tmp_path / "run")
    assert reasons(tmp_path / "run") == 4 * [[]]


def test_commands_from_nothing_to_an_adapter(run_yaml, tmp_path):
    """``federation init``, ``server``, ``client`` and ``run`` with TLS; the run is killed after
    round 3, of which no checkpoint is left, and goes on to the adapter of one that was not.
    """
    address, options = f"127.0.0.1:{launch.free_port()}", ["rounds=8", "checkpoint.every=2"]
    with Commands(tmp_path) as rolora:
        rolora.run("federation", "init", "f", run_yaml, "--one-machine", "--address", address)
        rolora.directory = tmp_path / "f"
        rolora.start("server")
        rolora.wait_for_text("serving on")
        for client in range(3):
            rolora.start("client", "--config", f"site-{client}/site.yaml")
        run = tmp_path / "f" / "runs" / "first"
        killed = rolora.start("run", "run.yaml", *options, "--out", run)
        rolora.wait_for_round(3, run, killed)
        killed.kill()
        killed.wait()
        rolora.run("run", "run.yaml", *options, "--out", run, "--resume")
        for client in range(3):
            left = tmp_path / "f" / f"site-{client}" / "state" / "adapter"
            assert (left / "adapter_model.safetensors").exists()
    simulate(run_yaml, tmp_path / "simulated", *options)
    assert_same_run(run, tmp_path / "simulated")
    assert ["interrupted" in text for _, text in faults(run)] == [True]
    assert_reported(run, "the run was interrupted")
