"""Flower's private names: known in one place only, and missed in words."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("flwr")

import rolora
from rolora.core.errors import BadInput
from rolora.engines.flower.compat import WORKS_WITH, known_flower
from rolora.engines.flower.site import _refusal

SOURCE = Path(rolora.__file__).parent
COMPAT = SOURCE / "engines" / "flower" / "compat"
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation"}
MODULES = [f"rolora.engines.flower.compat.{p.stem}" for p in sorted(COMPAT.glob("[!_]*.py"))]


def flower_names(source):
    """What a module imports from Flower: pairs of a module and a name of it, or None."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        yield from (pair for pair in found if pair[0].split(".")[0] == "flwr")


def is_private(module, name):
    return module not in PUBLIC or (name or "").startswith("_")


def test_no_other_file_imports_a_private_name():
    files = [path for path in SOURCE.rglob("*.py") if COMPAT not in path.parents]
    private = {
        f"{path.relative_to(SOURCE)}: {module}"
        for path in files
        for module, name in flower_names(path.read_text())
        if is_private(module, name)
    }
    assert files
    assert not private


@pytest.mark.parametrize(
    ("line", "private"),
    [
        ("from flwr.app import Message", False),
        ("import flwr.simulation", False),
        ("def f():\n    from flwr.superlink.grid import HttpGrid", True),
        ("import flwr.common.constant as c", True),
        ("from flwr import common", True),
        ("from flwr.app import _secret", True),
    ],
)
def test_what_is_private(line, private):
    assert [is_private(*pair) for pair in flower_names(line)] == [private]


@pytest.mark.parametrize("module", MODULES)
def test_the_installed_flower_has_every_name(module):
    assert importlib.import_module(module)


@pytest.mark.parametrize(
    "gone", ["import flwr.superlink.no_such_module", "from flwr.app import NoSuchName"]
)
def test_a_name_that_is_gone_is_missed_in_words(gone):
    with pytest.raises(BadInput, match=f"flwr{WORKS_WITH}.*(?i:no_?such)"), known_flower():
        exec(gone)


MISSING = """
import runpy, sys
sys.modules[sys.argv.pop(1)] = None
sys.argv[:] = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def without(name, module, *arguments):
    """Run a program where Flower lacks a module; returns its exit status and what it said."""
    command = [sys.executable, "-c", MISSING, name, module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_node_says_so_once_and_is_not_started_again(tmp_path):
    options = ["--superlink", "127.0.0.1:1", "--client", "0", "--insecure"]
    options += ["--worker", str(tmp_path / "worker"), "--session", str(tmp_path / "session")]
    code, said = without(
        "flwr.supernode.fleet_http_connection", "rolora.engines.flower.node", *options
    )
    assert code == 1
    assert "Traceback" not in said
    assert f"rolora works with flwr{WORKS_WITH}" in _refusal(said)
    assert "exit code" not in _refusal(said)


def test_a_superlink_says_so(tmp_path):
    code, said = without("flwr.superlink.main", "rolora.engines.flower.superlink", "--insecure")
    assert code == 1
    assert said.startswith("flwr ")
    assert f"rolora works with flwr{WORKS_WITH}" in said


def test_a_run_says_so_before_it_begins(run_yaml, tmp_path):
    options = ["engine.name=flower", "--out", str(tmp_path / "run")]
    code, said = without("flwr.superlink.grid", "rolora", "run", str(run_yaml), *options)
    assert code == 2
    assert f"rolora works with flwr{WORKS_WITH}" in " ".join(said.split())
    assert "Traceback" not in said


def test_the_extras_ask_for_what_works():
    project = Path(__file__).parents[3] / "pyproject.toml"
    extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]
    assert f"flwr{WORKS_WITH}" in extras["flower"]
    assert f"flwr[simulation]{WORKS_WITH}" in extras["simulation"]


def test_the_package_alone_imports_no_flower():
    code = "import sys, rolora.engines.flower, rolora.engines.flower.compat as c\n"
    code += "sys.exit('flwr' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
