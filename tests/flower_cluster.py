"""A real Flower federation on loopback for tests: a SuperLink, and sites with their nodes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rolora.engines.flower import launch
from rolora.engines.flower.session import flower_run
from rolora.engines.flower.transport import FlowerTransport
from rolora.engines.flower.worker import Handler, Worker


class Cluster:
    """A SuperLink and its nodes, all ended on exit.

    Args:
        directory: for logs and state.
        tls: None for a SuperLink without TLS that lets any node in.
        database: keep the SuperLink's state in a file, so that it can be restarted.
    """

    def __init__(
        self, directory: Path, tls: launch.ServerTls | None = None, database: bool = False
    ):
        self.directory, self._tls = directory, tls
        self.address = f"127.0.0.1:{launch.free_port()}"
        self._authority = tls.authority if tls else None
        self._database = directory / "state.db" if database else None
        self.home = directory / "home"
        self.nodes: dict[int, launch.Service] = {}
        self._started: list[launch.Service] = []
        self._workers: list[Worker] = []
        launch.prepare(self.home, self.address, self._authority)
        self.start_superlink()

    def start_superlink(self) -> None:
        self.superlink = launch.start_superlink(
            self.directory, self.address, self._tls, self._database
        )

    def start_worker(self, handle: Handler) -> Path:
        """A worker in a thread of this process; returns its socket."""
        worker = Worker(handle)
        self._workers.append(worker)
        threading.Thread(target=worker.run, daemon=True).start()
        return worker.path

    def start_node(
        self, client: int, handle: Handler, tls: launch.SiteTls | None = None
    ) -> launch.Service:
        """A worker and rolora's node in front of it."""
        session = self.directory / f"{tls.node_key.name if tls else client}.id"
        worker = self.start_worker(handle)
        return self._start(client, launch.node_command(self.address, client, worker, tls, session))

    def start_supernode(self, client: int, handle: Handler) -> launch.Service:
        """A worker and Flower's own SuperNode in front of it."""
        worker, port = self.start_worker(handle), launch.free_port()
        return self._start(
            client, launch.supernode_command(self.address, client, worker, None, port)
        )

    def _start(self, client: int, command: list[str]) -> launch.Service:
        log, home = self.directory / f"node{client}.log", self.directory / f"node{client}"
        self.nodes[client] = launch.Service(command, log, home)
        self._started.append(self.nodes[client])
        return self.nodes[client]

    @contextlib.contextmanager
    def run(
        self, clients: int, max_bytes: int = 2**30, patience_s: float = 60.0
    ) -> Iterator[FlowerTransport]:
        """Start a run and wait until `clients` are connected."""
        with flower_run(self.home, self.address, self._authority, patience_s) as grid:
            transport = FlowerTransport(grid, [b"hello"], [], max_bytes)
            transport.wait_for(clients, 60.0)
            yield transport

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for service in [*self._started, self.superlink]:
            service.stop()
        for worker in self._workers:
            worker.close()


def power_cut(service):
    """End a program and its group as a power cut would."""
    os.killpg(service.process.pid, signal.SIGKILL)
    service.process.wait()


def wait_for_text(service, text, timeout_s=30):
    """Until the program has written it."""
    end = time.monotonic() + timeout_s
    while text not in service.output():
        assert time.monotonic() < end, service.output()
        time.sleep(0.05)


class Commands:
    """Runs rolora's commands in a directory; all are ended on exit."""

    def __init__(self, directory: Path):
        self.directory, self.log = directory, directory / "commands.log"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: object, host: str = "") -> subprocess.Popen[bytes]:
        """Start a command, in the network namespace `host` if one is named."""
        within = ["ip", "netns", "exec", host] if host else []
        command = [*within, sys.executable, "-m", "rolora", *map(str, arguments)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=log)
        self._started.append(process)
        return process

    def run(self, *arguments: object, host: str = "") -> None:
        """Run a command to its good end."""
        assert self.start(*arguments, host=host).wait(120) == 0, self.output()

    def wait_for_round(self, number: int, run: Path, process: subprocess.Popen[bytes]) -> None:
        """Until `process` has finished a round of `run`."""
        metrics, end = run / "metrics.jsonl", time.monotonic() + 100
        while not metrics.exists() or metrics.read_text().count("\n") < number:
            assert time.monotonic() < end, self.output()
            assert process.poll() is None, self.output()
            time.sleep(0.01)

    def wait_for_text(self, text: str, times: int = 1) -> None:
        """Until the commands have written it so often."""
        end = time.monotonic() + 100
        while self.output().count(text) < times:
            assert time.monotonic() < end, self.output()
            time.sleep(0.05)

    def output(self) -> str:
        """What all commands have written."""
        return self.log.read_text(errors="replace")

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.send_signal(signal.SIGINT)
        for process in self._started:
            process.wait(30)
