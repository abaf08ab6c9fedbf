"""A federation over a network: a server and three sites, each a host in a network namespace."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

pytest.importorskip("flwr")

from federated import lines, reasons
from flower_cluster import Commands
from rolora.report.run_report import write_report

pytestmark = pytest.mark.faults
PORT, DEADLINE_S = 9092, 6


class Hosts:
    """Network namespaces on one bridge; the first, ``0``, is the server's and has the bridge.

    Raises:
        CalledProcessError: the machine does not allow it.
    """

    def __init__(self, count: int):
        self._prefix, self._count = f"rolora{os.getpid()}-", count
        try:
            self._make()
        except subprocess.CalledProcessError:
            self.remove()
            raise

    def name(self, number: int) -> str:
        return f"{self._prefix}{number}"

    def address(self, number: int) -> str:
        return f"10.77.0.{number + 1}"

    def cut_off(self, number: int) -> None:
        """Pull the host's cable."""
        self._ip("-n", self.name(0), "link", "set", f"port{number}", "down")

    def reconnect(self, number: int) -> None:
        self._ip("-n", self.name(0), "link", "set", f"port{number}", "up")

    def remove(self) -> None:
        for number in range(self._count):
            subprocess.run(["ip", "netns", "del", self.name(number)], check=False)

    def _make(self) -> None:
        server = self.name(0)
        for number in range(self._count):
            self._ip("netns", "add", self.name(number))
            self._ip("-n", self.name(number), "link", "set", "lo", "up")
        self._ip("-n", server, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", server, "addr", "add", f"{self.address(0)}/24", "dev", "bridge")
        self._ip("-n", server, "link", "set", "bridge", "up")
        for number in range(1, self._count):
            site, port = self.name(number), f"port{number}"
            pair = ["type", "veth", "peer", "name", "cable", "netns", site]
            self._ip("-n", server, "link", "add", port, *pair)
            self._ip("-n", server, "link", "set", port, "master", "bridge", "up")
            self._ip("-n", site, "addr", "add", f"{self.address(number)}/24", "dev", "cable")
            self._ip("-n", site, "link", "set", "cable", "up")

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """A server and three sites."""
    try:
        made = Hosts(4)
    except FileNotFoundError:
        pytest.skip("network namespaces: there is no ip command")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed: {error.stderr.strip()}")
    yield made
    made.remove()


def test_a_host_cut_off_in_the_middle_of_a_run(hosts, run_yaml, tmp_path):
    """With TLS. Its cable is pulled after round 2 and put back once it has missed a round; the
    others go on, and it takes part again.
    """
    address, run = f"{hosts.address(0)}:{PORT}", tmp_path / "f" / "runs" / "first"
    options = ["rounds=16", f"federation.deadline={DEADLINE_S}", "evaluation.every=99"]
    with Commands(tmp_path) as rolora:
        rolora.run("federation", "init", "f", run_yaml, "--one-machine", "--address", address)
        rolora.directory = tmp_path / "f"
        rolora.start("server", host=hosts.name(0))
        rolora.wait_for_text("serving on")
        for client in range(3):
            config = f"site-{client}/site.yaml"
            rolora.start("client", "--config", config, host=hosts.name(client + 1))
        running = rolora.start("run", "run.yaml", *options, "--out", run, host=hosts.name(0))
        rolora.wait_for_round(2, run, running)
        hosts.cut_off(2)
        rolora.wait_for_round(len(lines(run)) + 2, run, running)
        missed = time.monotonic()
        hosts.reconnect(2)
        assert running.wait(200) == 0, rolora.output()
        print(f"ended {time.monotonic() - missed:.0f} s after the cable was put back")
    found = reasons(run)
    assert len(found) == 16
    assert {client for failures in found for client, _ in failures} == {1}
    named = {reason for failures in found for _, reason in failures}
    assert named <= {"deadline", "node_lost", "absent", "replaced"}
    assert found[-1] == []
    assert "deadline" in write_report(run).read_text()
