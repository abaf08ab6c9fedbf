"""Where what is fetched or made once for all runs lies."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """``rolora`` in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rolora"
