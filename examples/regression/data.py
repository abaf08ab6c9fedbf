"""Sentences with the sentiment that people gave them, from -4 to 4, of four kinds of text.

Writes data/sentences.csv. The sentences and the means of twenty people's ratings are those of Hutto
and Gilbert, "VADER" (ICWSM 2014), in the source archive of the package vaderSentiment, MIT licence.
"""

import csv
import io
import subprocess
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
KINDS = {
    "tweets": "tweets",
    "films": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}
EACH = 1_000
"""Sentences of each kind."""


def archive(directory: Path) -> Path:
    """The package's source archive, downloaded unless it is there."""
    path = directory / "vaderSentiment-3.3.2.tar.gz"
    if not path.is_file():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        options = ["--no-binary", ":all:", "--dest", directory, "-r", HERE / "source.txt"]
        subprocess.run([*pip, *options], check=True)
    return path


def sentences(path: Path):
    """Sentence, rating and kind of each sentence that is kept."""
    with tarfile.open(path) as package:
        (inner,) = (m for m in package if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=package.extractfile(inner)) as tar:
            for kind, name in KINDS.items():
                raw = tar.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
                lines = io.TextIOWrapper(raw, encoding="utf-8", errors="replace")
                for line in list(lines)[:EACH]:
                    _, rating, text = line.rstrip("\n").split("\t", 2)
                    yield text, float(rating), kind


data = HERE / "data"
data.mkdir(exist_ok=True)
with (data / "sentences.csv").open("w", newline="", encoding="utf-8") as out:
    csv.writer(out).writerows([("sentence", "rating", "kind"), *sentences(archive(data))])
