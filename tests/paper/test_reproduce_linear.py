"""The linear experiment, and what all experiments share: cells, decided claims, whole reports."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from experiments import EXPERIMENTS
from experiments.__main__ import experiments_table
from experiments.framework import (
    Cells,
    Claim,
    Table,
    all_hold,
    every,
    greater,
    mean_std,
    write_experiment_report,
)
from experiments.linear import experiment
from experiments.linear.experiment import FFA, ROLORA, LinearConfig, run_linear, worst_ratio
from rolora.core.errors import BadInput

SMALL = [
    "problems=6",
    "sweep_problems=20",
    "samples=[20, 80]",
    "rounds=40",
    "d=6",
    "k=4",
    "m=200",
    "r=2",
    "local_steps=3",
]
STANDINGS = {"holds", "does not hold", "not decided at this size"}


# -- the linear experiment ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small run: its directory, its result and what it printed."""
    out = tmp_path_factory.mktemp("small")
    printed = io.StringIO()
    result = EXPERIMENTS["linear"].run(SMALL, out, Console(file=printed, width=120))
    return out, result, printed.getvalue()


def test_a_run_leaves_a_whole_report(small):
    out, result, printed = small
    assert {path.name for path in out.iterdir()} == {
        "cells",
        "linear.png",
        "linear.svg",
        "report.json",
        "report.md",
    }
    record = json.loads((out / "report.json").read_text("utf-8"))
    page = (out / "report.md").read_text("utf-8")
    assert (out / "linear.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "linear.svg").read_text().rstrip().endswith("</svg>")
    assert record["settings"]["problems"] == 6
    assert record["versions"]["numpy"] == np.__version__
    assert len(record["claims"]) == len(result.claims) > 10
    for claim in result.claims:
        assert claim.standing in STANDINGS
        assert claim.evidence
        assert claim.text.replace("|", "\\|") in page
        assert claim.text[:30] in printed
    for table in result.tables:
        assert table.title in page
        assert table.title[:30] in printed
    assert "python -m experiments linear problems=6" in page


def test_six_problems_prove_nothing_about_all(small):
    _, result, _ = small
    standing = {claim.text: claim.standing for claim in result.claims}
    assert standing["Algorithm 2 converges: the sine reaches 1e-8"] == "not decided at this size"


def test_a_second_run_reuses_every_cell_and_writes_the_same_bytes(small, monkeypatch):
    out, result, _ = small
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}

    def never(*_):
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr(experiment, "measure", never)
    monkeypatch.setattr(experiment, "_sweep", never)
    assert run_linear(SMALL, out) == result
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_another_directory_gets_the_same_numbers(small, tmp_path):
    again = run_linear(SMALL, tmp_path)
    assert again.claims == small[1].claims
    assert again.tables == small[1].tables


def test_an_interrupted_run_goes_on_where_it_was(small, tmp_path, monkeypatch):
    measure, seen = experiment.measure, []

    def interrupted(config, kind):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(kind.words)
        return measure(config, kind)

    monkeypatch.setattr(experiment, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_linear(SMALL, tmp_path)
    assert not (tmp_path / "report.md").exists()
    assert len(list((tmp_path / "cells").iterdir())) == 2

    again = []
    monkeypatch.setattr(
        experiment,
        "measure",
        lambda config, kind: again.append(kind.words) or measure(config, kind),
    )
    assert run_linear(SMALL, tmp_path).claims == small[1].claims
    assert not set(again) & set(seen)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rnds=3", "rnds: unknown key (did you mean rounds?"),
        ("eta=0", "eta = 0: input should be greater than 0"),
        ("r=9", "r = 9 is more than min(d, k, m) = 8"),
        ("problems", "override 'problems': must have the form key.path=value"),
        ("samples=[]", "samples = []"),
        ("m=5", "m = 5: with 5 clients too few samples"),
    ],
)
def test_wrong_overrides_say_what_would_be_right(override, words, tmp_path):
    with pytest.raises(BadInput) as error:
        run_linear([override, "problems=1", "r=2"] if override == "m=5" else [override], tmp_path)
    assert words in str(error.value)
    assert not (tmp_path / "report.md").exists()


def test_claims_follow_the_numbers(small):
    """The same claims over other numbers: nothing is written in beforehand."""
    out, _, _ = small
    cells = {path.name.split("-")[0]: path for path in (out / "cells").iterdir()}
    paper = json.loads(cells["paper"].read_text())["result"]
    n = 60

    def under(ratios):
        run = {"worst_ratio": ratios, "cosine": [0.3] * len(ratios)}
        return experiment._under_bound("", "", run).standing

    assert under([0.99] * n) == "holds"
    assert under([0.99] * (n - 1) + [1.001]) == "does not hold"
    assert under([0.99] * 5) == "not decided at this size"

    def reaches(half_way, end):
        trace = {"half_way_sine": [half_way] * n, "final_sine": [end] * n}
        return experiment._reaches("", "", {"methods": {ROLORA: trace}}).standing

    assert reaches(1e-5, 1e-9) == "holds"
    assert reaches(1e-3, 1e-5) == "not decided at this size"  # still falling
    assert reaches(1e-3, 0.9e-3) == "does not hold"  # stands still
    assert reaches(float("nan"), float("nan")) == "does not hold"

    def floor(ratio):
        run = {f"ffa_{what}_over_floor": [ratio] * n for what in ("least", "loss", "error")}
        return [claim.standing for claim in experiment._floor_claims(run, 0.1)]

    assert floor(1.0) == ["holds", "holds"]
    assert floor(0.8) == ["does not hold", "does not hold"]
    assert floor(1.2) == ["holds", "does not hold"]

    def between(ours, fedavg, frozen):
        rounds = {ROLORA: ours, "FedAvg": fedavg, FFA: frozen}
        methods = {name: {"rounds_to_target": of} for name, of in rounds.items()}
        run = {"methods": methods, "bounds": paper["bounds"]}
        return experiment._in_between("FedAvg", "", run).standing

    ours = list(range(10, 10 + n))
    slower = [rounds + 5 + rounds % 3 for rounds in ours]
    assert between(ours, slower, [-1] * n) == "holds"
    assert between(slower, ours, [-1] * n) == "does not hold"
    assert between(ours, slower, [-1] * (n - 1) + [3]) == "does not hold"
    assert between(ours, [r + (-1) ** r for r in ours], [-1] * n) == "not decided at this size"


def test_the_worst_ratio_ignores_what_float64_cannot_tell():
    sines = np.array([[1.0, 0.5, 0.4, 1e-13, 9e-13], [1.0, 0.9, 0.95, 0.1, 0.01]])
    np.testing.assert_allclose(worst_ratio(sines, np.array([0.5, 1.0])), [1.6, 0.95 / 0.9])


def test_the_defaults_are_the_paper_s_size():
    config = LinearConfig()
    assert (config.problems, config.eta) == (100, 0.25)


@pytest.mark.slow
def test_at_full_size_the_claims_stand_as_published(tmp_path):
    """What docs/theory.md and the committed report say."""
    result = run_linear([], tmp_path)
    standing = [claim.standing for claim in result.claims]
    assert standing.count("not decided at this size") == 0
    by_source = {claim.source: claim.standing for claim in result.claims}
    assert by_source["Theorem 4.5"] == "holds"
    assert by_source["Theorem 4.5, with our reading of enough samples"] == "holds"
    assert by_source["Theorem 4.5 and Proposition 4.6"] == "holds"


def test_the_list_names_every_experiment():
    console = Console(file=io.StringIO(), width=80)
    console.print(experiments_table())
    said = " ".join(console.file.getvalue().split())
    for name, one in EXPERIMENTS.items():
        assert one.name == name
        assert all(words in said for words in (name, one.title, one.data, one.weights, one.minutes))


# -- cells --------------------------------------------------------------------------------------


def test_a_finished_cell_is_not_run_again(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"x": [0.1, 1 / 3, 1e-300], "none": None}

    first = Cells(tmp_path).run("lr 0.1, seed 3", {"lr": 0.1, "seed": 3}, work)
    second = Cells(tmp_path).run("lr 0.1, seed 3", {"seed": 3, "lr": 0.1}, work)
    assert first == second == work()
    assert len(calls) == 2  # the third call is this test's own
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"lr_0\.1_seed_3-[0-9a-f]{12}\.json", file.name)


def test_other_settings_are_another_cell(tmp_path):
    cells = Cells(tmp_path)
    results = [cells.run("one", {"lr": lr}, lambda lr=lr: lr) for lr in (0.1, 0.2)]
    assert results == [0.1, 0.2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("41", "42"),
        lambda text: "[]",
        lambda text: "",
        lambda text: "\x00\xff" * 20,
        lambda text: text.replace('"result"', '"results"'),
    ],
    ids=["cut", "changed", "list", "empty", "binary", "no result"],
)
def test_a_damaged_cell_is_named_and_run_again(tmp_path, damage):
    said = []
    cells = Cells(tmp_path, said.append)
    cells.run("one", {"seed": 1}, lambda: {"accuracy": 0.41})
    path = cells.path("one", {"seed": 1})
    path.write_text(damage(path.read_text()), encoding="latin-1")
    assert cells.run("one", {"seed": 1}, lambda: {"accuracy": 0.5}) == {"accuracy": 0.5}
    assert len(said) == 1
    assert path.name in said[0]
    assert "damaged" in said[0]
    assert cells.run("one", {"seed": 1}, lambda: None) == {"accuracy": 0.5}


def test_an_interrupted_cell_leaves_no_file(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path).run("one", {}, interrupted)
    assert not list(tmp_path.iterdir())


def test_a_result_that_json_cannot_hold_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        Cells(tmp_path).run("one", {}, lambda: {1, 2})
    assert not list(tmp_path.iterdir())


# -- decided claims -----------------------------------------------------------------------------


def test_every():
    assert every(100, 100) == "holds"
    assert every(58, 58) == "not decided at this size"
    assert every(99, 100) == "does not hold"
    assert every(1, 2) == "does not hold"


def test_all_hold_is_the_worst():
    assert all_hold("holds", "holds") == "holds"
    assert all_hold("holds", "not decided at this size") == "not decided at this size"
    assert all_hold("not decided at this size", "does not hold", "holds") == "does not hold"


def test_greater_is_decided_by_a_paired_test():
    ours, theirs = [0.81, 0.84, 0.80, 0.86, 0.83], [0.78, 0.80, 0.78, 0.81, 0.80]
    assert greater(ours, theirs)[0] == "holds"
    assert greater(theirs, ours)[0] == "does not hold"
    assert greater(ours, [0.82, 0.83, 0.82, 0.84, 0.83])[0] == "not decided at this size"
    assert greater(ours[:1], theirs[:1])[0] == "not decided at this size"
    assert greater([0.5, 0.6], [0.4, 0.5])[0] == "not decided at this size"  # no spread to test by


def test_the_evidence_is_scipy_s():
    stats = pytest.importorskip("scipy.stats")
    ours, theirs = [0.81, 0.84, 0.80, 0.86, 0.83], [0.78, 0.80, 0.79, 0.83, 0.80]
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval()
    _, evidence = greater(ours, theirs)
    assert f"p = {expected.pvalue:.2g}" in evidence
    assert f"{interval.low:+.3g} to {interval.high:+.3g}" in evidence
    assert "0.828 ± 0.024 against 0.8 ± 0.019" in evidence
    assert "n = 5" in evidence


@pytest.mark.parametrize(
    ("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0]), ([float("nan"), 1.0], [1.0, 2.0])]
)
def test_greater_refuses_what_cannot_be_tested(ours, theirs):
    with pytest.raises(ValueError):
        greater(ours, theirs)


def test_mean_std():
    assert mean_std([0.5, 0.7]) == "0.6 ± 0.14"
    assert mean_std([0.25]) == "0.25"


# -- reports ------------------------------------------------------------------------------------


def report(out, **changes):
    figure = Figure()
    figure.subplots().plot([0, 1])
    settings = {
        "title": "T",
        "command": "rolora reproduce t",
        "summary": "S.",
        "tables": [Table("Accuracy", ("method", "paper", "here"), (("A|B", "0.9", "0.8 ± 0.1"),))],
        "claims": [Claim("A beats B", "Table 1", "holds", "p = 0.01")],
        "figures": {"plot": (figure, "A caption")},
        "results": {"x": [1.0, float("inf"), float("nan")]},
        "settings": {"seed": 0},
        "versions": {"python": "3"},
    }
    write_experiment_report(out, **{**settings, **changes})


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
