"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path


def write_atomic(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Write a file whole or not at all; text as UTF-8.

    Args:
        mode: its permissions, less those that the process withholds.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb", opener=partial(os.open, mode=mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
