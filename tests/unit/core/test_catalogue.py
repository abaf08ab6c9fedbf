"""Methods and tasks of other packages: found by their entry points, imported when named."""

import sys

import pytest

from rolora.config import parse_config
from rolora.core.catalogue import Catalogue
from rolora.core.errors import BadInput
from rolora.methods import METHODS, Method, make_method, method_named

MODULE = """
from rolora import Method
from rolora.methods.ffa_lora import FFALoRA
from rolora.methods.options import Options


class Settings(Options):
    warm: int = 3


class Theirs(FFALoRA):
    Options = Settings
    title = "Theirs"
"""
POINTS = """[rolora.methods]
theirs = theirs_lora:Theirs
rolora = theirs_lora:Theirs
broken = theirs_lora:Absent
number = theirs_lora:MODULE
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that declares methods, as pip would have installed it."""
    (tmp_path / "theirs_lora.py").write_text(MODULE + "\nMODULE = 3\n")
    about = tmp_path / "theirs_lora-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs-lora\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    METHODS.__dict__.pop("others", None)
    yield
    METHODS.__dict__.pop("others", None)
    sys.modules.pop("theirs_lora", None)


def test_a_method_of_another_package_is_named_like_any_other(package):
    assert "theirs_lora" not in sys.modules
    assert list(METHODS)[-3:] == ["broken", "number", "theirs"]
    config = parse_config({"method": {"name": "theirs", "warm": 5}})
    assert config.method.warm == 5
    assert make_method(config.method, None).title == "Theirs"
    with pytest.raises(BadInput, match=r"method.warn: unknown key \(did you mean warm\?"):
        parse_config({"method": {"name": "theirs", "warn": 5}})
    with pytest.raises(BadInput, match=r"method.name = 'their': .*did you mean theirs\?"):
        parse_config({"method": {"name": "their"}})


def test_a_name_of_ours_stays_ours(package):
    assert method_named("rolora").title == "RoLoRA"
    assert len(METHODS) == len(list(METHODS)) == len(set(METHODS))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "'broken' of the package theirs-lora cannot be imported"),
        ("number", "theirs_lora:MODULE, which is no class derived from"),
    ],
)
def test_a_package_that_is_broken_is_named(package, name, message):
    with pytest.raises(BadInput, match=message):
        parse_config({"method": {"name": name}})


def test_what_nobody_declares_is_not_there():
    assert list(Catalogue("rolora.nothing", Method, {})) == []
    with pytest.raises(KeyError):
        METHODS["theirs"]
