"""Dockerfile and compose file: linted, and their commands run without a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

launch = pytest.importorskip("rolora.engines.flower.launch")

pytestmark = pytest.mark.docs
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "federation"
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def compose(**variables):
    """The compose file's services, with `variables` or their defaults in place."""
    text = (ROOT / "compose.yaml").read_text()
    named = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: str(variables.get(m[1], m[2])), text)
    return yaml.safe_load(named)["services"]


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "--failure-threshold", "info", "Dockerfile"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"],
    ],
    ids=lambda command: command[0],
)
def test_linters_find_nothing(command):
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_sites_reach_the_server_by_the_name_of_its_service():
    services = compose()
    assert "--address server:9092" in services["init"]["command"][-1]
    assert services["run"]["network_mode"] == "service:server"
    assert "EXPOSE 9092" in (ROOT / "Dockerfile").read_text()


def test_what_the_image_copies_is_enough_to_install(tmp_path):
    """Its own line of pip, on the files that it copies; without a network, so nothing else."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    let_in = (ROOT / ".dockerignore").read_text()
    for names in re.findall(r"^COPY (.+) \S+$", dockerfile, flags=re.MULTILINE):
        for name in names.split():
            assert f"!{name}\n" in let_in
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tmp_path / name)
    (line,) = re.findall(r"pip (install .+)$", dockerfile, flags=re.MULTILINE)
    (extras,) = re.findall(r"^ARG EXTRAS=(.+)$", dockerfile, flags=re.MULTILINE)
    options = "--dry-run --no-deps --no-build-isolation --force-reinstall"
    done = subprocess.run(
        f'"{sys.executable}" -m pip {line} {options}',
        shell=True,
        cwd=tmp_path,
        env={**ENVIRONMENT, "EXTRAS": extras},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Would install rolora" in done.stdout
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = ", project, re.MULTILINE) for extra in extras.split(","))


class Host:
    """The services of a compose file as programs of this machine.

    Args:
        services: of the file.
        volume: a directory in place of its one volume.
        own: a directory in which each has files that no other sees. Sockets lie there, so its name
            is short.
    """

    def __init__(self, services, volume, own):
        self.services, self.volume, self.own = services, volume, Path(own)
        self.log = volume.parent / "services.log"
        self.started = {}

    def order(self):
        """The services, each after those that it depends on."""
        wanted = {name: set(one.get("depends_on", ())) for name, one in self.services.items()}
        return list(TopologicalSorter(wanted).static_order())

    def condition(self, name):
        """What the others wait for before they start."""
        every = [one.get("depends_on", {}).get(name) for one in self.services.values()]
        return {one["condition"] for one in every if one} or {"service_completed_successfully"}

    def start(self, name, command):
        """Start a command of a service, with this machine's paths in place of the container's."""
        directory, own = self.volume, self.own / name
        own.mkdir(exist_ok=True)
        environment = {**ENVIRONMENT, "HOME": str(own), "TMPDIR": str(own)}
        for mount in self.services[name]["volumes"]:
            if mount["type"] == "volume":
                directory = self.volume / mount.get("volume", {}).get("subpath", "")
            else:
                source = str(ROOT / mount["source"])
                command = [part.replace(mount["target"], source) for part in command]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)

    def bring_up(self, name):
        """Start a service and wait until it is as the others want it."""
        service = self.services[name]
        process = self.started[name] = self.start(name, service["command"])
        (condition,) = self.condition(name)
        if condition == "service_completed_successfully":
            assert process.wait(750) == 0, self.output()
        if condition == "service_healthy":
            word, *check = service["healthcheck"]["test"]
            assert word == "CMD"
            end = time.monotonic() + 150
            while self.start(name, check).wait(60):
                assert process.poll() is None, self.output()
                assert time.monotonic() < end, self.output()
                time.sleep(1)

    def output(self):
        return self.log.read_text(errors="replace")

    def end(self):
        """As an engine does: SIGTERM, and after a while SIGKILL."""
        for process in self.started.values():
            process.terminate()
        for process in self.started.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def test_the_commands_of_the_compose_file_make_a_federation(tmp_path):
    """In the order that it says, with TLS and keys, each site in its own directory."""
    volume = tmp_path / "federation"
    volume.mkdir()
    services = compose(ROLORA_HOST="127.0.0.1", ROLORA_PORT=launch.free_port())
    with tempfile.TemporaryDirectory() as own:
        host = Host(services, volume, own)
        order = host.order()
        assert order[0] == "init"
        assert order[-1] == "run"
        try:
            for name in order:
                host.bring_up(name)
            assert host.start("init", services["init"]["command"]).wait(60) == 0, "made once"
        finally:
            host.end()
    run = volume / "runs" / "first"
    rounds = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    assert len(rounds) == summary["final"]["round"] == 4
    assert not any(record["failures"] for record in rounds)
    assert (run / "adapter" / "adapter_model.safetensors").is_file()
    assert (run / "report.html").is_file()
    (said,) = re.findall(r"([\d.]+) % of the test", (EXAMPLE / "README.md").read_text())
    assert 100 * summary["final"]["test"]["accuracy"] == pytest.approx(float(said), abs=3)
    sites = [name for name in order if name.startswith("site-")]
    assert len(sites) == 3
    assert all((volume / name / "state" / "adapter").is_dir() for name in sites)
