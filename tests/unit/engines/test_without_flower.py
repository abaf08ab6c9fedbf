"""Without the extra, everything but the federation works, and that says what is missing."""

from __future__ import annotations

import subprocess
import sys

BLOCKED = "import sys; sys.modules['flwr'] = None\n"
IMPORT_ALL = """
import importlib, pkgutil, rolora
names = [m.name for m in pkgutil.walk_packages(rolora.__path__, "rolora.")]
apart = ("rolora.__main__", "rolora.engines.flower.")
for name in names:
    if not name.startswith(apart):
        importlib.import_module(name)
"""


def python(code, *arguments):
    command = [sys.executable, "-c", BLOCKED + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_nothing_else_imports_flower():
    done = python(IMPORT_ALL)
    assert done.returncode == 0, done.stderr


def test_a_federation_names_the_extra(run_yaml, tmp_path):
    run = ("run", str(run_yaml), "engine.name=flower", "--out", str(tmp_path / "run"))
    for arguments in (run, ("federation", "init", str(tmp_path / "f"), str(run_yaml))):
        done = python("from rolora.cli.main import main; main()", *arguments)
        assert done.returncode == 2
        assert "rolora[flower]" in done.stderr
    assert not (tmp_path / "f").exists()
