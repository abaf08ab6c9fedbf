"""The site: it is built without a warning, asks no other host for anything, and fits a phone."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import rolora
from browser import browse, chromium
from rolora.config import Config, dump_config

pytestmark = pytest.mark.docs
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as ``make docs`` builds it; a warning, such as of a link to nowhere, ends it."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


class Loaded(HTMLParser):
    """What a browser fetches for a page by itself."""

    def __init__(self, text):
        super().__init__()
        self.addresses = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(given.get("href") or "")


def test_nothing_is_fetched_from_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        foreign = [a for a in Loaded(page.read_text()).addresses if re.match(r"(\w+:)?//", a)]
        assert foreign == [], page
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()) == []


def test_every_key_is_in_the_config_reference(site):
    page = (site / "reference/config.html").read_text()

    def keys(settings):
        for key, value in settings.items():
            yield key
            if isinstance(value, dict):
                yield from keys(value)

    for key in keys(yaml.safe_load(dump_config(Config()))):
        assert f"<code>{key}</code>" in page, key


def test_every_public_name_is_in_the_library_reference(site):
    pages = "".join(
        (site / f"reference/{name}.html").read_text() for name in ("library", "extending")
    )
    for name in rolora.__all__:
        wanted = f"rolora.{name}" if name == "__version__" else f'id="rolora.{name}"'
        assert wanted in pages, name


@chromium
@pytest.mark.parametrize("page", ["index", "tutorial", "howto/choose", "reference/config"])
def test_a_page_fits_a_phone_and_logs_nothing(site, tmp_path, page):
    probe = site / f"{page}.html"
    probe.with_suffix(".probe.html").write_text(
        probe.read_text().replace(
            "</body>",
            "<script>addEventListener('load', () => { document.title = "
            "document.documentElement.scrollWidth + ' of ' + innerWidth; })</script></body>",
        )
    )
    text, logged = browse(
        probe.with_suffix(".probe.html").as_uri(), tmp_path, "--dump-dom",
        "--virtual-time-budget=5000", "--host-resolver-rules=MAP * ~NOTFOUND", width=500,
    )  # fmt: skip
    assert logged == ""
    wide, window = map(int, re.search(r"<title>(\d+) of (\d+)</title>", text).groups())
    assert wide <= window
