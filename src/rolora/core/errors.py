"""What goes wrong in words that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RoloraError(Exception):
    """An error that a user can act on: shown as one message, without a traceback."""


class BadInput(RoloraError):  # noqa: N818
    """A config, file or option is wrong; the message names it, its value and what would be right.

    The command line ends with exit code 2.
    """


class RunFailed(RoloraError):  # noqa: N818
    """A run could not go on, for instance because the quorum was lost; exit code 1."""


def nearest(name: str, known: Iterable[str], listing: bool = True) -> str:
    """`` (did you mean X? known: ...)`` for an unknown `name`."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    parts = [f"did you mean {close[0]}?"] if close else []
    if listing and known:
        parts.append("known: " + ", ".join(known))
    return f" ({' '.join(parts)})" if parts else ""
