"""The configs that come with the package, and what a CONFIG on the command line stands for."""

from __future__ import annotations

import os
from pathlib import Path

from rolora.core.errors import BadInput, nearest

_HERE = Path(__file__).parent


def presets() -> dict[str, str]:
    """What each preset is, by name: the first line of its file, which is a comment."""
    return {path.stem: _first_line(path) for path in sorted(_HERE.glob("*.yaml"))}


def preset_text(name: str) -> str:
    """The YAML of a preset, comments and all.

    Raises:
        BadInput: there is none of that name.
    """
    if name not in presets():
        raise BadInput(f"preset {name!r}: unknown{nearest(name, presets())}")
    return (_HERE / f"{name}.yaml").read_text(encoding="utf-8")


def located(config: Path | str) -> Path:
    """The file that `config` means: itself, or the preset of that name.

    Raises:
        BadInput: there is neither; the nearest preset is named.
    """
    path, name = Path(config), str(config)
    directory = os.path.isdir(path)  # os.path raises for no name, however odd; Path does
    if os.path.exists(path) and not directory:
        return path
    if name in presets():
        return _HERE / f"{name}.yaml"
    if directory:
        raise BadInput(
            f"config {name}: cannot be read, it is a directory; name a file in it, as in "
            f"{path / 'rolora.yaml'}"
        )
    like = path.name.removesuffix(path.suffix)
    raise BadInput(
        f"config {name}: cannot be read, there is no such file, nor a preset of that name"
        f"{nearest(like, presets())}; a file is named by its path, as in ./rolora.yaml"
    )


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
