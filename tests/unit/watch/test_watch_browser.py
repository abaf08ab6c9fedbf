"""The live page in headless Chromium."""

import re
import threading

import numpy as np
import pytest
import uvicorn
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from browser import browse, chromium
from made_up import make_run
from rolora.records.lock import HOLDER
from rolora.report.figures import THEME
from rolora.watch.app import make_app
from rolora.watch.looks import Runs
from rolora.watch.page import run_page, runs_page
from rolora.watch.serve import first_free

PAGES = {"light": "#ffffff", "dark": "#14181c"}


class Going(Runs):
    """Runs that go on as soon as somebody has looked at them."""

    def look(self):
        looks = super().look()
        for path in self.paths:
            make_run(path / "rolora", rounds=6, failures=0.2)
        return looks


@pytest.fixture
def address(tmp_path):
    """Where a page is over two runs, one of them under way, which ends behind the first look."""
    runs = tmp_path / "runs"
    make_run(runs / "fedit", rounds=6, method="fedit")
    make_run(runs / "rolora", rounds=6, done=2, failures=0.2)
    (runs / "rolora" / HOLDER).write_text('{"host": "elsewhere", "pid": 1}')
    sockets = first_free(lambda text: None)
    config = uvicorn.Config(make_app(Going([runs])), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=30)
    assert not thread.is_alive()


@chromium
class TestBrowser:
    """The live page in headless Chromium."""

    def test_it_goes_on_with_the_run(self, address, tmp_path):
        """Under Chromium's own clock the first look and the next are in no time."""
        dom, console = browse(
            f"{address}/run/rolora", tmp_path, "--virtual-time-budget=9000", "--dump-dom"
        )
        assert console == ""
        assert 'class="state finished"' in dom
        assert "<title>rolora, finished: rolora watch</title>" in dom
        assert re.search(r'<p class="lost"[^>]* hidden', dom)
        assert dom.count("<main>") == 1

    @pytest.mark.parametrize(
        ("theme", "scheme", "path", "width"),
        [("light", 1, "/", 1200), ("dark", 0, "/run/fedit", 400)],
    )
    def test_it_is_drawn_in_the_readers_colours(
        self, address, tmp_path, theme, scheme, path, width
    ):
        shot = tmp_path / "shot.png"
        options = (f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}")
        _, console = browse(address + path, tmp_path, *options, width=width)
        assert console == ""
        pixels = imread(shot)[..., :3]
        assert pixels.shape[1] == width
        np.testing.assert_allclose(pixels[0, 0], to_rgb(PAGES[theme]), atol=0.01)
        for colour in ("label-0", "label-1") if path == "/" else ("blue", "orange"):
            wanted = np.array(to_rgb(THEME[colour][theme == "dark"]))
            assert (np.abs(pixels - wanted).max(-1) < 0.02).sum() > 50, colour

    def test_nothing_sticks_out_sideways(self, tmp_path):
        make_run(tmp_path / "a-long-name-of-a-comparison" / "rolora" / "seed-0", failures=0.2)
        make_run(tmp_path / "b", done=0)
        (tmp_path / "b" / "metrics.jsonl").write_text('{"round": "' + 80 * "x" + '"}\n\n')
        looks = Runs([tmp_path]).look()
        script = (
            "<script>document.querySelectorAll('details').forEach(d => d.open = true);"
            "const w = document.documentElement; document.title = w.scrollWidth - w.clientWidth"
            "</script>"
        )
        for page in (runs_page(looks), run_page(looks[0], 2), run_page(looks[1], 2)):
            probe = tmp_path / "probe.html"
            probe.write_text(page + script)
            dom, _ = browse(probe.as_uri(), tmp_path, "--dump-dom", width=400)
            assert "<title>0</title>" in dom
