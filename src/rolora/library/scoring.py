"""What is found out of a finished run's language model: a harness's scores, answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rolora.core.errors import BadInput
from rolora.library.speaking import speaker
from rolora.records.atomic import write_atomic
from rolora.records.scores import Generation, Generations, HarnessScore, HarnessScores
from rolora.report.run_report import write_report
from rolora.scoring.harness import Asking, check_installed, compare_on_tasks
from rolora.scoring.sandbox import Limits, sandbox
from rolora.tasks.causal_lm import CausalLM

if TYPE_CHECKING:
    from rolora.library.finished import Run

CODE = (None, "isolated", "unconfined")
LONGEST = 128
"""Tokens of an answer on the report."""


def score(
    run: Run,
    tasks: str | Sequence[str],
    data: str | Path | None = None,
    limit: int | None = None,
    *,
    fewshot: int | None = None,
    chat_template: bool = False,
    code: str | None = None,
    limits: Limits = Limits(),
    batch_size: int = 8,
    client: int | None = None,
) -> tuple[HarnessScore, ...]:
    """Ask a run's base model and its adapter the questions of lm-evaluation-harness.

    They are written to ``scores.json`` beside those of other tasks, and shown on the report.

    Args:
        run: of the task ``causal_lm``, finished.
        tasks: the harness's names, or YAML files of tasks of your own.
        data: a directory with the tasks' data (:func:`rolora.scoring.local.load_local`); None: from
            the hub.
        limit: how many of each task's questions, from the first; None: all.
        fewshot: examples in each prompt; None: as the task has it.
        chat_template: whether prompts are written by the tokenizer's chat template.
        code: how code that the model wrote is run: ``isolated`` (refused where that cannot be),
            ``unconfined`` (isolated where that can be, else as this user); None: not at all.
        limits: of each program.
        batch_size: of questions that the model is asked together.
        client: whose own adapter is asked, where the method leaves such.

    Returns:
        a score a task and metric, groups before their tasks.

    Raises:
        BadInput: the harness is not installed, the run is of another task, or a task is unknown,
            lacks its data, or runs code that is not to be run.
    """
    names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if not names:
        raise BadInput("tasks: name at least one")
    if limit is not None and limit < 1:
        raise BadInput(f"limit = {limit}: must be at least 1, or none for all questions")
    if code not in CODE:
        raise BadInput(f"code = {code!r}: must be one of {', '.join(map(repr, CODE))}")
    place = None if data is None else Path(data)
    if place is not None and not place.is_dir():
        raise BadInput(f"--data {place}: with tasks it is a directory of their data")
    check_installed()
    asking = Asking(names, place, limit, fewshot, chat_template, batch_size)
    made = nullcontext() if code is None else sandbox(limits, unconfined=code == "unconfined")
    with made as box:
        asked = speaker(run, client)
        found = compare_on_tasks(asked.model, asked.tokenizer, asking, box, client)
    before = run.files.scores or HarnessScores()
    written = before.with_later(found).model_dump_json(indent=2)
    write_atomic(run.directory / "scores.json", written + "\n")
    write_report(run.directory)
    return found


def generate_samples(
    run: Run, most: int = LONGEST, notice: Callable[[str], None] = lambda text: None
) -> Generations | None:
    """Have base model and adapter answer the first held-out questions, and write what they say to
    ``generations.json``. How many is ``evaluation.generations``.

    Args:
        run: finished, in this process, so that its data are here.
        most: tokens of an answer.
        notice: told before the first question, as answers take their time.

    Returns:
        what was written; None where the task has no answers, or none are wanted.

    Raises:
        BadInput: the data or the model cannot be had any more.
    """
    config, task = run.config, run.task
    if not isinstance(task, CausalLM) or not config.evaluation.generations:
        return None
    asked = task.questions(run.held_out(), config.evaluation.generations)
    if not asked:
        return None
    notice(f"base model and adapter answer {len(asked)} held-out questions")
    model = speaker(run)
    answers = []
    for turns, reference in asked:
        with model.model.disable_adapter():
            base = model.answer(turns, most)
        prompt = "\n\n".join(
            part for turn in turns for part in (turn.content, turn.context) if part
        )
        adapter = model.answer(turns, most)
        answers.append(Generation(prompt=prompt, reference=reference, base=base, adapter=adapter))
    found = Generations(most=most, generations=tuple(answers))
    write_atomic(run.directory / "generations.json", found.model_dump_json(indent=2) + "\n")
    return found
