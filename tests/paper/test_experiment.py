"""The list of experiments, and the one way in which they are run."""

import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

import experiments.experiment
from experiments import EXPERIMENTS
from experiments.__main__ import app, experiments_table
from experiments.experiment import Experiment, command_line, run_experiment
from experiments.report import Findings
from rolora.core.errors import BadInput
from rolora.core.section import Positive, Section


def test_the_list_names_every_experiment():
    console = Console(file=StringIO(), width=80)
    console.print(experiments_table())
    said = " ".join(console.file.getvalue().split())
    for name, one in EXPERIMENTS.items():
        assert one.name == name
        assert all(words in said for words in (name, one.title, one.data, one.weights, one.minutes))


def test_every_listed_experiment_is_there_under_its_name():
    for name, one in EXPERIMENTS.items():
        assert one.load().name == name
        assert issubclass(one.load().config, Section)


def test_the_list_needs_neither_torch_nor_matplotlib():
    code = """
import sys, experiments.__main__
sys.exit(any(name in sys.modules for name in ("torch", "matplotlib", "scipy")))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Count(Section):
    to: Positive = 3
    name: str = "one"


def counting(asked, **changes):
    """An experiment that counts in cells."""

    def work(config, workspace):
        asked.append(config)
        workspace.say("counting")
        return [workspace.cells.run(f"{i}", {"i": i}, lambda i=i: i) for i in range(config.to)]

    def tell(config, found):
        return Findings("Counts", "Counted.", (), (), {}, {"found": found}, {"digest": "abc"})

    made = {"name": "count", "config": Count, "run": work, "tell": tell, "packages": ("numpy",)}
    return Experiment(**{**made, **changes})


def test_it_parses_runs_tells_writes_and_says_where(tmp_path):
    asked, said = [], StringIO()
    found = run_experiment(counting(asked), ["to=2"], tmp_path, Console(file=said, width=300))
    assert asked == [Count(to=2)]
    assert found.results == {"found": [0, 1]}
    assert len(list((tmp_path / "cells").iterdir())) == 2
    page = (tmp_path / "report.md").read_text()
    assert f"Made by `python -m experiments count to=2 --out {tmp_path}`." in page
    assert "- to = 2\n- name = one\n- digest = abc\n" in page
    assert said.getvalue().startswith("counting\n")
    assert said.getvalue().endswith(f"report: {tmp_path / 'report.md'}\n")


def test_without_a_directory_it_has_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_experiment(counting([]), [])
    run_experiment(counting([], directory=lambda config: f"count-{config.name}"), ["name=two"])
    written = {str(path.parent) for path in tmp_path.rglob("report.md")}
    assert written == {str(tmp_path / "runs/reproduce" / name) for name in ("count", "count-two")}


def test_a_wrong_override_is_named_before_anything_runs(tmp_path):
    asked = []
    with pytest.raises(BadInput, match=r"^experiments count: two: unknown key .did you mean to"):
        run_experiment(counting(asked), ["two=2"], tmp_path / "out")
    assert not asked
    assert not (tmp_path / "out").exists()


def test_the_command_is_one_that_a_shell_takes(tmp_path):
    assert command_line("mnist", ["rates=[0.1, 1]"], None) == (
        "python -m experiments mnist 'rates=[0.1, 1]'"
    )


def test_the_command_line(monkeypatch):
    given = []

    def asked(experiment, overrides, out, console):
        given.append((experiment.name, overrides))

    monkeypatch.setattr(experiments.experiment, "run_experiment", asked)
    arguments = ["glue", "--preset", "rank2", "--small", "rounds=4"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert given == [("glue", ["preset=rank2", "small=true", "rounds=4"])]
    with pytest.raises(BadInput, match=r"unknown experiment .did you mean linear"):
        CliRunner().invoke(app, ["linea"], catch_exceptions=False)


def test_an_option_that_an_experiment_lacks_is_an_unknown_key():
    with pytest.raises(BadInput, match="small: unknown key"):
        CliRunner().invoke(app, ["linear", "--small"], catch_exceptions=False)
