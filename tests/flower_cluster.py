"""A real Flower federation on loopback for tests: a SuperLink, nodes, and a ServerApp that works
through the steps a test gives it.

The same file is the test and the app: `Cluster.run` copies it into the app that Flower starts.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry out the steps in ``steps.json`` and write what came of each, step by step."""
    from rolora.engines.flower.transport import FlowerTransport

    directory = Path(str(context.run_config["directory"]))
    steps = json.loads((directory / "steps.json").read_text())
    transport = FlowerTransport(grid, [b"hello"])
    with (directory / "results.jsonl").open("a") as results:
        for step in steps:
            results.write(json.dumps(_carry_out(step, transport, directory)) + "\n")
            results.flush()


def _carry_out(step: dict[str, Any], transport: Any, directory: Path) -> dict[str, Any]:
    """One step: wait for clients or for a file, or send and receive."""
    start = time.perf_counter()
    result: dict[str, Any] = {"time": time.time()}
    if "wait_for" in step:
        transport.wait_for(step["wait_for"], 60.0)
        result["clients"] = {c: f[0].decode() for c, f in sorted(transport.clients.items())}
    if "wait_for_file" in step:
        while not (directory / step["wait_for_file"]).exists():
            time.sleep(0.02)
    if "send_to" in step:
        payload = step.get("text", "ping").encode() + bytes(step.get("size", 0))
        requests = {client: [payload, str(client).encode()] for client in step["send_to"]}
        result["answers"] = {
            r.client: {
                "seconds": r.seconds,
                "answer": [f[:40].decode(errors="replace") for f in r.frames],
                "size": sum(map(len, r.frames)),
            }
            if hasattr(r, "frames")
            else {"seconds": r.seconds, "reason": r.reason, "detail": r.detail}
            for r in transport.send_and_receive(requests, step.get("deadline_s", 60.0))
        }
    result["seconds"] = time.perf_counter() - start
    return result


class Cluster:
    """A SuperLink and its nodes, all ended on exit."""

    def __init__(self, directory: Path, tls: Any = None, database: bool = False):
        from rolora.engines.flower import launch

        self.directory, self.tls = directory, tls
        self.address = f"127.0.0.1:{launch.free_port()}"
        self.database = directory / "state.db" if database else None
        self.home = directory / "home"
        self.workers: list[Any] = []
        self.nodes: dict[int, Any] = {}
        launch.connect(self.home, self.address, tls.authority if tls else None)
        self.start_superlink()

    def start_superlink(self) -> None:
        from rolora.engines.flower import launch

        self.superlink = launch.start_superlink(
            self.directory, self.address, self.tls, self.database
        )

    def start_node(
        self, client: int, handle: Any, tls: Any = None, supernode: bool = False
    ) -> None:
        """A worker in a thread of this process, and a node in front of it: Flower's or rolora's."""
        from rolora.engines.flower import launch
        from rolora.engines.flower.worker import Worker

        worker = Worker(handle)
        self.workers.append(worker)
        threading.Thread(target=worker.run, daemon=True).start()
        if supernode:
            port = launch.free_port()
            command = launch.supernode_command(self.address, client, worker.path, tls, port)
        else:
            command = launch.node_command(self.address, client, worker.path, tls)
        self.nodes[client] = launch.Service(
            command, self.directory / f"node{client}.log", self.directory / f"node{client}"
        )

    def submit(self, steps: list[dict[str, Any]], name: str = "run") -> Path:
        """Start the ServerApp on `steps`; its results appear in the directory returned."""
        from rolora.engines.flower import launch

        run = self.directory / name
        run.mkdir()
        (run / "steps.json").write_text(json.dumps(steps))
        self.run_id = launch.submit_run(self.home, self._app(), {"directory": str(run)})
        return run

    def run(self, steps: list[dict[str, Any]], timeout_s: float = 120.0) -> list[dict[str, Any]]:
        """Carry out `steps` to the end."""
        return self.results(self.submit(steps), len(steps), timeout_s)

    def results(self, run: Path, count: int, timeout_s: float = 120.0) -> list[dict[str, Any]]:
        """The first `count` results, once they are there."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            file = run / "results.jsonl"
            lines = file.read_text().splitlines() if file.exists() else []
            if len(lines) >= count:
                return [json.loads(line) for line in lines]
            time.sleep(0.05)
        raise TimeoutError(
            f"{len(lines)} of {count} steps; SuperLink:\n{self.superlink.output()[-4000:]}"
        )

    def _app(self) -> Path:
        directory = self.directory / "app"
        if not directory.exists():
            directory.mkdir()
            shutil.copy(__file__, directory / "flower_cluster.py")
            (directory / "pyproject.toml").write_text(_PYPROJECT)
        return directory

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for service in [*self.nodes.values(), self.superlink]:
            service.stop()
        for worker in self.workers:
            worker.close()


_PYPROJECT = """
[project]
name = "steps"
version = "0.1.0"
description = "Test app"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "rolora"

[tool.flwr.app.components]
serverapp = "flower_cluster:app"
clientapp = "rolora.engines.flower.client_app:app"

[tool.flwr.app.config]
directory = ""
"""
