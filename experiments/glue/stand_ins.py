"""Stand-ins for GLUE's tasks from files that others publish, read where the user has put them.

Their licence is not stated, so none is shipped: the package bigbench 1.0.0 holds all of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rolora.core.errors import BadInput
from rolora.core.seeds import numpy_generator

MOST = 8000
"""Examples that are taken of a stand-in."""
TEST = 0.125
"""The share of the groups that tests."""


@dataclass(frozen=True)
class Pair:
    """A labelled pair of texts; those of one group are all trained on, or all tested on."""

    group: str
    text: str
    text_pair: str
    label: str


@dataclass(frozen=True)
class StandIn:
    """A task's stand-in.

    Args:
        task: GLUE's name of the task it stands in for.
        title: of the data.
        file: the end of its file's path.
        read: its pairs, from the parsed JSON; raises LookupError, TypeError, ValueError or
            AttributeError where that has another layout.
    """

    task: str
    title: str
    file: str
    read: Callable[[Any], Iterator[Pair]]

    def find(self, directory: Path) -> Path | None:
        """Its file in `directory` or below; None where there is none.

        Raises:
            BadInput: there is no such directory.
        """
        directory = directory.expanduser()
        if not directory.is_dir():
            raise BadInput(f"data = '{directory}': there is no such directory")
        name = Path(self.file)
        found = sorted(directory.rglob(name.name))
        return next((path for path in found if path.match(self.file)), None)


def write_stand_in(stand_in: StandIn, file: Path, directory: Path) -> Path:
    """Write its training and test examples as files that :func:`rolora.data.load_data` reads.

    At most `MOST` examples are taken, in whole groups drawn from a seed of their own, `TEST` of
    the groups to test on.

    Args:
        stand_in: whose layout the file has.
        file: to read.
        directory: where to write; a file of other contents gets another name in it.

    Returns:
        a directory with ``train.jsonl`` and ``test.jsonl``.

    Raises:
        BadInput: the file cannot be read or has another layout.
    """
    groups: dict[str, list[Pair]] = {}
    try:
        content = file.read_bytes()
        for pair in stand_in.read(json.loads(content)):
            groups.setdefault(pair.group, []).append(pair)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{file}: not the file of {stand_in.title} ({type(error).__name__}: {error})"
        ) from None
    target = directory / f"{stand_in.task}-{hashlib.sha256(content).hexdigest()[:12]}"
    train, test = _dealt(list(groups.values()), stand_in.task)
    if not train or not test:
        raise BadInput(f"{file}: holds too few examples of {stand_in.title}")
    target.mkdir(parents=True, exist_ok=True)
    for name, pairs in (("train", train), ("test", test)):
        lines = [
            json.dumps({"text": p.text, "text_pair": p.text_pair, "label": p.label}) for p in pairs
        ]
        (target / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def _dealt(groups: list[list[Pair]], task: str) -> tuple[list[Pair], list[Pair]]:
    """Training and test pairs."""
    order = numpy_generator(0, "stand-in", task).permutation(len(groups)).tolist()
    chosen, count = [], 0
    for number in order:
        chosen.append(groups[number])
        count += len(groups[number])
        if count >= MOST:
            break
    tested = max(1, round(TEST * len(chosen)))
    flat = [
        [pair for group in part for pair in group] for part in (chosen[tested:], chosen[:tested])
    ]
    return flat[0], flat[1]


# -- the layouts --------------------------------------------------------------------------------


def _big_bench(content: Any) -> Iterator[tuple[str, str]]:
    """The input and the best answer of each example of a task of BIG-bench."""
    for example in content["examples"]:
        scores: Mapping[str, float] = example["target_scores"]
        yield example["input"], max(scores, key=lambda answer: scores[answer])


def read_vitaminc(content: Any) -> Iterator[Pair]:
    """``TITLE: passage``, then ``Claim: ...``, answered by True, False or Neither.

    Grouped by the title: the data hold several versions of a passage, which differ in a word.
    """
    for text, answer in _big_bench(content):
        passage, claim = _two_parts(text, "", "Claim:")
        yield Pair(passage.partition(":")[0], passage, claim, answer)


def read_epistemic(content: Any) -> Iterator[Pair]:
    """``Premise: ... Hypothesis: ...``, answered by (non-)entailment; grouped by the premise."""
    for text, answer in _big_bench(content):
        premise, hypothesis = _two_parts(text, "Premise:", "Hypothesis:")
        yield Pair(premise, premise, hypothesis, answer)


def _two_parts(text: str, first: str, second: str) -> tuple[str, str]:
    """What stands between the mark `first` and the mark `second`, and what after that."""
    before, mark, after = text.partition(second)
    if not mark or not before.startswith(first) or not after.strip():
        raise ValueError(f"no {first or 'text'} and {second} in {text[:60]!r}")
    return before.removeprefix(first).strip(), after.strip()


def read_squad(content: Any) -> Iterator[Pair]:
    """Questions and sentences as GLUE made QNLI of SQuAD: does the sentence hold the answer?

    For each question the sentence of its paragraph that holds the answer, and of the others the
    one that shares most words with the question; grouped by article.
    """
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            sentences = list(_sentences(paragraph["context"]))
            for question in paragraph["qas"]:
                yield from _question(article["title"], question, sentences)


def _question(
    group: str, question: Mapping[str, Any], sentences: list[tuple[int, str]]
) -> Iterator[Pair]:
    answers = question["answers"]
    holding = {_holder(sentences, int(answer["answer_start"])) for answer in answers}
    others = [i for i in range(len(sentences)) if i not in holding]
    if not holding or not others:
        return
    text = question["question"].strip()
    words = _words(text)
    near = max(others, key=lambda i: len(words & _words(sentences[i][1])))
    yield Pair(
        group, text, sentences[_holder(sentences, int(answers[0]["answer_start"]))][1], "entailment"
    )
    yield Pair(group, text, sentences[near][1], "not_entailment")


def _sentences(context: str) -> Iterator[tuple[int, str]]:
    """Where each sentence starts, and its text."""
    start = 0
    for match in re.finditer(r"(?<=[.!?])\s+(?=[A-Z\"'(\[])", context):
        yield start, context[start : match.start()]
        start = match.end()
    if context[start:].strip():
        yield start, context[start:].strip()


def _holder(sentences: list[tuple[int, str]], position: int) -> int:
    return max(i for i, (start, _) in enumerate(sentences) if start <= position)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


STAND_INS = {
    stand_in.task: stand_in
    for stand_in in (
        StandIn(
            "qnli",
            "SQuAD 1.1's development questions, paired with sentences as in QNLI",
            "squad_shifts/squaddev_v1.1.json",
            read_squad,
        ),
        StandIn(
            "mnli",
            "BIG-bench's VitaminC fact verification (three labels)",
            "vitaminc_fact_verification/task.json",
            read_vitaminc,
        ),
        StandIn(
            "rte",
            "BIG-bench's epistemic reasoning",
            "epistemic_reasoning/task.json",
            read_epistemic,
        ),
    )
}
"""By GLUE's name of the task; QQP has none."""
