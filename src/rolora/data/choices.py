"""Questions with several answers, asked as letters: one reader, and what eight data sets' rows are.

The columns are those of the files on the hub, named beside each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from rolora.data.dialogue import Dialogue, Turn

Row = Mapping[str, Any]
ASKED = "Answer with the letter of the right option."
HIDDEN = (None, "", -1, "-1")
"""What stands in place of an answer that a benchmark keeps to itself."""


@dataclass(frozen=True)
class Choices:
    """The rows of one data set.

    Args:
        title: its name.
        columns: by which its rows are known.
        answer: the column of the right answer.
        question: what is asked.
        options: what may be answered.
        right: the number of the right option, from 0.
    """

    title: str
    columns: tuple[str, ...]
    answer: str
    question: Callable[[Row], str]
    options: Callable[[Row], Sequence[str]]
    right: Callable[[Row], int]

    def dialogue(self, row: Row) -> Dialogue:
        """The question with lettered options, and the letter.

        Raises:
            KeyError, TypeError, ValueError: a cell is not what this data set has there.
        """
        options, right = list(self.options(row)), self.right(row)
        if not 0 <= right < len(options) <= len(ascii_uppercase):
            raise ValueError(f"the answer {right + 1} of {len(options)}")
        lettered = (f"{ascii_uppercase[i]}. {option}" for i, option in enumerate(options))
        asked = "\n".join([self.question(row).strip(), "", *lettered, "", ASKED])
        return (Turn("user", asked), Turn("assistant", ascii_uppercase[right]))


def _columns(*names: str) -> Callable[[Row], Sequence[str]]:
    return lambda row: [row[name] for name in names]


def _from(first: int, column: str) -> Callable[[Row], int]:
    return lambda row: int(row[column]) - first


def _yes_or_no(row: Row) -> int:
    if not isinstance(row["answer"], bool):
        raise TypeError("answer must be true or false")
    return 0 if row["answer"] else 1


def _lettered(title: str, question: str) -> Choices:
    """AI2's science questions, whose options have labels of their own."""
    return Choices(
        title,
        (question, "choices", "answerKey"),
        "answerKey",
        lambda row: row[question],
        lambda row: row["choices"]["text"],
        lambda row: list(row["choices"]["label"]).index(row["answerKey"]),
    )


CHOICES: Mapping[str, Choices] = {
    "boolq": Choices(  # google/boolq
        "BoolQ",
        ("passage", "question", "answer"),
        "answer",
        lambda row: f"{row['passage']}\n\n{row['question'].rstrip('?')}?",
        lambda row: ("yes", "no"),
        _yes_or_no,
    ),
    "piqa": Choices(  # ybisk/piqa
        "PIQA",
        ("goal", "sol1", "sol2", "label"),
        "label",
        lambda row: row["goal"],
        _columns("sol1", "sol2"),
        _from(0, "label"),
    ),
    "siqa": Choices(  # allenai/social_i_qa
        "SIQA",
        ("context", "question", "answerA", "answerB", "answerC", "label"),
        "label",
        lambda row: f"{row['context']} {row['question']}",
        _columns("answerA", "answerB", "answerC"),
        _from(1, "label"),
    ),
    "hellaswag": Choices(  # Rowan/hellaswag
        "HellaSwag",
        ("activity_label", "ctx", "endings", "label"),
        "label",
        lambda row: f"{row['activity_label']}: {row['ctx']} ...",
        lambda row: row["endings"],
        _from(0, "label"),
    ),
    "winogrande": Choices(  # allenai/winogrande
        "WinoGrande",
        ("sentence", "option1", "option2", "answer"),
        "answer",
        lambda row: f"What does _ stand for? {row['sentence']}",
        _columns("option1", "option2"),
        _from(1, "answer"),
    ),
    "arc_easy": _lettered("ARC", "question"),  # allenai/ai2_arc, ARC-Easy
    "arc_challenge": _lettered("ARC", "question"),  # allenai/ai2_arc, ARC-Challenge
    "openbookqa": _lettered("OpenBookQA", "question_stem"),  # allenai/openbookqa, main
}
