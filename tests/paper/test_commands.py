"""The documentation's commands: experiments that are there, settings that they have."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import experiments.experiment
from experiments import EXPERIMENTS
from experiments.__main__ import app
from rolora.core.parsing import parse_overrides

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "experiments/README.md", "docs/paper.md", "docs/beyond.md", "docs/theory.md")


def commands(page):
    text = (ROOT / page).read_text("utf-8")
    found = re.findall(r"\.venv/bin/python -m experiments([^\n`#]*)", text)
    return [arguments for line in found if (arguments := shlex.split(line))]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_runs(page, monkeypatch):
    asked = []

    def parse(experiment, overrides, out, console):
        asked.append(experiment.name)
        parse_overrides(experiment.config, overrides, experiment.name)

    monkeypatch.setattr(experiments.experiment, "run_experiment", parse)
    # NAME stands for any of them.
    given = [arguments for arguments in commands(page) if "NAME" not in arguments]
    for arguments in given:
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, (arguments, result.output)
    assert len(asked) == len(given) > 0


@pytest.mark.parametrize("page", PAGES)
def test_no_command_is_given_without_its_interpreter(page):
    text = (ROOT / page).read_text("utf-8")
    assert not re.search(r"(?<!\.venv/bin/)python -m experiments", text)
    assert "rolora reproduce" not in text


def test_the_page_of_experiments_has_them_all():
    assert {arguments[0] for arguments in commands("experiments/README.md")} == set(EXPERIMENTS)
