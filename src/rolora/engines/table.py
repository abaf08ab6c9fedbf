"""The engines by name: where clients run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from rolora.config import Config
from rolora.engines.given import Given
from rolora.engines.preparation import Ready, in_process

Opened = Callable[[Config, Callable[[str], None], Given], AbstractContextManager[Ready]]
"""Opens a run on an engine: told its config, whom to give notice, and a program's own objects."""


def _flower(
    config: Config, notice: Callable[[str], None], given: Given
) -> AbstractContextManager[Ready]:
    from rolora.engines.flower.connect import connected

    return connected(config, notice, given)


ENGINES: dict[str, Opened] = {"in_process": in_process, "flower": _flower}
"""By the name in ``engine.name``."""
