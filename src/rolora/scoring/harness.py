"""lm-evaluation-harness: its tasks, asked of a base model and of its adapter side by side.

What the harness takes from elsewhere when it loads a task is put under control meanwhile: data come
from a directory of the user's where one is given, and code is run in our box, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rolora.core.errors import BadInput
from rolora.core.quiet import quiet
from rolora.records.scores import HarnessScore
from rolora.scoring.local import load_local
from rolora.scoring.sandbox import Sandbox

SEED = 1234
"""The harness's own, of the examples in prompts and of whatever a task draws."""


@dataclass(frozen=True)
class Asking:
    """How questions are asked.

    Args:
        tasks: the harness's names (of groups and tags too, with ``*`` and ``?``), or YAML files of
            tasks.
        data: a directory with the tasks' data (:func:`rolora.scoring.local.load_local`); None: from
            the hub.
        limit: the number of each task's questions, from the first; None: all.
        fewshot: examples in each prompt; None: as the task has it.
        chat_template: whether prompts are written by the tokenizer's chat template.
        batch_size: of the model.
    """

    tasks: tuple[str, ...]
    data: Path | None = None
    limit: int | None = None
    fewshot: int | None = None
    chat_template: bool = False
    batch_size: int = 8


def check_installed() -> None:
    """See whether the harness is there.

    Raises:
        BadInput: it is not.
    """
    try:
        import datasets  # noqa: F401  # before `quiet`, which mutes what is there
        import lm_eval  # noqa: F401
    except ImportError:
        raise BadInput(
            "--tasks: lm-evaluation-harness is not installed; pip install 'rolora[lm-eval]'"
        ) from None


def compare_on_tasks(
    model: Any,
    tokenizer: Any,
    asking: Asking,
    box: Sandbox | None = None,
    client: int | None = None,
) -> tuple[HarnessScore, ...]:
    """Ask a model with and without its adapter the same questions.

    Args:
        model: a ``PeftModel``, in evaluation mode.
        tokenizer: its tokenizer.
        asking: what, and how.
        box: in which generated code is run; None: tasks that run any are refused.
        client: whose adapter it is, for the record.

    Returns:
        a score a task and metric, groups before their tasks.

    Raises:
        BadInput: the harness is not installed, or a task is unknown, cannot be loaded, or runs code
            that is not to be run.
    """
    check_installed()
    with quiet(), torch.random.fork_rng():
        tasks = load_tasks(asking, box)
        try:
            with model.disable_adapter():
                base = _answers(model, tokenizer, tasks, asking)
            adapter = _answers(model, tokenizer, tasks, asking)
        except (AssertionError, KeyError, ValueError) as error:
            raise BadInput(
                f"--tasks {','.join(asking.tasks)}: cannot be asked of this model "
                f"({type(error).__name__}: {' '.join(str(error).split())[:300]})"
            ) from None
    code = box.isolation if box and any(map(_runs_code, tasks["tasks"].values())) else None
    return tuple(_scores(base, adapter, asking, tasks, client, code))


def ask_each(
    model: Any, tokenizer: Any, asking: Asking, metric: str, box: Sandbox | None = None
) -> dict[str, list[float]]:
    """Ask one model, for a comparison of more than two: by task, each question's score.

    Args:
        model: of Transformers or PEFT, in evaluation mode.
        tokenizer: its tokenizer.
        asking: what, and how.
        metric: of which the scores are; a task's first filter counts.
        box: in which generated code is run; None: tasks that run any are refused.

    Raises:
        BadInput: as :func:`compare_on_tasks`, or a task does not have the metric.
    """
    check_installed()
    with quiet(), torch.random.fork_rng():
        tasks = load_tasks(asking, box)
        samples = _answers(model, tokenizer, tasks, asking)["samples"]
    found = {}
    for name, answers in samples.items():
        if not answers or not isinstance(answers[0].get(metric), int | float | np.number):
            raise BadInput(f"--tasks {name}: has no {metric} of each question")
        first = [answer for answer in answers if answer["filter"] == answers[0]["filter"]]
        found[name] = [float(a[metric]) for a in sorted(first, key=lambda a: a["doc_id"])]
    return found


def load_tasks(asking: Asking, box: Sandbox | None) -> Mapping[str, Any]:
    """The harness's tasks and groups, with their data.

    Raises:
        BadInput: as :func:`compare_on_tasks`.
    """
    from lm_eval.tasks import TaskManager

    files = all(Path(name).is_file() for name in asking.tasks)
    manager = TaskManager(include_defaults=not files)  # the index of all tasks takes seconds
    names = [found for name in asking.tasks for found in _known(manager, name)]
    with _controlled(asking, box):
        try:
            tasks = manager.load(names)
        except BadInput:
            raise
        except Exception as error:  # tasks are programs of many authors
            raise BadInput(
                f"--tasks {','.join(asking.tasks)}: cannot be loaded ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}){'' if asking.data else _OFFLINE}"
            ) from None
    for name, task in tasks["tasks"].items():
        if _runs_code(task):
            _put_in_box(name, task, box)
        shots = task.get_config("num_fewshot")
        if shots is None or (asking.fewshot is not None and shots != 0):
            task.set_config(key="num_fewshot", value=asking.fewshot or 0)
        task.set_fewshot_seed(seed=SEED)
    return tasks


_OFFLINE = "; without the hub, name a directory of its data with --data"


def _known(manager: Any, name: str) -> list[str]:
    if Path(name).is_file():
        return [name]
    found = manager.match_tasks([name])
    if not found:
        close = get_close_matches(name, manager.all_tasks, 1)
        raise BadInput(
            f"--tasks {name!r}: the harness has no such task"
            f"{f' (did you mean {close[0]}?)' if close else ''}; lm-eval ls tasks lists them"
        )
    return list(found)


# Code -----------------------------------------------------------------------------------------


class CodeEval:
    """In place of the metric ``code_eval`` of ``evaluate``: the same answers, from our box."""

    def __init__(self, box: Sandbox):
        self.box = box

    def compute(
        self,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """``pass@k`` by the unbiased estimate, and what came of each candidate.

        Args:
            references: the test of each problem.
            predictions: the candidates of each problem.
            k: of which to estimate.
        """
        each = [
            self.box.passing([f"{candidate}\n{test}" for candidate in candidates])
            for candidates, test in zip(predictions, references, strict=True)
        ]
        scores = {
            f"pass@{few}": float(np.mean([pass_at_k(len(p), sum(p), few) for p in each]))
            for few in k
            if all(len(passed) >= few for passed in each)
        }
        outcomes = {
            task: [(i, {"task_id": task, "passed": ok}) for i, ok in enumerate(passed)]
            for task, passed in enumerate(each)
        }
        return scores, outcomes


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that one of `k` candidates is right, of which `correct` of `n` are (Chen et al.
    2021, Evaluating large language models trained on code).
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def _runs_code(task: Any) -> bool:
    return bool(getattr(task, "UNSAFE_CODE", False))


def _put_in_box(name: str, task: Any, box: Sandbox | None) -> None:
    """Have a task run code in `box`, whatever an earlier one that its module was loaded with."""
    if box is None:
        raise BadInput(_not_allowed(name))
    functions = [metric["metric"] for metric in task.config.metric_list or ()]
    rooms = [function.__globals__ for function in functions if hasattr(function, "__globals__")]
    held = [(room, key) for room in rooms for key, kept in room.items() if _is_ours(kept)]
    if not held:
        raise BadInput(
            f"--tasks {name}: runs generated code by itself, in this process; only tasks that "
            "leave it to code_eval can be run in isolation"
        )
    for room, key in held:
        room[key] = CodeEval(box)


def _is_ours(kept: Any) -> bool:
    return isinstance(kept, CodeEval)


def _not_allowed(name: str) -> str:
    return (
        f"--tasks {name}: runs code that the model wrote; with --allow-code it runs in a process "
        "of its own, without network, under limits"
    )


@contextmanager
def _controlled(asking: Asking, box: Sandbox | None) -> Iterator[None]:
    """Meanwhile tasks get their data from the directory, and ``code_eval`` is ours. The harness
    has no parameter for either: tasks call these two functions when they are loaded.
    """
    import datasets
    import evaluate

    load_metric, load_dataset = evaluate.load, datasets.load_dataset

    def metric(path: str, *args: Any, **options: Any) -> Any:
        if path != "code_eval":
            return load_metric(path, *args, **options)
        if box is None:
            raise BadInput(_not_allowed(",".join(asking.tasks)))
        return CodeEval(box)

    def dataset(path: str, name: str | None = None, **options: Any) -> Any:
        if asking.data is None:
            return load_dataset(path, name, **options)
        return load_local(load_dataset, asking.data, path, name, **options)

    with _replaced(evaluate, "load", metric), _replaced(datasets, "load_dataset", dataset):
        yield


@contextmanager
def _replaced(module: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


# Scores ---------------------------------------------------------------------------------------


def _answers(model: Any, tokenizer: Any, tasks: Mapping[str, Any], asking: Asking) -> Any:
    from lm_eval.api import task as building
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    torch.manual_seed(SEED)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=asking.batch_size)
    with _replaced(building, "tqdm", lambda rows, **_: rows):  # else a bar a task
        return evaluate(
            lm,
            tasks,
            limit=asking.limit,
            apply_chat_template=asking.chat_template,
            fewshot_as_multiturn=asking.chat_template,
            confirm_run_unsafe_code=True,  # load_tasks has seen to it
        )


def _scores(
    base: Any,
    adapter: Any,
    asking: Asking,
    tasks: Mapping[str, Any],
    client: int | None,
    code: str | None,
) -> Iterator[HarnessScore]:
    above = {child: name for name, inside in tasks.get("group_map", {}).items() for child in inside}
    leaves = {name: _leaves(name, tasks) for name in (*tasks.get("groups", {}), *tasks["tasks"])}
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    before, after = ({**found["results"], **found.get("groups", {})} for found in (base, adapter))
    for name, inside in leaves.items():
        for key, value in after.get(name, {}).items():
            metric, _, how = key.partition(",")
            if not how or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = f"{metric}_stderr,{how}"
            first = before[name][key]
            better = adapter["higher_is_better"].get(name, {}).get(metric)
            yield HarnessScore(
                task=name,
                metric=metric,
                filter=how,
                within=above.get(name),
                higher_is_better=better,
                client=client,
                questions=sum(adapter["n-samples"][leaf]["effective"] for leaf in inside),
                limit=asking.limit,
                fewshot=adapter["n-shot"].get(name),
                chat_template=asking.chat_template,
                code=code if any(_runs_code(tasks["tasks"][leaf]) for leaf in inside) else None,
                harness=f"lm-eval {version('lm-eval')}",
                base=float(first),
                base_stderr=_number(before[name].get(stderr)),
                adapter=float(value),
                adapter_stderr=_number(after[name].get(stderr)),
                difference=float(value) - float(first),
                difference_stderr=_paired(base, adapter, inside, metric, how, value - first),
                finished=finished,
            )


def _leaves(name: str, tasks: Mapping[str, Any]) -> list[str]:
    """The tasks within a group; a task itself."""
    if name in tasks["tasks"]:
        return [name]
    return [leaf for child in tasks["group_map"][name] for leaf in _leaves(child, tasks)]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None  # the harness has "N/A"


def _paired(
    base: Any, adapter: Any, leaves: Sequence[str], metric: str, how: str, difference: float
) -> float | None:
    """The standard error of a difference, from each question's own; a group's questions count
    alike, and only its tasks' own spread does. None where the difference is not their mean.
    """
    each = [_differences(base, adapter, leaf, metric, how) for leaf in leaves]
    total = sum(map(len, each))
    if any(len(found) < 2 for found in each):
        return None
    if not math.isclose(sum(float(f.sum()) for f in each) / total, difference, abs_tol=1e-6):
        return None
    return math.sqrt(sum(len(found) * float(found.var(ddof=1)) for found in each)) / total


def _differences(base: Any, adapter: Any, leaf: str, metric: str, how: str) -> np.ndarray:
    def values(found: Any) -> dict[int, float]:
        return {
            sample["doc_id"]: float(sample[metric])
            for sample in found["samples"][leaf]
            if sample["filter"] == how and isinstance(sample.get(metric), int | float | np.number)
        }

    before, after = values(base), values(adapter)
    return np.array([after[doc] - before[doc] for doc in sorted(before.keys() & after.keys())])
