"""The pages of the site: what they say is done, as they stand."""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

import pages

DOCS = Path(__file__).parents[2] / "docs"
HOWTO = sorted(path.stem for path in (DOCS / "howto").glob("*.md"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, from which a page's Python imports the files that it writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == tmp_path:
            del sys.modules[name]


@pytest.fixture(autouse=True)
def stages(monkeypatch):
    """What a page adds to the table goes with it."""
    from rolora import stages

    before = dict(stages.STAGES)
    yield
    stages.STAGES.clear()
    stages.STAGES.update(before)


def test_a_page_is_taken_apart_into_files_commands_and_python():
    page = '```yaml title="a.yaml"\nx: 1\n```\n\n```sh\npip install x\nrolora run a  # b\n```\n'
    page += "```text\nno\n```\n```python\ny = 2\n```\n"
    file, command, code = pages.script(page)
    assert (file.title, file.text) == ("a.yaml", "x: 1\n")
    assert command == ["run", "a"]
    assert code.text == "y = 2\n"


def test_the_tutorial_goes_through_on_a_config_of_half_a_second(here, run_yaml, capsys):
    shutil.copy(run_yaml, here / "quickstart")  # a file comes before a preset
    left = pages.follow((DOCS / "tutorial.md").read_text(), capsys.readouterr)
    assert len(pd.read_csv("reviews.csv")) == len(left["held_out"])
    assert "field: cinema" in Path("first/rolora.yaml").read_text()
    for path in ("runs/first/report.html", "runs/quickstart-compare/comparison.md", "merged"):
        assert Path(path).exists()


def test_every_test_and_file_that_the_page_of_security_names_is_there():
    page = (DOCS / "security.md").read_text()
    tests = {path: path.read_text() for path in DOCS.parent.glob("tests/**/test_*.py")}
    there = set(re.findall(r"^\s*def (test_\w+)", "\n".join(tests.values()), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 50
    assert named - there == set()
    files = set(re.findall(r"`(?:tests/)?([\w/]*test_\w+\.py)`", page))
    assert [file for file in files if not any(str(path).endswith(file) for path in tests)] == []


@pytest.mark.docs
@pytest.mark.timeout(1500)
def test_the_tutorial_runs_as_it_stands(here, capsys):
    left = pages.follow((DOCS / "tutorial.md").read_text(), capsys.readouterr)
    assert left["run"].summary.final.test["accuracy"] >= 0.72


@pytest.mark.docs
@pytest.mark.parametrize("name", HOWTO)
def test_a_page_runs_as_it_stands(here, capsys, name):
    left = pages.follow((DOCS / f"howto/{name}.md").read_text(), capsys.readouterr)
    assert ("rolora" in left) == ("run" in left)


def test_the_install_lines_are_those_of_the_readme():
    readme = (DOCS.parent / "README.md").read_text()
    for line in ("python3 -m venv .venv", '.venv/bin/pip install -c constraints.txt -e ".[demo]"'):
        assert line in readme
        assert line in (DOCS / "tutorial.md").read_text()
