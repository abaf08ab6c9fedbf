"""What is installed here, what is missing or too old, and how to get it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement

import rolora
from rolora.core.errors import BadInput

_NAME, _WEIGHTS = "rolora", "model.safetensors"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: of it.
        found: what there is, in words.
        fine: whether it is as it should be.
        advice: what to do, where it is not.
    """

    name: str
    found: str
    fine: bool = True
    advice: str = ""


@dataclass(frozen=True)
class Examination:
    """What :func:`examine` found.

    Args:
        machine: this computer, and what it lets a run do.
        required: the packages without which nothing runs.
        extras: the optional parts, and how to get those that are missing.
        packaged: the models and data that come in packages.
    """

    machine: tuple[Finding, ...]
    required: tuple[Finding, ...]
    extras: tuple[Finding, ...]
    packaged: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether a run can begin: extras may be missing, what is required may not."""
        return all(finding.fine for finding in (*self.machine, *self.required))


def examine() -> Examination:
    """Look at this installation; nothing is changed, and nobody is asked over a network."""
    return Examination(tuple(_machine()), tuple(_required()), tuple(_extras()), tuple(_packaged()))


# The machine -------------------------------------------------------------------------------


def _machine() -> Iterator[Finding]:
    yield Finding(_NAME, f"{rolora.__version__} in {Path(rolora.__file__).parent}")
    yield Finding(
        "python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    yield from _torch()
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    yield Finding("memory", f"{pages * size / 2**30:.1f} GiB")
    offline = os.environ.get("HF_HUB_OFFLINE")
    hub = "is asked for names that are neither packaged nor directories"
    if offline:
        hub = f"HF_HUB_OFFLINE={offline}: only what is in its cache is loaded"
    yield Finding("hub", hub)


def _torch() -> Iterator[Finding]:
    """The device and the threads, if torch can be loaded at all."""
    try:
        import torch

        devices = [
            f"cuda:{i}, {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
        ]
        if torch.backends.mps.is_available():
            devices.append("mps")
        cores = f"{torch.get_num_threads()} of {len(os.sched_getaffinity(0))} cores"
    except Exception as error:  # a broken installation fails in many ways
        reason = f"torch cannot be loaded ({type(error).__name__}: {error})"
        yield Finding("device", reason, False, "pip install --force-reinstall torch")
        return
    yield Finding("device", "; ".join(devices) or "cpu")
    yield Finding("threads", cores)


# Packages ----------------------------------------------------------------------------------


def _required() -> Iterator[Finding]:
    for needed in _needs(_NAME, ""):
        installed, fine = _installed(needed)
        yield Finding(needed.name, installed, fine, "" if fine else f"pip install -U '{needed}'")


def _extras() -> Iterator[Finding]:
    for extra in _extra_names():
        needs = list({needed.name: needed for needed in _needs(_NAME, extra)}.values())
        seen = [(needed.name, *_installed(needed)) for needed in needs]
        lacking = [f"{name} {found}" for name, found, fine in seen if not fine]
        there = [f"{name} {found}" for name, found, _ in seen]
        more = [f"and {len(there) - 3} more"] if len(there) > 3 else []
        yield Finding(
            extra,
            ", ".join(lacking or [*there[:3], *more]),
            not lacking,
            f"pip install '{_NAME}[{extra}]'" if lacking else "",
        )


def _extra_names() -> list[str]:
    try:
        return metadata(_NAME).get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return []


def _needs(distribution: str, extra: str) -> Iterator[Requirement]:
    """What a distribution requires; with `extra`, what that adds, those of other extras within."""
    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:
        yield Requirement(distribution)  # which is not there either
        return
    for needed in map(Requirement, lines):
        if not _applies(needed, extra) or (extra and _applies(needed, "")):
            continue
        needed.marker = None
        if needed.name != distribution:
            yield needed
        for inner in needed.extras:
            yield from _needs(needed.name, inner)


def _applies(needed: Requirement, extra: str) -> bool:
    return needed.marker is None or needed.marker.evaluate({"extra": extra})


def _installed(needed: Requirement) -> tuple[str, bool]:
    """The version that there is, and whether it will do."""
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return "is missing", False
    if needed.specifier.contains(found, prereleases=True):
        return found, True
    return f"is {found}, must be {needed.specifier}", False


# Models and data in packages ---------------------------------------------------------------


def _packaged() -> Iterator[Finding]:
    try:
        from rolora.config import DataConfig
        from rolora.data.sources import open_splits, source_of
        from rolora.model.sources import PACKAGED, UNPACKED, packed_file, resolve_source
    except (ImportError, OSError) as error:
        yield Finding("rolora", f"cannot be loaded ({error})", False, "see what is required above")
        return

    def weights(name: str) -> str:
        file = packed_file(name) if name in UNPACKED else Path(resolve_source(name), _WEIGHTS)
        return f"{file.stat().st_size / 2**20:.0f} MiB"

    def texts(name: str) -> str:
        config = DataConfig(name=name)
        columns = open_splits(config, source_of(config))["train"]().columns
        return f"{len(next(iter(columns.values()))):,} texts"

    for name in (*PACKAGED, *UNPACKED):
        yield _looked(f"model {name}", partial(weights, name))
    for name in ("rotten_tomatoes", "imdb", "alpaca_demo"):
        yield _looked(f"data {name}", partial(texts, name))


def _looked(name: str, look: Callable[[], str]) -> Finding:
    """What `look` finds; where it is refused, how to get what it lacks."""
    try:
        return Finding(name, look())
    except BadInput as error:
        return Finding(name, "is missing", False, str(error).partition("; ")[2])
    except OSError as error:
        return Finding(name, f"cannot be read ({error})", False, "install its package again")
