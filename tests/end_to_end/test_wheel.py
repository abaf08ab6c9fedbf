"""The wheel holds the library, all of it, and nothing else; a package index takes it."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "results", ".*")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, built of a copy of the repository, without a network."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "experiments", "benchmarks", "tests", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=LEFT_OUT)
    # What pip calls: the build backend that pyproject.toml names.
    code = (
        "import sys; from setuptools.build_meta import build_sdist, build_wheel; "
        "out = sys.argv[1]; build_wheel(out); build_sdist(out)"  # they change sys.argv
    )
    done = subprocess.run(
        [sys.executable, "-c", code, out], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def packed(built):
    """The names in the wheel."""
    (wheel,) = built.glob("*.whl")
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


def test_a_package_index_takes_wheel_and_sdist(built):
    """Without the index itself: the metadata, and the page that is made of the README."""
    files = sorted(map(str, built.iterdir()))
    assert len(files) == 2
    done = subprocess.run(
        [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2
    (wheel,) = built.glob("*.whl")
    [metadata] = [name for name in ZipFile(wheel).namelist() if name.endswith("/METADATA")]
    text = ZipFile(wheel).read(metadata).decode()
    for name in ("Homepage", "Documentation", "Source", "Issues", "Changelog"):
        assert f"Project-URL: {name}, https://github.com/rolora/rolora" in text
