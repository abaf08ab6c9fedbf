"""The run report: what is in the files is on the page, and nothing else."""

import json
import re
from dataclasses import replace
from html import unescape
from statistics import fmean, median

import numpy as np
import pytest

from made_up import (
    change_rounds,
    change_summary,
    classification,
    make_run,
    multilabel,
    regression,
    rounds_of,
    summary_of,
)
from rolora.records.schema import Metric, TaskRecord
from rolora.records.units import byte_size, count, percent, show
from rolora.report.run_report import write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), failures=0.1)


@pytest.fixture(scope="module")
def page(run):
    return write_report(run).read_text()


def words_of(page):
    """The page's text without its tags, white space collapsed."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def cells_of(page, caption):
    """The rows of the table that follows `caption`."""
    table = page[page.index(caption) :].split("</table>")[0].split("<tbody>")[1]
    rows = re.findall(r"<tr>(.*?)</tr>", table, flags=re.S)
    return [[unescape(c) for c in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


def figure_of(page, title):
    """The SVG of the panel with that title."""
    return page[page.index(f"<h3>{title}</h3>") :].split("</svg>")[0]


def tips_of(page, title):
    """What the marks of the panel with that title say, in order."""
    return [unescape(t) for t in re.findall(r"<title>(.*?)</title>", figure_of(page, title), re.S)]


def line_of(svg, colour):
    """The points of the line in that colour, in the picture's coordinates."""
    lines = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--' + colour, svg)
    longest = max(lines, key=len)
    return np.array([p.split() for p in re.findall(r"[ML] ([-\d.]+ [-\d.]+)", longest)], float)


class TestNumbers:
    """What the page says is what the files say."""

    def test_the_result_stands_in_the_first_sentences(self, run, page):
        summary = summary_of(run)
        lead = words_of(page.split('<p class="lead">')[1].split("</p>")[0])
        assert percent(summary["final"]["test"]["accuracy"]).replace("\u202f", " ") in lead
        assert percent(summary["constant"]["accuracy"]).replace("\u202f", " ") in lead
        assert count(summary["data"]["test"]) in lead
        assert byte_size(summary["bytes_up"]).replace("\u202f", " ") in lead
        assert byte_size(summary["bytes_down"]).replace("\u202f", " ") in lead
        assert "RoLoRA fine-tuned minilm on rotten_tomatoes across 10 clients, in 20 rounds" in lead

    def test_every_round_is_in_the_table(self, run, page):
        rows = cells_of(page, "All rounds in numbers")
        for row, record in zip(rows, rounds_of(run), strict=True):
            seen = record["validation"] or {}
            assert row[:2] == [str(record["round"]), record["phase"]]
            assert row[2] == f"{record['train_loss']:.4f}"
            assert row[3:5] == [
                f"{seen[name]:.4f}" if seen else "–" for name in ("accuracy", "loss")
            ]
            each = [site["scores"]["accuracy"] for site in record["sites"]]
            assert row[5:7] == (
                [f"{middle(each):.4f}" for middle in (fmean, median)] if each else ["–", "–"]
            )
            assert row[7:9] == [str(record["clients"]), str(record["cohort"])]
            assert row[9:11] == [f"{record['bytes_up']:,}", f"{record['bytes_down']:,}"]
            assert row[11] == f"{record['seconds']['total']:.2f}"

    def test_all_scores_of_the_final_model_are_in_a_table(self, run, page):
        summary = summary_of(run)
        validation, test = summary["final"]["validation"], summary["final"]["test"]
        guess = summary["constant"]["accuracy"]
        assert cells_of(page, "<h3>Scores</h3>") == [
            ["Accuracy", *map(percent, (validation["accuracy"], test["accuracy"], guess))],
            ["Loss", f"{validation['loss']:#.4g}", f"{test['loss']:#.4g}", "–"],
        ]

    def test_every_failure_is_in_the_table(self, run, page):
        wanted = [
            [str(record["round"]), str(failure["client"]), failure["reason"], failure["detail"]]
            for record in rounds_of(run)
            for failure in record["failures"]
        ]
        assert len(wanted) > 12
        assert cells_of(page, "All failures") == wanted

    @pytest.mark.parametrize("over", ["rounds", "bytes sent"])
    def test_the_curve_goes_through_the_accuracies(self, run, page, over):
        evaluated = [r for r in rounds_of(run) if r["validation"] is not None]
        sent = np.cumsum([r["bytes_up"] + r["bytes_down"] for r in rounds_of(run)])
        x = [r["round"] if over == "rounds" else sent[r["round"] - 1] for r in evaluated]
        points = line_of(figure_of(page, f"Accuracy over {over}"), "blue")
        assert len(points) == len(evaluated)
        assert np.corrcoef(points[:, 0], x)[0, 1] > 1 - 1e-9
        assert (
            np.corrcoef(points[:, 1], [r["validation"]["accuracy"] for r in evaluated])[0, 1]
            < 1e-9 - 1
        )

    def test_b_rounds_are_shaded_where_phases_alternate(self, tmp_path, page):
        shaded = r"fill: var\(--shade\)"
        assert len(re.findall(shaded, figure_of(page, "Accuracy over rounds"))) == 10
        other = write_report(make_run(tmp_path, method="fedit")).read_text()
        assert not re.findall(shaded, figure_of(other, "Accuracy over rounds"))

    def test_label_bars_have_the_heights_of_the_table(self, run, page):
        svg = figure_of(page, "Labels by client")
        heights = []
        for label in (0, 1):
            bars = re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--label-' + str(label), svg)
            corners = [np.array(re.findall(r" ([-\d.]+) ([-\d.]+)", bar), float) for bar in bars]
            heights.append([np.ptp(corner[:, 1]) for corner in corners])
        heights = np.array(heights).T
        wanted = np.array(summary_of(run)["strata"]["table"])
        assert heights.shape == wanted.shape
        np.testing.assert_allclose(heights / heights.sum(), wanted / wanted.sum(), atol=1e-6)

    def test_building_it_again_gives_the_same_bytes(self, run, page):
        assert write_report(run).read_text() == page
        assert not list(run.glob(".*"))


class TestStates:
    """Runs that are unfinished, empty, large, collapsed or personal."""

    def test_an_interrupted_run_says_so(self, tmp_path):
        words = words_of(write_report(make_run(tmp_path, done=7)).read_text())
        assert "Unfinished run. 7 of 20 rounds are done" in words
        assert "--resume" in words
        assert "Test accuracy" not in words

    def test_a_run_that_has_only_begun(self, tmp_path):
        run = make_run(tmp_path, done=0)
        (run / "metrics.jsonl").unlink()
        words = words_of(write_report(run).read_text())
        assert "0 of 20 rounds" in words
        assert "No round is finished yet" in words

    def test_a_collapsed_run_is_named(self, tmp_path):
        words = words_of(
            write_report(make_run(tmp_path, classification(collapsed=True))).read_text()
        )
        assert "Collapsed. 99.6 % of the test predictions are one and the same (positive)" in words

    def test_a_run_no_better_than_a_constant_guess_is_named(self, tmp_path):
        run = make_run(tmp_path)
        assert "Collapsed" not in words_of(write_report(run).read_text())
        final = summary_of(run)["final"] | {"test": {"accuracy": 0.513}}
        change_summary(run, final=final)
        assert "not more than one point better" in words_of(write_report(run).read_text())

    @pytest.mark.parametrize(("error", "named"), [(2.27, False), (2.29, True), (2.4, True)])
    def test_a_plain_score_must_be_a_per_cent_better_than_a_constant(self, tmp_path, error, named):
        run = make_run(tmp_path, regression())
        final = summary_of(run)["final"] | {"test": {"pearson": 0.01, "mse": error}}
        change_summary(run, final=final)
        words = words_of(write_report(run).read_text())
        assert ("Collapsed. Test mean squared error" in words) == named
        assert ("not more than one per cent better than a constant guess's 2.310" in words) == named

    def test_a_diverged_run_has_a_report(self, tmp_path):
        run = make_run(tmp_path, rounds=4)
        change_rounds(run, lambda records: [record.update(train_loss=None) for record in records])
        words = words_of(write_report(run).read_text())
        assert "4 of 4 rounds have no finite training loss" in words

    def test_ten_thousand_clients_are_summarised(self, tmp_path):
        run = make_run(tmp_path, clients=10_000, per_round=100, rounds=3)
        page = write_report(run).read_text()
        assert len(page) < 400_000
        sizes = np.sum(summary_of(run)["strata"]["table"], axis=1)
        row = cells_of(page, "Spread over clients")[0]
        assert row[0] == "training examples"
        assert row[1] == f"{sizes.min():,}"
        assert row[-1] == f"{sizes.max():,}"
        assert row[4] == f"{np.quantile(sizes, 0.5, method='inverted_cdf'):,.0f}"

    def test_many_labels_are_a_heat_map(self, tmp_path):
        names = tuple(f"intent {i}" for i in range(77))
        page = write_report(make_run(tmp_path, classification(names), rounds=2)).read_text()
        assert "Every third of 77 labels is named" in page
        assert "intent 3<" in figure_of(page, "Labels by client")

    def test_thousands_of_failures_are_cut_and_counted(self, tmp_path):
        run = make_run(tmp_path, clients=100, rounds=30, failures=0.3)
        page = write_report(run).read_text()
        total = sum(len(r["failures"]) for r in rounds_of(run))
        assert f"The first 200 of {total}" in page
        assert len(cells_of(page, "All failures")) == 200

    def test_cohorts_drawn_again_are_counted(self, tmp_path):
        run = make_run(tmp_path, rounds=4, failures=0.5)
        change_rounds(run, lambda records: records[2].update(attempts=2))
        words = words_of(write_report(run).read_text())
        assert "another cohort drawn in 1 of 4 rounds, first in round 3" in words

    def test_personal_models_are_called_so(self, tmp_path):
        words = words_of(write_report(make_run(tmp_path, method="fedsa_lora")).read_text())
        assert "The clients' personal models get" in words

    def test_a_local_head_makes_models_personal(self, tmp_path):
        run = make_run(tmp_path)
        config = (run / "config.yaml").read_text()
        assert "head: frozen" in config
        (run / "config.yaml").write_text(config.replace("head: frozen", "head: local"))
        assert "The clients' personal models get" in words_of(write_report(run).read_text())


class TestTasks:
    """Whatever is learned: its scores by name, in its own units and direction."""

    def test_a_correlation_is_drawn_and_told_as_a_plain_number(self, tmp_path):
        run = make_run(tmp_path, regression())
        page, summary = write_report(run).read_text(), summary_of(run)
        lead = words_of(page.split('<p class="lead">')[1].split("</p>")[0])
        test = f"{summary['final']['test']['pearson']:.4f}"
        assert f"The final model's test Pearson correlation is {test}, on 853 examples." in lead
        svg = figure_of(page, "Pearson correlation over rounds")
        seen = [r["validation"]["pearson"] for r in rounds_of(run) if r["validation"]]
        assert np.corrcoef(line_of(svg, "blue")[:, 1], seen)[0, 1] < 1e-9 - 1
        assert "%" not in svg
        assert "accuracy" not in page.lower()
        assert "label" not in words_of(page.split("Resolved config")[0])

    def test_the_constant_that_is_known_is_beside_its_own_score(self, tmp_path):
        run = make_run(tmp_path, regression())
        page, final = write_report(run).read_text(), summary_of(run)["final"]
        rows = {row[0]: row[1:] for row in cells_of(page, "<h3>Scores</h3>")}
        assert list(rows) == [
            *("Pearson correlation", "Spearman correlation", "Mean squared error", "Loss")
        ]
        assert rows["Pearson correlation"][2] == "–"
        assert rows["Mean squared error"] == [
            *(f"{final[split]['mse']:#.4g}" for split in ("validation", "test")),
            "2.310",
        ]
        assert "constant guess" not in figure_of(page, "Pearson correlation over rounds")

    def test_without_strata_the_examples_of_each_client_are_drawn(self, tmp_path):
        run = make_run(tmp_path, regression())
        page = write_report(run).read_text()
        svg = figure_of(page, "Examples by client")
        bars = re.findall(r'<path d="([^"]*)"[^>]*fill: var\(--label-0', svg)
        heights = [
            np.ptp(np.array(re.findall(r" ([-\d.]+) ([-\d.]+)", bar), float)[:, 1]) for bar in bars
        ]
        sizes = np.array(summary_of(run)["strata"]["table"])[:, 0]
        np.testing.assert_allclose(heights / np.sum(heights), sizes / sizes.sum(), atol=1e-6)
        rows = [row[0] for row in cells_of(page, "Spread over clients")]
        assert rows == ["training examples", "Pearson correlation on own test examples"]

    def test_many_clients_without_strata(self, tmp_path):
        page = write_report(make_run(tmp_path, regression(), clients=200, rounds=2)).read_text()
        assert "Examples across clients" in page
        assert "Pearson correlation across clients" in page

    def test_a_client_on_which_a_score_is_not_defined_is_counted(self, tmp_path):
        run = make_run(tmp_path, regression())
        clients = summary_of(run)["clients"]
        clients[3]["scores"]["pearson"] = None
        change_summary(run, clients=clients)
        assert "For 1 of the clients it is not defined" in write_report(run).read_text()

    def test_a_client_out_of_line_is_warned_of_and_stands_first(self, tmp_path):
        run = make_run(tmp_path)
        clients = summary_of(run)["clients"]
        for client in clients:
            client["examples"], client["scores"]["accuracy"] = 500, 0.5 + 0.001 * client["client"]
        change_summary(run, clients=clients)
        assert "Out of line." not in write_report(run).read_text()
        clients[3]["scores"]["accuracy"] = 1.0
        change_summary(run, clients=clients)
        page = write_report(run).read_text()
        assert "Test accuracy at client 3 is far from the median client" in page
        rows = cells_of(page, "Scores by client")
        assert [row[0] for row in rows[1:3]] == ["mean over clients", "median client"]
        assert (rows[3][0], rows[3][3]) == ("client 3", "out of line")
        assert all(row[3] == "" for row in rows[4:])

    def test_only_proportions_pile_up_at_fractions(self, tmp_path):
        for number, (learned, piles) in enumerate(((multilabel(), False), (None, True))):
            run = make_run(tmp_path / str(number), learned, clients=100, rounds=2)
            assert ("round fractions" in write_report(run).read_text()) == piles

    def test_f1_is_a_share_but_no_proportion(self, tmp_path):
        page = write_report(make_run(tmp_path, multilabel())).read_text()
        words = words_of(page)
        assert "Wilson" not in words
        assert "interval" not in words
        assert "Test macro F1" in words
        assert "Exact match" in words
        assert "%" in figure_of(page, "Macro F1 by client")

    @pytest.mark.parametrize("learned", [regression(), multilabel()])
    def test_an_unfinished_run_knows_its_task(self, tmp_path, learned):
        run = make_run(tmp_path, learned, done=6)
        words = words_of(write_report(run).read_text())
        title = learned.task.first.title
        last = show(rounds_of(run)[-1]["validation"][learned.task.first.name], learned.task.first)
        assert f"After round 6 validation {title} is {last}." in words.replace(
            "%", "\u202f%"
        ).replace(" \u202f", "\u202f")

    def test_a_loss_that_chooses_is_drawn_once(self, tmp_path):
        metric = Metric("loss", "loss", higher_is_better=False)
        task = TaskRecord(name="lm", title="language modelling", metrics=(metric,))
        learned = replace(regression(), task=task, constant={})
        page = write_report(make_run(tmp_path, learned)).read_text()
        assert page.count("<h3>Loss over rounds</h3>") == 1


class TestLabels:
    """Each label's scores, round by round and at last."""

    def test_all_scores_of_all_labels_are_in_a_table(self, run, page):
        detail = summary_of(run)["detail"]
        shown = [
            [
                label["name"],
                *(percent(label[name]) for name in ("precision", "recall", "f1")),
                str(label["support"]),
                percent(label["predicted_share"]),
            ]
            for label in detail["classes"]
        ]
        assert cells_of(page, "<h3>Scores by label</h3>") == shown
        assert shown[0][1] == "100.0\u202f%"

    def test_the_confusion_is_a_cell_a_count(self, run, page):
        said = tips_of(page, "Confusion")
        (right, wrong), (none, last) = summary_of(run)["detail"]["confusion"]
        assert none == 0  # and nothing is drawn
        assert said == [
            f"negative, predicted rightly\n{right} of 40, 75.0\u202f%",
            f"negative, taken for positive\n{wrong} of 40, 25.0\u202f%",
            f"positive, predicted rightly\n{last} of 40, 100.0\u202f%",
        ]

    def test_a_collapse_is_marked_where_it_is(self, tmp_path, page):
        assert "collapsed" not in page
        fallen = write_report(make_run(tmp_path, classification(collapsed=True))).read_text()
        for title in ("Accuracy over rounds", "Predictions by round"):
            panel = fallen[fallen.index(f"<h3>{title}</h3>") :].split("</figure>")[0]
            assert 'class="ring"' in panel
            assert "collapsed: positive" in panel

    def test_macro_f1_by_round(self, tmp_path):
        learned = classification()
        macro = Metric(name="macro_f1", title="macro F1", share=True)
        task = learned.task.model_copy(update={"metrics": (*learned.task.metrics, macro)})

        def scores(up):
            return learned.scores(up) | {"macro_f1": 0.3 + 0.4 * up}

        run = make_run(tmp_path, replace(learned, task=task, scores=scores), rounds=6)
        points = line_of(figure_of(write_report(run).read_text(), "Macro F1 over rounds"), "blue")
        seen = [r["validation"]["macro_f1"] for r in rounds_of(run) if r["validation"]]
        assert np.corrcoef(points[:, 1], seen)[0, 1] < 1e-9 - 1

    def test_many_labels_are_cells_and_the_page_stays_small(self, tmp_path):
        names = tuple(f"intent {i}" for i in range(77))
        path = write_report(make_run(tmp_path, classification(names), rounds=60))
        page = path.read_text()
        assert len(page) < 3_000_000
        assert len(tips_of(page, "F1 by label")) <= 2000
        assert "intent 3: precision" in tips_of(page, "Predictions by round")[3]
        assert "One in 3 labels is named" in page

    def test_files_from_before_have_no_such_section(self, tmp_path):
        run = make_run(tmp_path)
        new = ("detail", "updates", "collapsed", "prediction_shares")
        change_rounds(run, lambda records: [r.pop(key) for r in records for key in new])
        before = summary_of(run)
        before.pop("detail")
        (run / "summary.json").write_text(json.dumps(before))
        page = write_report(run).read_text()
        assert "<h2>Labels</h2>" not in page
        assert "by client and round" not in page
        assert "Accuracy over rounds" in page


class TestHover:
    """Every mark says its value, without a script."""

    def test_every_figure_has_words_for_its_marks(self, page):
        for figure in re.findall(r"<figure>.*?</figure>", page, flags=re.S):
            if "<svg" in figure:
                assert figure.count("<title>") > 2, figure[:80]

    def test_each_client_of_each_round(self, run, page):
        wanted = [(r["round"], u) for r in rounds_of(run) for u in r["updates"]]
        said = tips_of(page, "Training loss by client and round")
        assert len(said) == len(wanted)
        number, update = wanted[7]
        assert said[7] == (
            f"round {number}, client {update['client']}\ntraining loss "
            f"{update['train_loss']:.4f}\n{update['examples']} examples"
        )
        moved = "".join(tips_of(page, "Update norm by client and round"))
        assert f"B moved by {wanted[0][1]['norms']['B']:#.4g}" in moved

    def test_where_there_are_many_the_quantiles_are_said(self, tmp_path):
        run = make_run(tmp_path, clients=100, rounds=20)
        said = tips_of(write_report(run).read_text(), "Training loss by client and round")
        losses = [u["train_loss"] for u in rounds_of(run)[4]["updates"]]
        assert len(said) == 20
        assert f"median {np.median(losses):#.4g}" in said[4]

    def test_each_round_s_score_bytes_and_loss(self, run, page):
        records = rounds_of(run)
        seen = [r for r in records if r["validation"]]
        said = tips_of(page, "Accuracy over rounds")
        for text, record in zip(said, seen, strict=False):
            assert text.startswith(f"round {record['round']}, trained {record['phase']}\n")
            assert percent(record["validation"]["accuracy"]) in text
        assert f"test accuracy {percent(summary_of(run)['final']['test']['accuracy'])}" in said
        assert f"{byte_size(records[3]['bytes_up'])} up" in tips_of(page, "Bytes by round")[3]
        assert (
            f"training loss {records[3]['train_loss']:#.4g}" in tips_of(page, "Loss over rounds")[3]
        )

    def test_a_box_lies_over_its_mark(self, run, page):
        svg = figure_of(page, "Accuracy over rounds")
        boxes = re.findall(r'<rect class="tip" x="([\d.]+)" [^>]*width="([\d.]+)"', svg)
        points = line_of(svg, "blue")
        for (x, width), (at, _) in zip(boxes, points, strict=False):
            assert float(x) <= at <= float(x) + float(width)


HOSTILE = (
    '</text></svg><script>alert(1)</script>',
    'font: 3px x" onload="alert(1)',
    "$\\frac{1}{0$ id=\"a_1\"",
    "![x](http://example.org/a.png) | url(http://example.org)",
    "日本語\n\x00\x1b",
)  # fmt: skip


class TestSelfContained:
    """One file, nothing loaded, nothing believed."""

    def test_it_loads_nothing(self, page):
        assert not re.findall(r'<[^>]*\b(?:src|data|action|srcset)\s*=\s*["\']', page)
        assert set(re.findall(r'href="([^"]{1,8})', page)) <= {"data:,"} | set(
            re.findall(r'xlink:href="(#[^"]{1,7})', page)
        )
        assert set(re.findall(r"url\(([^)])", page)) <= {"#"}
        assert "@import" not in page
        assert "<script" not in page
        assert "default-src 'none'" in page
        assert "http://" not in page
        assert "https://" not in page

    def test_ids_are_unique_and_all_references_lead_somewhere(self, page):
        ids = re.findall(r'\bid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', page)) == set(ids)

    @pytest.mark.parametrize("labels", [HOSTILE, HOSTILE * 2], ids=["bars", "cells"])
    def test_hostile_names_are_text(self, tmp_path, labels):
        run = make_run(tmp_path, classification(labels), rounds=4, failures=0.5)
        failure = {"client": 0, "reason": HOSTILE[0], "detail": HOSTILE[1]}
        change_rounds(run, lambda records: records[0].update(failures=[failure]))
        data = summary_of(run)["data"] | {"name": HOSTILE[0]}
        change_summary(run, data=data, command=HOSTILE[0], device=HOSTILE[1], started=HOSTILE[2])
        task = summary_of(run)["task"]
        task["metrics"][0]["title"] = HOSTILE[0]
        change_summary(run, task=task)
        page = write_report(run).read_text()
        assert "<script" not in page
        assert not re.search(r"<[^>]*\bonload=", page)
        assert page.count("<svg") == page.count("</svg>") == page.count("<figure>") - 1
        assert HOSTILE[0] in unescape(page)
