"""The wheel holds the library, all of it, and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "results", ".*")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The names in the wheel that is built of a copy of the repository, without a network."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "experiments", "benchmarks", "tests", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=LEFT_OUT)
    # What pip calls: the build backend that pyproject.toml names.
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    built = subprocess.run(
        [sys.executable, "-c", code, out], cwd=copy, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = out.glob("*.whl")
    return ZipFile(wheel).namelist()


def test_it_holds_the_library_alone(packed):
    assert {name.split("/")[0].split("-")[0] for name in packed} == {"rolora"}


def test_it_holds_all_of_the_library(packed):
    source = ROOT / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "rolora").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted == {name for name in packed if name.startswith("rolora/")}
