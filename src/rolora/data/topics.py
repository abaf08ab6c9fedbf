"""What prompts are about, where no column says so: clusters of their words."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rolora.core.errors import BadInput
from rolora.core.seeds import derive
from rolora.data.dialogue import DialogueSplit
from rolora.data.raw import RawSplits

TELLING = 3
"""Words in a topic's name."""
MOST_WORDS = 20_000


@dataclass(frozen=True)
class Topics:
    """Clusters fitted to prompts, the largest first.

    Args:
        names: of each, its most telling words: those whose mean weight in it is furthest above that
            in all prompts.
        vectorizer, clusters: scikit-learn's, fitted.
        rank: int64 ``[topics]``, the place of each cluster among `names`.
    """

    names: tuple[str, ...]
    vectorizer: Any
    clusters: Any
    rank: np.ndarray

    def of(self, split: DialogueSplit) -> np.ndarray:
        """The topic of each example, int64 ``[n]``: the nearest cluster's."""
        return self.rank[self.clusters.predict(self.vectorizer.transform(_prompts(split)))]


def fit_topics(split: DialogueSplit, number: int, seed: int) -> Topics:
    """k-means (k-means++ starts, the best of ten) over the TF-IDF weights of the prompts' words,
    without English stop words; all by scikit-learn.

    Args:
        split: the training examples; of a plain text, the text counts.
        number: of topics.
        seed: the run's.

    Raises:
        BadInput: scikit-learn is missing, there are fewer different prompts than topics, or they
            hold no words.
    """
    prompts = _prompts(split)
    try:
        from sklearn.cluster import KMeans
        from sklearn.feature_extraction.text import TfidfVectorizer
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise BadInput(
            "task.strata = 'topic': what finds topics is missing; pip install 'rolora[topics]', or "
            "name a column"
        ) from None
    if (n := len(set(prompts))) < number:
        raise BadInput(f"task.topics = {number}: there are {n} different prompts; take fewer")
    vectorizer = TfidfVectorizer(stop_words="english", sublinear_tf=True, max_features=MOST_WORDS)
    clusters = KMeans(number, n_init=10, random_state=derive(seed, "topics") % 2**32)
    with threadpool_limits(1), warnings.catch_warnings():  # threads would add up in any order
        warnings.simplefilter("ignore")  # of prompts that share all their words
        try:
            weights = vectorizer.fit_transform(prompts)
        except ValueError:
            raise BadInput("task.strata = 'topic': the prompts hold no words to go by") from None
        found = clusters.fit_predict(weights)
    order = np.argsort(-np.bincount(found, minlength=number), kind="stable")
    telling = clusters.cluster_centers_ - np.asarray(weights.mean(axis=0))
    words = vectorizer.get_feature_names_out()
    return Topics(
        names=tuple(_name(words, telling[cluster]) for cluster in order),
        vectorizer=vectorizer,
        clusters=clusters,
        rank=np.argsort(order),
    )


def by_topic(raw: RawSplits[DialogueSplit], number: int, seed: int) -> RawSplits[DialogueSplit]:
    """The splits with topics for strata: fitted to the training examples, the held-out ones
    assigned (:func:`fit_topics`).
    """
    topics = fit_topics(raw.train, number, seed)
    train, validation, test = (
        replace(split, strata=topics.of(split), names=topics.names)
        for split in raw.by_name.values()
    )
    return replace(raw, train=train, validation=validation, test=test)


def _prompts(split: DialogueSplit) -> list[str]:
    """All that stands before the first answer, as one text each."""
    return [
        "\n".join(f"{turn.content}\n{turn.context}" for turn in asked) for asked in split.identities
    ]


def _name(words: Sequence[str], telling: np.ndarray) -> str:
    return ", ".join(words[i] for i in np.argsort(-telling, kind="stable")[:TELLING])
