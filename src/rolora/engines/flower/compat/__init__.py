"""Flower's own machinery in rolora's words: nothing else knows a private name of Flower's.

Messages, records, apps, the grid and the simulation are public in Flower. These are not: how a node
connects without a SuperNode (:mod:`.node`), how a process drives a run that it submitted
(:mod:`.run`), how answers are fetched without waiting for the slowest (:mod:`.answers`), and the
SuperLink as an application (:mod:`.superlink`). They may change with any version of Flower. There
is a module for each, as a process loads no more than its part.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator

from rolora.core.errors import BadInput

WORKS_WITH = ">=1.42,<1.43"
"""The versions of flwr that rolora is tested with, as in the extra ``rolora[flower]``."""

UNKNOWN_FLOWER = 300
"""The exit code of a node whose Flower is another; it stands among Flower's for a node that is set
up wrongly, and Flower itself has none of that number.
"""


@contextlib.contextmanager
def known_flower() -> Iterator[None]:
    """Around the import of names that Flower does not promise to keep.

    Raises:
        BadInput: the installed Flower has one no more, or not yet.
    """
    try:
        yield
    except ImportError as error:
        version = importlib.metadata.version("flwr")
        raise BadInput(
            f"flwr {version} is installed, and rolora works with flwr{WORKS_WITH} ({error}); "
            "pip install 'rolora[flower]'"
        ) from None
