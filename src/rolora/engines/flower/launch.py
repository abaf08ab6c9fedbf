"""Starting Flower's programs: the SuperLink, a SuperNode, and the run itself.

Nothing here connects outside the federation: telemetry, the update check and the installation of
an app's dependencies are switched off in every program started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolora.core.errors import RunFailed
from rolora.core.version import VERSION
from rolora.engines.flower import bound

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 8.0
_CONNECTION = "rolora"
_APP = """\
[project]
name = "rolora-federation"
version = "{version}"
description = "Federated LoRA fine-tuning with rolora"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "rolora"

[tool.flwr.app.components]
serverapp = "rolora.engines.flower.server_app:app"
clientapp = "rolora.engines.flower.client_app:app"
"""


@dataclass(frozen=True)
class ServerTls:
    """The server's side of TLS: the authority's certificate, its own, and its key."""

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class SiteTls:
    """A site's side: the authority's certificate, and the key by which the server knows it."""

    authority: Path
    node_key: Path


class Service:
    """A program in a process group of its own that writes to a log file; rolora's own programs
    also end when this process does.

    Args:
        command: program and arguments; a program without a path is one installed beside Python.
        log: file that its output is added to.
        home: Flower's directory (``FLWR_HOME``): installed apps and connections.
    """

    def __init__(self, command: Sequence[str], log: Path, home: Path):
        self.command, self.log = list(command), log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._start = output.tell()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,  # see bound.py
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(home),
                start_new_session=True,
            )

    def stop(self) -> None:
        """End the whole group: a request first, so that a node signs off; force after 8 s."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def output(self) -> str:
        """What it has written since it was started."""
        with self.log.open("rb") as file:
            file.seek(self._start)
            return file.read().decode(errors="replace")

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def environment(home: Path) -> dict[str, str]:
    """The environment of Flower's programs."""
    scripts = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **bound.ENVIRONMENT,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        # Flower finds its own programs by name.
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")]),
    }


def free_port() -> int:
    """A TCP port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_superlink(
    directory: Path, address: str, tls: ServerTls | None, database: Path | None = None
) -> Service:
    """Start a SuperLink and wait until it answers.

    Args:
        directory: where its log and Flower's home go.
        address: ``host:port`` to listen on; sites connect to it, and runs are started through it.
        tls: None serves without encryption and lets any node in.
        database: file that keeps nodes and runs over a restart, for its owner's eyes alone; None
            keeps them in memory.

    Raises:
        RunFailed: it ended, or did not answer within a minute.
    """
    if database is not None:  # what sites send lies in it
        database.touch(mode=0o600)
        database.chmod(0o600)
    host, _, port = address.rpartition(":")
    command = [sys.executable, "-m", "rolora.engines.flower.superlink", "--isolation", "process"]
    command += ["--host", host, "--port", port]
    command += ["--database", str(database)] if database else []
    if tls is None:
        command += ["--insecure"]
    else:
        command += ["--ssl-ca-certfile", str(tls.authority), "--ssl-certfile", str(tls.certificate)]
        command += ["--ssl-keyfile", str(tls.key), "--enable-supernode-auth"]
    service = Service(command, directory / "superlink.log", directory / "flower")
    reach = address.replace("0.0.0.0:", "127.0.0.1:")
    _wait_until_healthy(service, reach, tls.authority if tls else None)
    return service


def supernode_command(
    superlink: str, client: int, worker: Path, tls: SiteTls | None, port: int
) -> list[str]:
    """The command of a SuperNode that forwards to the worker at `worker` as `client`.

    `port` is for Flower's own processes on this machine alone.
    """
    config = f'partition-id={client} worker-socket="{worker}"'
    command = ["flower-supernode", "--superlink", superlink, "--node-config", config]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if tls is None:
        return [*command, "--insecure"]
    keys = ["--auth-supernode-private-key", str(tls.node_key)]
    return [*command, "--root-certificates", str(tls.authority), *keys]


def node_command(
    superlink: str, client: int, worker: Path, tls: SiteTls | None, session: Path
) -> list[str]:
    """The command of rolora's own node (:mod:`rolora.engines.flower.node`), which keeps its id in
    the file `session`, so that after a crash it is let in again at once.
    """
    command = [sys.executable, "-m", "rolora.engines.flower.node", "--superlink", superlink]
    command += ["--client", str(client), "--worker", str(worker), "--session", str(session)]
    if tls is None:
        return [*command, "--insecure"]
    keys = ["--node-key", str(tls.node_key)]
    return [*command, "--root-certificates", str(tls.authority), *keys]


def prepare(home: Path, address: str, authority: Path | None) -> None:
    """Write into `home` where the SuperLink is, and the Flower app of a run: nothing but the names
    of its two parts, as both are installed wherever it runs.
    """
    (home / "app").mkdir(parents=True, exist_ok=True)
    (home / "app" / "pyproject.toml").write_text(_APP.format(version=VERSION))
    security = f'root-certificates = "{authority}"' if authority else "insecure = true"
    text = f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
    (home / "config.toml").write_text(f'{text}address = "{address}"\n{security}\n')


def node_name(client: int) -> str:
    """The name under which the node of a client is registered."""
    return f"client-{client}"


def register_node(home: Path, public_key: Path, client: int) -> int:
    """Let whoever holds the private half of `public_key` in, as `client`; returns the node's id.

    Raises:
        RunFailed: the SuperLink cannot be reached or refuses, for instance a key known already.
    """
    name = node_name(client)
    answer = flwr(home, "supernode", "register", str(public_key), _CONNECTION, "--name", name)
    return int(answer["node-id"])


def registered_nodes(home: Path) -> set[int]:
    """The ids of all nodes that are let in.

    Raises:
        RunFailed: the SuperLink cannot be reached.
    """
    answer = flwr(home, "supernode", "list", _CONNECTION)
    return {int(node["node-id"]) for node in answer["nodes"]}


def unregister_node(home: Path, node: int) -> None:
    """Let whoever was registered as `node` in no more. A key is never registered a second time.

    Raises:
        RunFailed: the SuperLink cannot be reached, or knows no such node.
    """
    flwr(home, "supernode", "unregister", str(node), _CONNECTION)


def submit_run(home: Path) -> int:
    """Submit a run; returns its id.

    Raises:
        RunFailed: the SuperLink cannot be reached, or refuses the app.
    """
    return int(flwr(home, "run", str(home / "app"), _CONNECTION)["run-id"])


def flwr(home: Path, *arguments: str) -> Any:
    """Run Flower's command line and return what it prints as JSON.

    Raises:
        RunFailed: with Flower's own message.
    """
    command = ["flwr", *arguments, "--format", "json"]
    done = subprocess.run(
        command, env=environment(home), capture_output=True, text=True, check=False
    )
    try:
        answer = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        answer = {"success": False, "error-message": done.stdout + done.stderr}
    if not answer.get("success"):
        message = str(answer.get("error-message", "")).strip()
        raise RunFailed(f"flwr {' '.join(arguments[:2])}: {message}")
    return answer


def _wait_until_healthy(service: Service, address: str, authority: Path | None) -> None:
    context = ssl.create_default_context(cafile=str(authority)) if authority else None
    url = f"{'https' if authority else 'http'}://{address}/health"
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        if service.process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            direct.open(url, timeout=2.0).close()
            return
        time.sleep(0.05)
    service.stop()
    said = service.output().strip()[-2000:]
    raise RunFailed(f"the SuperLink did not start on {address}; {service.log} ends:\n{said}")
