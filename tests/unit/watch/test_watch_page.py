"""What the live page answers, and to whom."""

import json
import re
from html import unescape

import numpy as np
import pytest
from starlette.testclient import TestClient

from made_up import change_rounds, make_run, regression, rounds_of
from rolora.records.lock import HOLDER
from rolora.records.units import byte_size, percent
from rolora.watch.app import make_app
from rolora.watch.looks import Runs
from rolora.watch.overlay import MOST_RUNS

HOSTILE = "<script>alert(1)</script>\" onload='x' &amp; {{ 7 * 7 }}"


def client(*paths):
    return TestClient(make_app(Runs(paths)), base_url="http://127.0.0.1:6160")


def hold(run):
    """Leave the word of a process of another machine that runs there."""
    (run / HOLDER).write_text('{"host": "elsewhere", "pid": 1}')


def words_of(page):
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def figure_of(page, title):
    return page[page.index(f"<h3>{title}</h3>") :].split("</svg>")[0]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A directory as `rolora compare` leaves it, in the middle of its third run."""
    directory = tmp_path_factory.mktemp("compared")
    make_run(directory / "rolora/seed-0", rounds=6, failures=0.3)
    make_run(directory / "fedit/seed-0", rounds=6, method="fedit")
    make_run(directory / "ffa_lora/seed-0", rounds=6, done=4, method="ffa_lora")
    return directory


@pytest.fixture(scope="module")
def overlaid(compared):
    return client(compared).get("/").text


class TestOneRun:
    """One run is shown as its report shows it."""

    def test_it_has_what_the_report_has(self, tmp_path):
        words = words_of(client(make_run(tmp_path / "run", failures=0.2)).get("/").text)
        for heading in ("Learning", "Accuracy over rounds", "Labels by client", "Bytes by round"):
            assert heading in words
        assert "finished in" in words

    def test_failures_are_counted_by_client_and_reason(self, tmp_path):
        run = make_run(tmp_path / "run", done=3)
        failure = {"client": 7, "reason": "lost", "detail": HOSTILE}
        change_rounds(run, lambda records: [r.update(failures=[failure]) for r in records[:2]])
        page = client(run).get("/").text
        row = re.findall(r"<td[^>]*>(.*?)</td>", page.split("By client")[1].split("</tbody>")[0])
        assert row == ["7", "lost 2", "2", "2"]
        assert HOSTILE in unescape(page)
        assert "<script>" not in page

    def test_a_run_under_way_is_not_told_to_resume(self, tmp_path):
        run = make_run(tmp_path / "run", done=3)
        assert "--resume" in client(run).get("/").text
        hold(run)
        assert "--resume" not in client(run).get("/").text

    def test_before_anything_is_written_its_state_is_the_page(self, tmp_path):
        hold(tmp_path)
        words = words_of(client(tmp_path).get("/").text)
        assert "1 run: 1 preparing" in words
        assert "No round is finished yet" in words


class TestSeveralRuns:
    """Several runs are in one table and one picture."""

    def test_the_table_has_a_row_a_run(self, compared, overlaid):
        rows = re.findall(r"<tr>(.*?)</tr>", overlaid.split("</table>")[0], flags=re.S)[1:]
        cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.S) for row in rows]
        named = {words_of(row[0]): [words_of(cell) for cell in row[1:]] for row in cells}
        assert list(named) == ["fedit/seed-0", "ffa_lora/seed-0", "rolora/seed-0"]
        records = rounds_of(compared / "ffa_lora/seed-0")
        sent = sum(r["bytes_up"] + r["bytes_down"] for r in records)
        shown = [percent(records[-1]["validation"]["accuracy"]), "–", byte_size(sent), "0"]
        *numbers, state, what = named["ffa_lora/seed-0"]
        assert numbers == ["4 of 6", *(cell.replace("\u202f", " ") for cell in shown)]
        assert state == "stopped after round 4"
        assert what.startswith("FFA-LoRA, ")

    def test_every_value_is_told_under_a_pointer(self, compared, overlaid):
        svg = figure_of(overlaid, "Validation accuracy over rounds")
        told = set(map(unescape, re.findall(r"<title>(.*?)</title>", svg, flags=re.S)))
        for name in ("rolora", "fedit", "ffa_lora"):
            sent = 0
            for record in rounds_of(compared / name / "seed-0"):
                sent += record["bytes_up"] + record["bytes_down"]
                if record["validation"]:
                    score = percent(record["validation"]["accuracy"])
                    where = f"round {record['round']}, {byte_size(sent)} sent"
                    told.remove(f"{name}/seed-0\n{where}\n{score}".replace("\u202f", " "))
        assert not told

    def test_a_value_lies_over_its_point(self, overlaid):
        svg = figure_of(overlaid, "Training loss over rounds")
        (curve,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--label-1\)', svg)
        points = [list(map(float, p.split())) for p in re.findall(r"[ML] ([\d.]+ [\d.]+)", curve)]
        box = r'x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"><title>ffa_lora'
        boxes = np.array(re.findall(box, svg), float)
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:] / 2, points, atol=0.1)

    def test_each_run_has_a_page_of_its_own(self, compared):
        asked = client(compared)
        assert "FFA-LoRA on" in asked.get("/run/ffa_lora/seed-0").text
        for name in ("ffa_lora", "%2e%2e/rolora", "%2Fetc%2Fpasswd", "rolora/seed-0/", ""):
            assert asked.get(f"/run/{name}").status_code == 404

    def test_other_tasks_have_pictures_of_their_own(self, tmp_path):
        make_run(tmp_path / "a", rounds=2)
        make_run(tmp_path / "b", regression(), rounds=2)
        page = client(tmp_path).get("/").text
        assert "label-1" not in figure_of(page, "Validation accuracy over rounds")
        assert "label-1" in figure_of(page, "Validation Pearson correlation over rounds")
        assert "label-1" in figure_of(page, "Validation loss over bytes")

    def test_more_runs_than_can_be_told_apart_are_in_the_table_alone(self, tmp_path):
        for number in range(MOST_RUNS + 1):
            make_run(tmp_path / f"run-{number}", done=1)
        page = client(tmp_path).get("/").text
        assert f"The curves are of the {MOST_RUNS} runs that changed last" in page
        assert page.split("</table>")[0].count("<tr>") == MOST_RUNS + 2

    def test_hostile_names_are_text(self, tmp_path):
        name = "<b onclick=x>"
        make_run(tmp_path / name, done=2)
        run = make_run(tmp_path / "other", done=2)
        start = json.loads((run / "start.json").read_text())
        start["method"]["title"] = HOSTILE
        start["task"]["metrics"][0]["title"] = HOSTILE
        (run / "start.json").write_text(json.dumps(start))
        page = client(tmp_path).get("/").text
        assert "<b" not in page.replace("<body", "")
        assert page.count("<script") == 1
        assert HOSTILE in unescape(page)


class TestAnswers:
    """Read only, to this machine alone, and only what is new."""

    def test_a_page_is_sent_again_only_if_it_changed(self, tmp_path):
        run = make_run(tmp_path / "run", done=2)
        asked = client(run)
        first = asked.get("/")
        known = {"If-None-Match": first.headers["ETag"]}
        again = asked.get("/", headers=known)
        assert (again.status_code, again.content) == (304, b"")
        make_run(run, done=3)
        assert "3 of 20 rounds" in asked.get("/", headers=known).text

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:6160", "127.0.0.1.evil.example"]
    )
    def test_another_name_is_refused(self, compared, host):
        answer = client(compared).get("/", headers={"Host": host}, follow_redirects=False)
        assert answer.status_code == 400
        assert "rolora" not in answer.text

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    def test_nothing_can_be_written(self, compared, method):
        for path in ("/", "/watch.js", "/run/rolora/seed-0"):
            assert client(compared).request(method, path).status_code == 405

    @pytest.mark.parametrize(
        "path", ["/config.yaml", "/rolora/seed-0/metrics.jsonl", "/run/rolora/seed-0/config.yaml"]
    )
    def test_no_file_is_served(self, compared, path):
        assert client(compared).get(path).status_code == 404

    def test_only_its_own_script_may_run(self, compared):
        asked = client(compared)
        for path in ("/", "/watch.js"):
            headers = asked.get(path).headers
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'; script-src 'self';" in policy
            assert headers["X-Content-Type-Options"] == "nosniff"
        page = asked.get("/").text
        assert re.findall(r"<script[^>]*>.*?</script>", page, flags=re.S) == [
            '<script src="/watch.js" defer></script>'
        ]
        assert 'http-equiv="refresh"' in page.split("<noscript>")[1].split("</noscript>")[0]
