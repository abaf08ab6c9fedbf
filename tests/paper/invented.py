"""Small made-up data of the paper's experiments, and experiments finished on them."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments import EXPERIMENTS
from experiments.experiment import run_experiment
from experiments.mnist.data import Digits, Mnist
from experiments.report import Findings
from rolora.core.seeds import numpy_generator
from small import WORDS

STANDINGS = {"holds", "does not hold", "not decided at this size"}
SPREAD = (0.0, 0.01, -0.01, 0.02, -0.02)
"""From seed to seed, of planted accuracies."""


@dataclass(frozen=True)
class Finished:
    """An experiment that was run: its overrides and directory, what it found and printed."""

    overrides: Sequence[str]
    out: Path
    findings: Findings
    said: str

    def page(self) -> str:
        return (self.out / "report.md").read_text("utf-8")

    def record(self):
        return json.loads((self.out / "report.json").read_text("utf-8"))

    def cells(self) -> set[str]:
        return {path.name for path in (self.out / "cells").glob("*.json")}

    def files(self) -> dict[str, bytes]:
        """What it leaves beside the cells."""
        return {path.name: path.read_bytes() for path in self.out.iterdir() if path.is_file()}

    def again(self, out=None, *more: str) -> Finished:
        return run(self.name, [*self.overrides, *more], out or self.out)

    @property
    def name(self) -> str:
        return self.record()["command"].split()[3]


def run(name: str, overrides: Sequence[str], out: Path) -> Finished:
    said = StringIO()
    console = Console(file=said, width=220)
    found = run_experiment(EXPERIMENTS[name].load(), overrides, out, console)
    return Finished(overrides, out, found, said.getvalue())


def settings(**values) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def says_all(finished: Finished):
    """Every claim is decided, with evidence, on the page and on the terminal."""
    page = finished.page()
    assert finished.findings.claims
    for claim in finished.findings.claims:
        assert claim.standing in STANDINGS
        assert claim.evidence
        assert claim.text.replace("|", "\\|") in page
        assert claim.text[:40] in finished.said
    for table in finished.findings.tables:
        assert table.title in page
        assert table.title[:30] in finished.said


# -- MNIST --------------------------------------------------------------------------------------


def idx(array) -> bytes:
    """LeCun's format, written out by hand."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def digits(n, seed):
    """Ten digits that differ in which tenth of the image is inked, with noise."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 10).astype(np.uint8)
    images = rng.integers(0, 40, (n, 784))
    for i, label in enumerate(labels.tolist()):
        images[i, 78 * label : 78 * (label + 1)] += 160
    return Digits(images.astype(np.uint8), labels)


MNIST = Mnist(digits(300, 1), digits(100, 2), "made-up digits")


def digits_directory(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", MNIST.train), ("t10k", MNIST.test)):
        images = part.images.reshape(-1, 28, 28)
        (directory / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (directory / f"{name}-labels-idx1-ubyte").write_bytes(idx(part.labels))
    return directory


# -- GLUE ---------------------------------------------------------------------------------------


def glue_directory(directory: Path, n=160) -> Path:
    """SST-2 as files: the first word gives the label away."""
    rng = numpy_generator(0, "made-up")
    (directory / "sst2").mkdir(parents=True, exist_ok=True)
    for name, count in (("train", n), ("validation", 40)):
        labels = rng.integers(0, 2, count).tolist()
        lines = []
        for label in labels:
            words = [WORDS[label], *rng.choice(WORDS, rng.integers(2, 9)).tolist()]
            lines.append(json.dumps({"sentence": " ".join(words), "label": label}))
        (directory / "sst2" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return directory
