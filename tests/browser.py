"""Headless Chromium."""

import shutil
import subprocess
from pathlib import Path

import pytest

chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


def browse(
    address: str, directory: Path, *options: str, width: int = 1200, height: int = 2400
) -> tuple[str, str]:
    """Open a page; returns Chromium's standard output and what the page logged."""
    profile = directory / "profile"
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", f"--user-data-dir={profile}", "--hide-scrollbars",
         "--enable-logging=stderr", f"--window-size={width},{height}", *options, address],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
