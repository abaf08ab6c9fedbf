"""The report in headless Chromium."""

import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from browser import browse, chromium
from made_up import make_run, multilabel, regression
from rolora.report.figures import THEME
from rolora.report.run_report import write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), failures=0.1)


@pytest.fixture(scope="module")
def page(run):
    return write_report(run).read_text()


@chromium
class TestBrowser:
    """The report in headless Chromium."""

    @pytest.mark.parametrize(("width", "height"), [(1200, 3600), (400, 7200)])
    def test_it_renders_without_a_complaint(self, run, page, tmp_path, width, height):
        shot = f"--screenshot={tmp_path / 'shot.png'}"
        _, console = browse(
            (run / "report.html").as_uri(), tmp_path, shot, width=width, height=height
        )
        assert console == ""
        pixels = imread(tmp_path / "shot.png")[..., :3]
        assert pixels.shape[1] == width
        blank = (pixels == pixels[0, 0]).all(-1)
        assert 0.02 < 1 - blank.mean() < 0.6
        for colour in ("blue", "orange", "green", "label-1"):
            wanted = np.array(to_rgb(THEME[colour][0]))
            assert (np.abs(pixels - wanted).max(-1) < 0.02).sum() > 50, colour

    @pytest.mark.parametrize("learned", [regression(), multilabel()])
    def test_so_do_other_tasks(self, tmp_path, learned):
        page = write_report(make_run(tmp_path, learned))
        _, console = browse(page.as_uri(), tmp_path, f"--screenshot={tmp_path / 'shot.png'}")
        assert console == ""
        pixels = imread(tmp_path / "shot.png")[..., :3]
        for colour in ("blue", "orange", "green"):
            wanted = np.array(to_rgb(THEME[colour][0]))
            assert (np.abs(pixels - wanted).max(-1) < 0.02).sum() > 50, colour

    def test_its_policy_stops_a_script_and_a_load(self, page, tmp_path):
        """What the test above relies on: Chromium does report what the page refuses."""
        bad = tmp_path / "bad.html"
        extra = '<img src="https://example.org/x.png"><script>document.title = "run"</script>'
        bad.write_text(page.replace("</main>", extra + "</main>"))
        dom, console = browse(bad.as_uri(), tmp_path, "--dump-dom")
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
        dom, _ = browse(probe.as_uri(), tmp_path, "--dump-dom", width=width)
        assert "<title>0</title>" in dom
