"""The run report and the comparison: what is in the files is on the page, and nothing else."""

import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from rich.console import Console

from rolora.config import dump_config, parse_config
from rolora.core.errors import BadInput, RoloraError
from rolora.records.atomic import write_atomic
from rolora.records.files import read_run
from rolora.report.compare_report import (
    COLOURS,
    ComparedRun,
    comparison_table,
    write_comparison,
)
from rolora.report.figures import THEME
from rolora.report.run_report import write_report
from rolora.report.statistics import paired_difference, t_quantile, t_within, wilson_interval
from rolora.report.units import byte_size, count, duration, percent

STAGES = ("plan", "train", "aggregate", "evaluate", "checkpoint")
TITLES = {"rolora": "RoLoRA", "fedit": "FedIT", "ffa_lora": "FFA-LoRA", "fedsa_lora": "FedSA-LoRA"}


def make_run(
    directory: Path,
    *,
    method: str = "rolora",
    seed: int = 0,
    clients: int = 10,
    per_round: int | None = None,
    rounds: int = 20,
    done: int | None = None,
    labels: tuple[str, ...] = ("negative", "positive"),
    failures: float = 0.0,
    reach: float = 0.77,
    collapsed: bool = False,
) -> Path:
    """A run directory as `rolora run` leaves it, with made-up but plausible numbers."""
    rng = np.random.default_rng(seed)
    cohort = per_round or clients
    directory.mkdir(parents=True, exist_ok=True)
    config = parse_config(
        {
            "seed": seed,
            "rounds": rounds,
            "method": {"name": method},
            "federation": {"clients": clients, "clients_per_round": per_round},
        }
    )
    (directory / "config.yaml").write_text(dump_config(config))
    chance = 1 / len(labels)
    records = []
    for number in range(1, (rounds if done is None else done) + 1):
        progress = 1 / (1 + np.exp(-(number - 0.4 * rounds) / (0.12 * rounds)))
        accuracy = chance if collapsed else chance + (reach - chance) * progress
        failed = [
            {"client": int(c), "reason": str(rng.choice(["nan", "lost", "missing part"])),
             "detail": "B of encoder.layer.3.attention.self.query is not finite"}
            for c in rng.choice(clients, rng.binomial(cohort, failures), replace=False)
        ]  # fmt: skip
        phase = {"rolora": "B" if number % 2 else "A", "ffa_lora": "B"}.get(method, "AB")
        both = 2 if phase == "AB" else 1
        due = number % 2 == 0 or number == rounds
        loss = float(np.log(len(labels)) * (1 - 0.35 * progress) + rng.normal(0, 0.01))
        stages = dict(zip(STAGES, [0.002, 5.1, 0.03, 1.9 * due, 0.05], strict=True))
        records.append(
            {
                "round": number,
                "phase": phase,
                "train_loss": None if collapsed and number == 3 else loss,
                "eval_loss": loss + 0.02 if due else None,
                "eval_accuracy": float(accuracy + rng.normal(0, 0.008)) if due else None,
                "clients": cohort - len(failed),
                "cohort": cohort,
                "failures": failed,
                "bytes_up": 76_312 * both * (cohort - len(failed)),
                "bytes_down": 76_312 * (both + (number == 1)) * cohort,
                "seconds": stages | {"total": sum(stages.values()) + 0.02},
            }
        )
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if done is not None:
        return directory

    sizes = rng.dirichlet(np.full(clients, 2.0)) * 700 * clients + 4
    split = [
        rng.multinomial(int(n), rng.dirichlet(np.full(len(labels), 0.5))).tolist() for n in sizes
    ]
    final = records[-1]
    examples = np.maximum(1, sizes // 9).astype(int)
    local = rng.binomial(examples, final["eval_accuracy"]) / examples
    evaluated = [r for r in records if r["eval_accuracy"] is not None]
    best = max(evaluated, key=lambda r: r["eval_accuracy"])
    shares = np.full(len(labels), chance)
    if collapsed:
        shares = np.array([0.004] * (len(labels) - 1) + [1 - 0.004 * (len(labels) - 1)])
    summary = {
        "rolora_version": "0.1.0",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2",
                     "python": "3.11.2", "numpy": "2.4.6"},
        "method": {"name": method, "title": TITLES.get(method, method),
                   "travels": "B in odd rounds, A in even", "exact": "yes",
                   "citation": "Chen et al., 2025, Algorithm 1, arXiv:2502.01755"},
        "config_hash": "9f2d1c0a7b",
        "data": {"name": "rotten_tomatoes", "train": 6910, "validation": 767, "test": 853,
                 "test_from": "10% of train",
                 "label_names": list(labels), "fingerprint": f"c0ffee{seed}"},
        "model": {"name": "minilm", "type": "bert", "parameters": 22_713_986,
                  "adapter_parameters": 36_864},
        "label_table": split,
        "client_accuracy": [
            {"client": i, "examples": int(n), "accuracy": float(a)}
            for i, (n, a) in enumerate(zip(examples, local, strict=True))
        ],
        "final": {"round": rounds, "eval_accuracy": final["eval_accuracy"],
                  "eval_loss": final["eval_loss"],
                  "test_accuracy": final["eval_accuracy"] - 0.007, "test_loss": 0.512},
        "best": {"round": best["round"], "eval_accuracy": best["eval_accuracy"]},
        "majority_accuracy": chance + 0.004,
        "bytes_up": sum(r["bytes_up"] for r in records),
        "bytes_down": sum(r["bytes_down"] for r in records),
        "failures": sum(len(r["failures"]) for r in records),
        "seconds": {s: sum(r["seconds"][s] for r in records) for s in (*STAGES, "total")},
        "device": "cpu", "dtype": "float32", "threads": 2, "peak_memory_mb": 812.4,
        "command": "rolora run configs/quickstart.yaml --out runs/quickstart",
        "started": "2026-11-22T15:00:01+00:00", "finished": "2026-11-22T15:02:24+00:00",
        "predicted_label_shares": shares.tolist(),
    }  # fmt: skip
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), failures=0.1)


@pytest.fixture(scope="module")
def page(run):
    return write_report(run).read_text()


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


def rounds_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def change_summary(run, **changes):
    (run / "summary.json").write_text(json.dumps(summary_of(run) | changes))


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
        assert percent(summary["final"]["test_accuracy"]).replace("\u202f", " ") in lead
        assert percent(summary["majority_accuracy"]).replace("\u202f", " ") in lead
        assert count(summary["data"]["test"]) in lead
        assert byte_size(summary["bytes_up"]).replace("\u202f", " ") in lead
        assert byte_size(summary["bytes_down"]).replace("\u202f", " ") in lead
        assert "RoLoRA fine-tuned minilm on rotten_tomatoes across 10 clients, in 20 rounds" in lead

    def test_every_round_is_in_the_table(self, run, page):
        rows = cells_of(page, "All rounds in numbers")
        for row, record in zip(rows, rounds_of(run), strict=True):
            accuracy = record["eval_accuracy"]
            assert row[:2] == [str(record["round"]), record["phase"]]
            assert row[2] == f"{record['train_loss']:.4f}"
            assert row[4] == ("–" if accuracy is None else f"{accuracy:.4f}")
            assert row[5:7] == [str(record["clients"]), str(record["cohort"])]
            assert row[7:9] == [f"{record['bytes_up']:,}", f"{record['bytes_down']:,}"]
            assert row[9] == f"{record['seconds']['total']:.2f}"

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
        evaluated = [r for r in rounds_of(run) if r["eval_accuracy"] is not None]
        sent = np.cumsum([r["bytes_up"] + r["bytes_down"] for r in rounds_of(run)])
        x = [r["round"] if over == "rounds" else sent[r["round"] - 1] for r in evaluated]
        points = line_of(figure_of(page, f"Accuracy over {over}"), "blue")
        assert len(points) == len(evaluated)
        assert np.corrcoef(points[:, 0], x)[0, 1] > 1 - 1e-9
        assert np.corrcoef(points[:, 1], [r["eval_accuracy"] for r in evaluated])[0, 1] < 1e-9 - 1

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
        wanted = np.array(summary_of(run)["label_table"])
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

    @pytest.mark.parametrize("key", sorted(["versions", "method", "data", "model", "final", "best",
        "label_table", "client_accuracy", "majority_accuracy", "seconds", "started", "command",
        "predicted_label_shares", "peak_memory_mb", "threads", "bytes_up"]))  # fmt: skip
    def test_any_key_of_the_summary_may_be_absent(self, tmp_path, key):
        run = make_run(tmp_path, rounds=3)
        summary = summary_of(run)
        del summary[key]
        (run / "summary.json").write_text(json.dumps(summary))
        assert "</html>" in write_report(run).read_text()

    def test_a_collapsed_run_is_named(self, tmp_path):
        words = words_of(write_report(make_run(tmp_path, collapsed=True)).read_text())
        assert "Collapsed. 99.6 % of the test predictions are one label (positive)" in words

    def test_a_run_no_better_than_a_constant_guess_is_named(self, tmp_path):
        run = make_run(tmp_path)
        assert "Collapsed" not in words_of(write_report(run).read_text())
        final = summary_of(run)["final"] | {"test_accuracy": 0.513}
        change_summary(run, final=final)
        assert "not more than one point above" in words_of(write_report(run).read_text())

    def test_a_diverged_run_has_a_report(self, tmp_path):
        run = make_run(tmp_path, rounds=4)
        records = [r | {"train_loss": None, "eval_loss": None} for r in rounds_of(run)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        words = words_of(write_report(run).read_text())
        assert "4 of 4 rounds have no finite training loss" in words

    def test_ten_thousand_clients_are_summarised(self, tmp_path):
        run = make_run(tmp_path, clients=10_000, per_round=100, rounds=3)
        page = write_report(run).read_text()
        assert len(page) < 400_000
        sizes = np.sum(summary_of(run)["label_table"], axis=1)
        row = cells_of(page, "Spread over clients")[0]
        assert row[0] == "training examples"
        assert row[1] == f"{sizes.min():,}"
        assert row[-1] == f"{sizes.max():,}"
        assert row[4] == f"{np.quantile(sizes, 0.5, method='inverted_cdf'):,.0f}"

    def test_many_labels_are_a_heat_map(self, tmp_path):
        names = tuple(f"intent {i}" for i in range(77))
        page = write_report(make_run(tmp_path, labels=names, rounds=2)).read_text()
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
        records = rounds_of(run)
        records[2]["attempts"] = 2
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        words = words_of(write_report(run).read_text())
        assert "another cohort drawn in 1 of 4 rounds, first in round 3" in words

    def test_personal_models_are_called_so(self, tmp_path):
        words = words_of(write_report(make_run(tmp_path, method="fedsa_lora")).read_text())
        assert "The clients' personal models get" in words


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
        run = make_run(tmp_path, labels=labels, rounds=4, failures=0.5)
        records = rounds_of(run)
        records[0]["failures"] = [{"client": 0, "reason": HOSTILE[0], "detail": HOSTILE[1]}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        data = summary_of(run)["data"] | {"name": HOSTILE[0]}
        change_summary(run, data=data, command=HOSTILE[0], device=HOSTILE[1], started=HOSTILE[2])
        page = write_report(run).read_text()
        assert "<script" not in page
        assert not re.search(r"<[^>]*\bonload=", page)
        assert page.count("<svg") == page.count("</svg>") == page.count("<figure>") - 1
        assert HOSTILE[0] in unescape(page)


chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


def browse(
    page: Path, directory: Path, *options: str, width: int = 1200, height: int = 2400
) -> tuple[str, str]:
    """Open a page in headless Chromium; returns its standard output and what it logged."""
    profile = directory / "profile"
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", f"--user-data-dir={profile}", "--hide-scrollbars",
         "--enable-logging=stderr", f"--window-size={width},{height}", *options, page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@chromium
class TestBrowser:
    """The report in headless Chromium."""

    @pytest.mark.parametrize(("width", "height"), [(1200, 2400), (400, 4800)])
    def test_it_renders_without_a_complaint(self, run, page, tmp_path, width, height):
        shot = f"--screenshot={tmp_path / 'shot.png'}"
        _, console = browse(run / "report.html", tmp_path, shot, width=width, height=height)
        assert console == ""
        pixels = imread(tmp_path / "shot.png")[..., :3]
        assert pixels.shape[1] == width
        blank = (pixels == pixels[0, 0]).all(-1)
        assert 0.02 < 1 - blank.mean() < 0.6
        for colour in ("blue", "orange", "green", "label-1"):
            wanted = np.array(to_rgb(THEME[colour][0]))
            assert (np.abs(pixels - wanted).max(-1) < 0.02).sum() > 50, colour

    def test_its_policy_stops_a_script_and_a_load(self, page, tmp_path):
        """What the test above relies on: Chromium does report what the page refuses."""
        bad = tmp_path / "bad.html"
        extra = '<img src="https://example.org/x.png"><script>document.title = "run"</script>'
        bad.write_text(page.replace("</main>", extra + "</main>"))
        dom, console = browse(bad, tmp_path, "--dump-dom")
        assert console.count("Content Security Policy") == 2
        assert "<title>run</title>" not in dom

    @pytest.mark.parametrize("width", [1200, 400])
    def test_nothing_sticks_out_sideways(self, page, tmp_path, width):
        probe = tmp_path / "probe.html"
        script = (
            "<script>document.querySelectorAll('details').forEach(d => d.open = true);"
            "const w = document.documentElement; document.title = w.scrollWidth - w.clientWidth"
            "</script>"
        )
        probe.write_text(re.sub(r"<meta http-equiv[^>]*>", "", page) + script)
        dom, _ = browse(probe, tmp_path, "--dump-dom", width=width)
        assert "<title>0</title>" in dom


class TestFiles:
    """Reading a run directory."""

    def test_a_torn_last_line_is_left_out(self, tmp_path):
        run = make_run(tmp_path, done=5)
        path = run / "metrics.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])
        assert [r.round for r in read_run(run).rounds] == [1, 2, 3, 4]
        path.write_bytes(whole[:-1])
        assert [r.round for r in read_run(run).rounds] == [1, 2, 3, 4, 5]

    def test_a_round_written_twice_counts_once(self, tmp_path):
        run = make_run(tmp_path, done=3)
        again = rounds_of(run)[1] | {"train_loss": 0.125}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(again) + "\n")
        rounds = read_run(run).rounds
        assert [r.round for r in rounds] == [1, 2, 3]
        assert rounds[1].train_loss == 0.125

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b"{", "line 2: not JSON"),
            (b"[]", "line 2: record"),
            (b'{"round": "two"}', "line 2: round = 'two'"),
            (b'{"round": 2, "failures": [{"client": 1}]}', "line 2: failures.0.reason"),
            (b'"\xff"', "line 2: cannot be read"),
            (b"[" * 100_000, "line 2"),
        ],
    )
    def test_a_damaged_line_is_named(self, tmp_path, line, message):
        run = make_run(tmp_path, done=3)
        path = run / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
        with pytest.raises(BadInput, match=re.escape(f"metrics.jsonl: {message}")):
            write_report(run)
        assert not (run / "report.html").exists()

    def test_a_damaged_summary_is_named(self, tmp_path):
        run = make_run(tmp_path, rounds=3)
        path = run / "summary.json"
        path.write_text(json.dumps(summary_of(run), indent=1).replace('"final": {', '"final": ['))
        with pytest.raises(BadInput, match=r"summary\.json: line \d+: not JSON"):
            read_run(run)
        path.write_text('{"final": 3}')
        with pytest.raises(BadInput, match=r"summary\.json: final = 3"):
            read_run(run)

    def test_nan_is_read_as_null(self, tmp_path):
        run = make_run(tmp_path, done=1)
        (run / "metrics.jsonl").write_text('{"round": 1, "train_loss": NaN}\n')
        assert read_run(run).rounds[0].train_loss is None

    def test_a_directory_without_a_run_is_refused(self, tmp_path):
        with pytest.raises(BadInput, match="not a run directory"):
            write_report(tmp_path)

    def test_write_atomic_leaves_the_old_file_where_it_fails(self, tmp_path, monkeypatch):
        path = tmp_path / "a.txt"
        write_atomic(path, "older")
        write_atomic(path, b"old")

        def broken(_: int) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("os.fsync", broken)
        with pytest.raises(OSError, match="disk full"):
            write_atomic(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


class TestUnits:
    @pytest.mark.parametrize(
        ("size", "text"),
        [(0, "0 B"), (1023, "1,023 B"), (1024, "1.00 KiB"), (76_312, "74.5 KiB"),
         (15_262_400, "14.6 MiB"), (141 * 2**20, "141 MiB"), (3 * 2**30, "3.00 GiB")],
    )  # fmt: skip
    def test_bytes(self, size, text):
        assert byte_size(size).replace("\u202f", " ") == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.04, "40 ms"), (0.9999, "1.0 s"), (6.24, "6.2 s"), (99.94, "99.9 s"),
         (99.96, "1 min 40 s"), (125, "2 min 05 s"), (3 * 3600 + 20 * 60, "3 h 20 min")],
    )  # fmt: skip
    def test_durations(self, seconds, text):
        assert duration(seconds).replace("\u202f", " ") == text


class TestStatistics:
    @pytest.mark.parametrize(
        ("degrees", "probability", "t"),
        [(1, 0.95, 12.7062), (2, 0.95, 4.30265), (3, 0.99, 5.84091), (4, 0.95, 2.77645),
         (9, 0.95, 2.26216), (30, 0.95, 2.04227)],
    )  # fmt: skip
    def test_t_has_the_values_of_the_tables(self, degrees, probability, t):
        assert t_quantile(probability, degrees) == pytest.approx(t, rel=2e-6)
        assert t_within(t, degrees) == pytest.approx(probability, rel=1e-6)

    def test_t_agrees_with_scipy(self):
        stats = pytest.importorskip("scipy.stats")
        values = [0.012, -0.004, 0.031, 0.007, 0.018]
        ours = paired_difference(values)
        theirs = stats.ttest_1samp(values, 0.0)
        interval = theirs.confidence_interval(0.95)
        assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
        assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)

    @pytest.mark.parametrize("values", [[0.1], [0.1, 0.1, 0.1]])
    def test_no_interval_without_a_spread(self, values):
        difference = paired_difference(values)
        assert difference.mean == pytest.approx(0.1)
        assert difference.low is difference.high is difference.p_value is None

    def test_wilson_interval_keeps_within_the_unit_interval(self):
        low, high = wilson_interval(0.5, 100)
        assert (low, high) == pytest.approx((0.40383, 0.59617), abs=1e-5)
        assert 0.999999 < wilson_interval(1.0, 3)[1] <= 1.0
        assert 0.0 <= wilson_interval(0.0, 3)[0] < 1e-6


METHODS = {"rolora": 0.77, "ffa_lora": 0.71, "fedit": 0.76}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Three methods under three seeds, of which FedIT collapses under seed 1."""
    root = tmp_path_factory.mktemp("compared")
    runs = []
    for offset, (method, reach) in enumerate(METHODS.items()):
        for seed in range(3):
            run = make_run(
                root / method / str(seed),
                method=method,
                seed=seed,
                reach=reach + 0.003 * offset * seed,
                collapsed=(method, seed) == ("fedit", 1),
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
            for measure, values in {
                "test_accuracy": [s["final"]["test_accuracy"] for s in summaries],
                "final_eval_accuracy": [s["final"]["eval_accuracy"] for s in summaries],
                "best_eval_accuracy": [s["best"]["eval_accuracy"] for s in summaries],
                "bytes_up": [s["bytes_up"] for s in summaries],
                "bytes_down": [s["bytes_down"] for s in summaries],
                "seconds": [s["seconds"]["total"] for s in summaries],
            }.items():
                cell = described[measure]
                assert list(cell["values"].values()) == values
                assert cell["mean"] == pytest.approx(np.mean(values))
                assert cell["std"] == pytest.approx(np.std(values, ddof=1))
                assert cell["n"] == 3

    def test_differences_are_paired_by_seed(self, compared):
        root, runs = compared
        accuracy = {
            (run.method, run.seed): summary_of(run.directory)["final"]["test_accuracy"]
            for run in runs
        }
        found = json.loads((root / "comparison.json").read_text())["differences"]
        found = {d["method"]: d for d in found if d["measure"] == "test_accuracy"}
        assert set(found) == {"ffa_lora", "fedit"}
        for method, difference in found.items():
            wanted = [accuracy[method, seed] - accuracy["rolora", seed] for seed in range(3)]
            assert list(difference["by_seed"].values()) == pytest.approx(wanted)
            assert difference["mean"] == pytest.approx(np.mean(wanted))
            margin = 4.30265 * np.std(wanted, ddof=1) / np.sqrt(3)
            assert difference["high"] - difference["mean"] == pytest.approx(margin, rel=1e-5)
            assert difference["baseline"] == "rolora"

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
            100 * summary_of(r.directory)["final"]["test_accuracy"] for r in runs if r.seed < 3
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
            (lambda s: s["label_table"][3].reverse(), "split of the labels"),
            (lambda s: s["data"].update(fingerprint="other"), "data"),
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

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"methods": {"a": 3}}'])
    def test_a_damaged_comparison_is_refused(self, tmp_path, text):
        (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(BadInput, match=r"comparison\.json: not a comparison"):
            comparison_table(tmp_path)
