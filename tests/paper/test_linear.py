"""The linear experiment: what it measures, what it decides, what it leaves."""

import json
from pathlib import Path

import numpy as np
import pytest
from invented import run, says_all

from experiments.linear import measure as measuring
from experiments.linear import report
from experiments.linear.config import LinearConfig
from experiments.linear.measure import FFA, ROLORA, worst_ratio
from rolora.core.errors import BadInput

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
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


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return run("linear", SMALL, tmp_path_factory.mktemp("small"))


def test_a_run_leaves_a_whole_report(small):
    files, record = small.files(), small.record()
    assert files.keys() == {"linear.png", "linear.svg", "report.json", "report.md"}
    assert files["linear.png"].startswith(b"\x89PNG")
    assert files["linear.svg"].rstrip().endswith(b"</svg>")
    assert record["settings"]["problems"] == 6
    assert record["versions"]["numpy"] == np.__version__
    assert len(record["claims"]) == len(small.findings.claims) > 10
    says_all(small)
    assert "python -m experiments linear problems=6" in small.page()


def test_six_problems_prove_nothing_about_all(small):
    standing = {claim.text: claim.standing for claim in small.findings.claims}
    assert standing["Algorithm 2 converges: the sine reaches 1e-8"] == "not decided at this size"


def test_a_second_run_reuses_every_cell_and_writes_the_same_bytes(small, monkeypatch):
    before = small.files()
    monkeypatch.setattr(measuring, "measure", None)
    monkeypatch.setattr(measuring, "sweep", None)
    assert small.again().findings.claims == small.findings.claims
    assert small.files() == before


def test_an_interrupted_run_goes_on_where_it_was(small, tmp_path, monkeypatch):
    """And what it ends with in another directory are the same numbers."""
    measure, seen = measuring.measure, []

    def interrupted(config, kind):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(kind.words)
        return measure(config, kind)

    monkeypatch.setattr(measuring, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("linear", SMALL, tmp_path)
    assert not (tmp_path / "report.md").exists()
    assert len(list((tmp_path / "cells").iterdir())) == 2

    again = []
    monkeypatch.setattr(
        measuring,
        "measure",
        lambda config, kind: again.append(kind.words) or measure(config, kind),
    )
    resumed = run("linear", SMALL, tmp_path).findings
    assert (resumed.claims, resumed.tables) == (small.findings.claims, small.findings.tables)
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
        run("linear", ["problems=1", "r=2", override], tmp_path)
    assert words in str(error.value)
    assert not (tmp_path / "report.md").exists()


def test_claims_follow_the_numbers(small):
    """The same claims over other numbers: nothing is written in beforehand."""
    (paper,) = (path for path in (small.out / "cells").iterdir() if path.name.startswith("paper-"))
    bounds = json.loads(paper.read_text())["result"]["bounds"]
    n = 60

    def under(ratios):
        run = {"worst_ratio": ratios, "cosine": [0.3] * len(ratios)}
        return report._under_bound("", "", run).standing

    assert under([0.99] * n) == "holds"
    assert under([0.99] * (n - 1) + [1.001]) == "does not hold"
    assert under([0.99] * 5) == "not decided at this size"

    def reaches(half_way, end):
        trace = {"half_way_sine": [half_way] * n, "final_sine": [end] * n}
        return report._reaches("", "", {"methods": {ROLORA: trace}}).standing

    assert reaches(1e-5, 1e-9) == "holds"
    assert reaches(1e-3, 1e-5) == "not decided at this size"  # still falling
    assert reaches(1e-3, 0.9e-3) == "does not hold"  # stands still
    assert reaches(float("nan"), float("nan")) == "does not hold"

    def floor(ratio):
        run = {f"ffa_{what}_over_floor": [ratio] * n for what in ("least", "loss", "error")}
        return [claim.standing for claim in report._floor_claims(run, 0.1)]

    assert floor(1.0) == ["holds", "holds"]
    assert floor(0.8) == ["does not hold", "does not hold"]
    assert floor(1.2) == ["holds", "does not hold"]

    def between(ours, fedavg, frozen):
        rounds = {ROLORA: ours, "FedAvg": fedavg, FFA: frozen}
        methods = {name: {"rounds_to_target": of} for name, of in rounds.items()}
        run = {"methods": methods, "bounds": bounds}
        return report._in_between("FedAvg", "", run).standing

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


@pytest.mark.docs
def test_at_full_size_the_claims_stand_as_published(tmp_path):
    """What docs/theory.md says, and the committed report."""
    found = run("linear", [], tmp_path).findings
    by_source = {claim.source: claim.standing for claim in found.claims}
    assert by_source["Theorem 4.5"] == "holds"
    assert by_source["Theorem 4.5, with our reading of enough samples"] == "holds"
    assert by_source["Theorem 4.5 and Proposition 4.6"] == "holds"
    published = json.loads((RESULTS / "linear" / "report.json").read_text("utf-8"))["claims"]
    assert [(claim.text, claim.standing) for claim in found.claims] == [
        (claim["text"], claim["standing"]) for claim in published
    ]
