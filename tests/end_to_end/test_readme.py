"""The README's commands, copied from the page and run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from rolora.config import parse_config
from shell import rolora

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


ELSEWHERE = re.compile(r"rolora (federation|server|client|run run.yaml)")
"""Commands that take other machines, or many minutes: other tests run them, small."""


def commands():
    """Every other ``rolora`` line of the README, without its comment."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    found = [line for line in lines if re.match(r"(\.venv/bin/)?rolora ", line)]
    here = [line.removeprefix(".venv/bin/") for line in found if not ELSEWHERE.match(line)]
    return [shlex.split(line, comments=True)[1:] for line in here]


def test_the_first_screen_is_a_sentence_a_command_and_a_result():
    title, sentence, command, rest = re.split(r"\n\n", README, maxsplit=3)
    assert title == "# rolora"
    assert sentence.count(".") == 1
    assert "make run" in command
    assert "test accuracy" in rest[:1500]


def test_the_config_on_the_page_is_valid():
    (text,) = blocks("yaml")
    assert parse_config(yaml.safe_load(text)).federation.clients == 3


def test_make_and_the_plain_lines_agree():
    makefile = (REPOSITORY / "Makefile").read_text()
    for line in ('-c constraints.txt -e ".[demo]"', "run $(CONFIG)", "CONFIG ?= quickstart"):
        assert line in makefile
    assert '-c constraints.txt -e ".[demo]"' in README


def test_the_commands_of_the_page_go_together(tmp_path, monkeypatch, capsys, run_yaml):
    """In the page's order, by a config that runs in half a second; the comparison on one seed."""
    shutil.copy(run_yaml, tmp_path / "quickstart")  # a file comes before a preset
    monkeypatch.chdir(tmp_path)
    for command in commands():
        if command[0] == "compare":
            command = [*command[:-1], "0"]
        assert rolora(*command) == 0, (command, capsys.readouterr())
    assert (tmp_path / "runs/quickstart/report.html").exists()


@pytest.mark.docs
@pytest.mark.timeout(1500)
def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    """In the page's order; the comparison of twelve runs is cut to two short ones."""
    monkeypatch.chdir(tmp_path)
    first = next(c for c in commands() if c == ["run", "quickstart"])
    assert rolora(*first) == 0
    summary = json.loads((tmp_path / "runs/quickstart/summary.json").read_text())
    assert summary["final"]["test"]["accuracy"] >= 0.72
    for command in commands():
        if command == first:
            continue
        if "method.gauge=orthonormal" in command:
            command = [*command, "rounds=2"]
        if command[0] == "compare":
            command = [*command[:-1], "0", "rounds=1", "--methods", "rolora,fedit"]
        assert rolora(*command) == 0, (command, capsys.readouterr())
