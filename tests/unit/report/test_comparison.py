"""Methods side by side: the numbers are those of the runs."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from rich.console import Console

from made_up import (
    REGRESSION,
    change_summary,
    classification,
    make_run,
    multilabel,
    regression,
    summary_of,
)
from rolora.core.errors import BadInput, RoloraError
from rolora.report.compare_picture import COLOURS
from rolora.report.compare_report import ComparedRun, comparison_table, write_comparison
from rolora.report.statistics import Curve, holm, mean_over_bytes

METHODS = {"rolora": 0.77, "ffa_lora": 0.71, "fedit": 0.76}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Three methods under three seeds, of which FedIT collapses under seed 1."""
    root = tmp_path_factory.mktemp("compared")
    runs = []
    for offset, (method, reach) in enumerate(METHODS.items()):
        for seed in range(3):
            collapsed = (method, seed) == ("fedit", 1)
            run = make_run(
                root / method / str(seed),
                classification(reach=reach + 0.003 * offset * seed, collapsed=collapsed),
                method=method,
                seed=seed,
            )
            runs.append(ComparedRun(method, seed, run))
    write_comparison(root, runs)
    return root, runs


class TestComparison:
    def test_statistics_are_those_of_the_runs(self, compared):
        root, runs = compared
        methods = json.loads((root / "comparison.json").read_text())["methods"]
        assert list(methods) == list(METHODS)
        for method, described in methods.items():
            summaries = [summary_of(run.directory) for run in runs if run.method == method]
            for cell, values in (
                (
                    described["test"]["accuracy"],
                    [s["final"]["test"]["accuracy"] for s in summaries],
                ),
                (described["test"]["loss"], [s["final"]["test"]["loss"] for s in summaries]),
                (
                    described["validation"]["accuracy"],
                    [s["final"]["validation"]["accuracy"] for s in summaries],
                ),
                (described["best"], [s["best"]["validation"]["accuracy"] for s in summaries]),
                (described["bytes_up"], [s["bytes_up"] for s in summaries]),
                (described["bytes_down"], [s["bytes_down"] for s in summaries]),
                (described["seconds"], [s["seconds"]["total"] for s in summaries]),
            ):
                assert list(cell["values"].values()) == pytest.approx(values)
                assert cell["mean"] == pytest.approx(np.mean(values))
                assert cell["std"] == pytest.approx(np.std(values, ddof=1))
                assert cell["n"] == 3

    def test_differences_are_paired_by_seed(self, compared):
        root, runs = compared
        accuracy = {
            (run.method, run.seed): summary_of(run.directory)["final"]["test"]["accuracy"]
            for run in runs
        }
        found = json.loads((root / "comparison.json").read_text())["differences"]
        found = [d for d in found if d["split"] == "test" and d["metric"] == "accuracy"]
        found = {d["method"]: d for d in found}
        assert set(found) == {"ffa_lora", "fedit"}
        for method, difference in found.items():
            wanted = [accuracy[method, seed] - accuracy["rolora", seed] for seed in range(3)]
            assert list(difference["by_seed"].values()) == pytest.approx(wanted)
            assert difference["mean"] == pytest.approx(np.mean(wanted))
            margin = 4.30265 * np.std(wanted, ddof=1) / np.sqrt(3)
            assert difference["high"] - difference["mean"] == pytest.approx(margin, rel=1e-5)
            assert difference["baseline"] == "rolora"

    def test_p_values_are_corrected_within_a_table(self, compared):
        root, _ = compared
        found = json.loads((root / "comparison.json").read_text())["differences"]
        for split in ("test", "validation"):
            for metric in {d["metric"] for d in found}:
                table = [d for d in found if (d["split"], d["metric"]) == (split, metric)]
                assert [d["p_holm"] for d in table] == holm([d["p_value"] for d in table])
        text = (root / "comparison.md").read_text()
        assert "| p | p, Holm |" in text
        assert "With 3 seeds, fewer than 5, nothing is decided" in text

    def test_scores_over_bytes_are_those_of_the_rounds(self, compared, tmp_path):
        _, runs = compared
        curves = {}
        for run in runs:
            lines = [json.loads(x) for x in (run.directory / "metrics.jsonl").open()]
            sent = np.cumsum([line["bytes_up"] + line["bytes_down"] for line in lines])
            seen = [line["validation"] and line["validation"]["accuracy"] for line in lines]
            at = [k for k, score in enumerate(seen) if score is not None]
            curve = Curve([float(sent[k]) for k in at], [seen[k] for k in at])
            curves.setdefault(run.seed, {})[run.method] = curve
        for target in (None, 0.7, 2.0):
            write_comparison(tmp_path, runs, target)
            comparison = json.loads((tmp_path / "comparison.json").read_text())
            methods = comparison["methods"]
            wanted = (
                methods["rolora"]["validation"]["accuracy"]["mean"] if target is None else target
            )
            assert comparison["target"] == wanted
            for name, method in methods.items():
                means = {
                    str(seed): dict(zip(of, mean_over_bytes(list(of.values())), strict=True))[name]
                    for seed, of in curves.items()
                }
                assert method["over_bytes"]["values"] == pytest.approx(means)
                first = {str(seed): of[name].first_at(wanted) for seed, of in curves.items()}
                reached = {seed: at for seed, at in first.items() if at is not None}
                assert method["bytes_to_target"]["values"] == reached
        text = (tmp_path / "comparison.md").read_text()
        assert "MiB until 200.0 %" in text
        assert "0 of 3" in text

    def test_collapsed_runs_are_named(self, compared):
        root, _ = compared
        methods = json.loads((root / "comparison.json").read_text())["methods"]
        assert list(methods["fedit"]["collapsed"]) == ["1"]
        assert not methods["rolora"]["collapsed"]
        text = (root / "comparison.md").read_text()
        assert "- FedIT, seed 1: 99.6" in text

    def test_markdown_and_terminal_show_the_same_means(self, compared):
        root, runs = compared
        values = [
            100 * summary_of(r.directory)["final"]["test"]["accuracy"] for r in runs if r.seed < 3
        ]
        wanted = f"{np.mean(values[:3]):.1f} ± {np.std(values[:3], ddof=1):.1f}"
        assert f"| RoLoRA | {wanted} |" in (root / "comparison.md").read_text()
        console = Console(file=io.StringIO(), width=80)
        console.print(comparison_table(root))
        shown = console.file.getvalue()
        assert wanted in shown
        assert "…" not in shown

    def test_the_picture_is_there(self, compared):
        root, _ = compared
        pixels = imread(root / "comparison.png")[..., :3]
        assert pixels.shape[:2] == (630, 1650)
        for hue in COLOURS[:3]:
            assert (np.abs(pixels - np.array(to_rgb(hue))).max(-1) < 0.02).sum() > 200

    def test_one_seed_has_no_spread(self, tmp_path):
        runs = [ComparedRun(m, 0, make_run(tmp_path / m, method=m)) for m in METHODS]
        write_comparison(tmp_path, runs)
        text = (tmp_path / "comparison.md").read_text()
        assert "±" not in text
        assert "seed 0 only" in text

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (lambda s: s["strata"]["table"][3].reverse(), "split of the examples"),
            (lambda s: s["data"].update(fingerprint="other"), "data"),
            (lambda s: s["task"].update(name="other"), "task"),
        ],
    )
    def test_runs_on_another_split_or_data_are_refused(self, tmp_path, change, what):
        runs = [ComparedRun(m, 0, make_run(tmp_path / m, method=m)) for m in METHODS]
        summary = summary_of(runs[1].directory)
        change(summary)
        change_summary(runs[1].directory, **summary)
        with pytest.raises(RoloraError, match=rf"seed 0: .*differ in their {what}"):
            write_comparison(tmp_path, runs)
        assert not (tmp_path / "comparison.json").exists()

    def test_an_unfinished_run_is_refused(self, tmp_path):
        run = ComparedRun("rolora", 0, make_run(tmp_path / "a", done=3))
        with pytest.raises(BadInput, match="unfinished"):
            write_comparison(tmp_path, [run])

    def test_a_cell_given_twice_and_none_at_all_are_refused(self, tmp_path):
        run = ComparedRun("rolora", 0, make_run(tmp_path / "a", rounds=3))
        with pytest.raises(BadInput, match="given twice"):
            write_comparison(tmp_path, [run, run])
        with pytest.raises(BadInput, match="none given"):
            write_comparison(tmp_path, [])

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"methods": {"a": 3}}', '{"schema": 3}'])
    def test_a_damaged_comparison_is_refused(self, tmp_path, text):
        (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(BadInput, match=r"comparison\.json: "):
            comparison_table(tmp_path)


def compare(root, learned, methods=("rolora", "fedit"), seeds=3):
    """A comparison in which the second method reaches less."""
    runs = []
    for number, method in enumerate(methods):
        for seed in range(seeds):
            run = make_run(root / method / str(seed), learned(number), method=method, seed=seed)
            runs.append(ComparedRun(method, seed, run))
    write_comparison(root, runs)
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison_table(root))
    return (root / "comparison.md").read_text(), console.file.getvalue(), runs


class TestOtherTasks:
    """Scores in their own units and direction."""

    def test_plain_scores_keep_their_unit(self, tmp_path):
        text, shown, runs = compare(tmp_path, lambda number: regression(0.87 - 0.04 * number))
        ours = [summary_of(r.directory)["final"]["test"]["pearson"] for r in runs[:3]]
        wanted = f"{np.mean(ours):.3f} ± {np.std(ours, ddof=1):.3f}"
        assert f"| RoLoRA | {wanted} |" in text
        assert wanted in shown
        assert "…" not in shown
        assert "per cent" not in text.replace("95 %", "")
        assert "Pearson correlation (higher is better): mean" in text
        assert "Validation Pearson correlation by method" in text
        assert "| method | Spearman correlation | mean squared error | loss |" in text
        assert "constant guess" not in text

    def test_less_is_better_where_the_task_says_so(self, tmp_path):
        def errors(number):
            task = REGRESSION.model_copy(update={"metrics": REGRESSION.metrics[2:]})
            return replace(regression(), task=task)

        text, shown, _ = compare(tmp_path, errors, seeds=2)
        assert "Mean squared error (lower is better)" in text
        assert "Less than zero is better than RoLoRA." in text
        assert "A constant guess gets 2.31." in text
        assert "…" not in shown

    def test_shares_are_in_per_cent(self, tmp_path):
        text, _, runs = compare(tmp_path, lambda number: multilabel(), seeds=2)
        ours = [100 * summary_of(r.directory)["final"]["test"]["macro_f1"] for r in runs[:2]]
        assert f"| RoLoRA | {np.mean(ours):.1f} ± {np.std(ours, ddof=1):.1f} |" in text
        assert "Macro F1 in per cent" in text
        assert "| method | micro F1 in per cent | exact match in per cent | loss |" in text
        assert "A constant guess gets 12.0." in text


def test_a_comparison_of_schema_1_is_read(tmp_path):
    measured = {"values": {"0": 0.5}, "mean": 0.5, "std": None, "n": 1}
    keys = ("test_accuracy", "final_eval_accuracy", "best_eval_accuracy", "bytes_up", "bytes_down")
    method = {"title": "RoLoRA", "seeds": [0], "collapsed": {}, "failures": {"0": 0}}
    method |= dict.fromkeys((*keys, "seconds"), measured)
    before = {
        "data": "d", "model": "m", "clients": 3, "rounds": 2, "baseline": "rolora", "seeds": [0],
        "majority_accuracy": {"0": 0.25}, "methods": {"rolora": method, "fedit": method},
        "differences": [{"method": "fedit", "baseline": "rolora", "measure": "test_accuracy",
                         "by_seed": {"0": 0.0}, "mean": 0.0, "std": None, "n": 1, "low": None,
                         "high": None, "p_value": None}],
    }  # fmt: skip
    (tmp_path / "comparison.json").write_text(json.dumps(before))
    console = Console(file=io.StringIO(), width=200)
    console.print(comparison_table(tmp_path))
    words = " ".join(console.file.getvalue().split())
    assert "50.0" in words
    assert "A constant guess gets 25.0." in words
