"""What mkdocs calls while it builds the site: pages that are made of what is there already."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from config_page import config_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
GITHUB = "https://github.com/rolora/rolora/blob/main/"
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "experiments/README.md",
    "examples/**/README.md",
    "benchmarks/results/*/*.md",
    "benchmarks/results/*/*.png",
    "benchmarks/results/*/*.svg",
)
LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside ``docs/``, each file under its path in the repository, and the pages
    that are made of the code.
    """
    for path in sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    files.append(File.generated(config, "reference/config.md", content=config_page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the README's promise before the start page, and lead links within the repository to the
    site's own pages; to what is no page, on to the repository.
    """
    site = page.file.src_uri
    if site == "index.md":
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        markdown = readme.partition("\n## Commands\n")[0] + "\n\n" + markdown
    here = site if page.file.src_dir is None else f"docs/{site}"
    return LINK.sub(lambda link: led(link.group(), here, site, files), markdown)


def led(link: str, here: str, site: str, files: Files) -> str:
    """Where a link leads on the site.

    Args:
        link: as it is written.
        here: the page's path in the repository.
        site: its path on the site.
        files: the site's.
    """
    path, mark, anchor = link.partition("#")
    if path.startswith(GITHUB):
        wanted = path.removeprefix(GITHUB)
    elif not path or ":" in path:
        return link
    else:
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
    there = wanted.removeprefix("docs/")
    if files.get_file_from_path(there) is not None:
        return posixpath.relpath(there, posixpath.dirname(site) or ".") + mark + anchor
    return GITHUB + wanted + mark + anchor if (ROOT / wanted).exists() else link
