"""An experiment's report: whole or not at all, the same bytes for the same findings."""

import json

import pytest
from matplotlib.figure import Figure

from experiments.claims import Claim
from experiments.report import Findings, Made, Table, write_report


def report(out, **changes):
    figure = Figure()
    figure.subplots().plot([0, 1])
    found = {
        "title": "T",
        "summary": "S.",
        "tables": [Table("Accuracy", ("method", "paper", "here"), (("A|B", "0.9", "0.8 ± 0.1"),))],
        "claims": [Claim("A beats B", "Table 1", "holds", "p = 0.01")],
        "figures": {"plot": (figure, "A caption")},
        "results": {"x": [1.0, float("inf"), float("nan")]},
    }
    made = Made("python -m experiments t", {"seed": 0}, {"python": "3"})
    write_report(out, Findings(**{**found, **changes}), made)


def test_a_report_says_all_and_its_json_is_strict(tmp_path):
    report(tmp_path / "new" / "directory")
    page = (tmp_path / "new" / "directory" / "report.md").read_text("utf-8")
    assert "| A\\|B | 0.9 | 0.8 ± 0.1 |" in page
    assert "| A beats B | Table 1 | **holds** | p = 0.01 |" in page
    assert "![plot](plot.svg)\n\nA caption" in page
    text = (tmp_path / "new" / "directory" / "report.json").read_text("utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["results"] == {"x": [1.0, None, None]}


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    report(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        report(tmp_path, title="another", results={"x": object()})
    with pytest.raises(AttributeError):
        report(tmp_path, title="another", figures={"plot": (None, "no figure")})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        report(tmp_path / name)
    for file in ("plot.png", "plot.svg"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
