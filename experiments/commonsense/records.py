"""Multiple-choice questions as letters: BIG-bench's tasks as a stand-in, and what is asked."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from rolora.core.cache import cache_directory
from rolora.core.errors import BadInput
from rolora.core.seeds import numpy_generator
from rolora.data.dialogue import DialogueSplit
from rolora.data.templates import Template, asked
from rolora.records.atomic import write_atomic

ARCHIVE = "bigbench-1.0.0.tar.gz"
STAND_INS = (
    "social_iqa",
    "winowhy",
    "strategyqa",
    "sports_understanding",
    "disambiguation_qa",
    "date_understanding",
    "implicatures",
    "anachronisms",
)
"""Tasks of BIG-bench (Srivastava et al., 2022) that ask for common sense. Of the paper's eight data
sets ``social_iqa`` is one in another form; the others stand in for what is not to be had."""
TASK = """\
task: {name}
dataset_path: letters
dataset_name: {name}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def archive() -> Path:
    """The source archive of the package bigbench.

    Raises:
        BadInput: it is not there.
    """
    kept = cache_directory()
    found = next((p for d in (Path(), kept) if (p := d / ARCHIVE).is_file()), None)
    if found is None:
        raise BadInput(
            f"BIG-bench's tasks come in the source archive of the package bigbench; pip download "
            f"--no-deps --no-binary :all: --dest {kept} bigbench==1.0.0"
        )
    return found


def write_stand_ins(directory: Path, tasks: Mapping[str, Any], train: int, test: int) -> None:
    """Write ``train.jsonl`` and ``test.jsonl`` in ARC's columns, with the task of each row.

    Args:
        directory: made where it is not there.
        tasks: by name, BIG-bench's ``task.json``.
        train: rows of each task to train on.
        test: rows of each that are asked; the first ones after a draw from the task's name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[str]] = {"train": [], "test": []}
    for name, task in tasks.items():
        rows = list(_rows(name, task["examples"]))
        order = numpy_generator(0, "bigbench", name).permutation(len(rows)).tolist()
        drawn = [json.dumps(rows[i], ensure_ascii=False) + "\n" for i in order]
        splits["test"] += drawn[:test]
        splits["train"] += drawn[test : test + train]
    for split, lines in splits.items():
        write_atomic(directory / f"{split}.jsonl", "".join(lines))


def bigbench_tasks(path: Path) -> dict[str, Any]:
    """The ``task.json`` of each stand-in, from the archive.

    Raises:
        BadInput: it is damaged, or lacks one.
    """
    found: dict[str, Any] = {}
    names = {f"benchmark_tasks/{name}/task.json": name for name in STAND_INS}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = names.get("/".join(Path(member.name).parts[-3:]))
                file = tar.extractfile(member) if name else None
                if name and file:
                    found[name] = json.load(file)
                if len(found) == len(names):
                    break
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise BadInput(f"{path}: is damaged ({error}); download it again") from None
    missing = [name for name in STAND_INS if name not in found]
    if missing:
        raise BadInput(f"{path}: lacks the tasks {', '.join(missing)}")
    return {name: found[name] for name in STAND_INS}


def _rows(name: str, examples: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The questions that have one best answer, each once; the options in an order of their own,
    since some tasks list the right one first.
    """
    seen: set[str] = set()
    for number, example in enumerate(examples):
        question, scores = str(example["input"]).strip(), example["target_scores"]
        options, best = [str(o).strip() for o in scores], max(scores.values())
        right = [str(o).strip() for o, score in scores.items() if score == best]
        if question in seen or len(right) != 1 or not 2 <= len(options) <= len(ascii_uppercase):
            continue
        seen.add(question)
        order = numpy_generator(0, "options", name, number).permutation(len(options)).tolist()
        texts = [options[i] for i in order]
        labels = list(ascii_uppercase[: len(texts)])
        yield {
            "question": question,
            "choices": {"text": texts, "label": labels},
            "answerKey": labels[texts.index(right[0])],
            "task": name,
        }


def write_letters(
    directory: Path, test: DialogueSplit, name: str, tokenizer: Any, template: Template
) -> tuple[str, ...]:
    """Write questions as tasks of lm-evaluation-harness, in the words that models are trained on.

    Args:
        directory: for the tasks' files, and below it their data.
        test: multiple-choice questions; a field ``task`` makes a task of each of its values.
        name: of the task where there is no such field.
        tokenizer: of the model.
        template: how turns are written.

    Returns:
        the tasks' files.
    """
    groups: dict[str, list[str]] = {}
    names = test.fields.get("task", [name] * len(test))
    for of, (*turns, answer) in zip(names, test.dialogues, strict=True):
        choices = letters_in(turns[-1].content)
        row = {
            "prompt": asked(turns, tokenizer, template),
            "choices": choices,
            "answer": choices.index(answer.content),
        }
        groups.setdefault(str(of), []).append(json.dumps(row, ensure_ascii=False) + "\n")
    for of, lines in groups.items():
        place = directory / "letters" / of
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(place / "test.jsonl", "".join(lines))
        write_atomic(directory / f"{of}.yaml", TASK.format(name=of))
    return tuple(str(directory / f"{of}.yaml") for of in groups)


def letters_in(question: str) -> list[str]:
    """The letters of a question's options, which are its last lines that begin with one."""
    found = re.findall(r"^([A-Z])\. ", question, re.MULTILINE)
    first = len(found) - 1 - found[::-1].index("A")
    return found[first:]
