"""Code, scored by HumanEval: ``python -m experiments code [--small]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from experiments.code.records import write_code, write_humaneval, write_task
from experiments.generation.config import GenerationConfig, Subject
from experiments.generation.experiment import experiment_of
from experiments.generation.study import Benchmark, Study
from experiments.workspace import Workspace
from rolora.config import DataConfig
from rolora.core.section import Positive
from rolora.scoring.harness import Asking


class CodeConfig(GenerationConfig):
    """The experiment. `data` is a file or directory of records, by default the hub's Code Alpaca,
    and with `small` a stand-in (:mod:`experiments.code.records`) beside HumanEval's canonical
    solutions, which are the test examples.

    The first `questions` problems of HumanEval are answered in at most `program_tokens` tokens, and
    the programs run in the sandbox (0: none). A small model solves next to none; the loss of the
    solutions tells more.
    """

    SMALL: ClassVar[Mapping[str, Any]] = {
        **GenerationConfig.SMALL,
        "max_length": 256,
        "limit": 1000,
        "validation": 0.015,  # of 3,000 functions
        "questions": 0,
        "program_tokens": 96,
    }

    data: Path | None = None
    program_tokens: Positive = 1024


def data(config: CodeConfig, workspace: Workspace) -> DataConfig:
    """The records."""
    if config.data is not None:
        return config.records(path=config.data)
    if not config.small:
        return config.records(name="code_alpaca")
    place = workspace.directory / "data" / "records"
    found = write_code(place)
    workspace.say(f"{found['train']:,} functions of Python's library, {found['test']} solutions")
    return config.records(path=place)


def humaneval(config: CodeConfig, workspace: Workspace, subject: Subject) -> Benchmark | None:
    """HumanEval, its programs run in the box."""
    if config.questions == 0:
        return None
    directory = workspace.directory / "data"
    place = directory / "humaneval" if config.small else None
    if place is not None:
        write_humaneval(place)
    task = write_task(directory / "humaneval.yaml", config.program_tokens)
    asking = Asking((str(task),), place, config.questions)
    title = f"HumanEval, pass@1 within {config.program_tokens} tokens"
    return Benchmark(title, "pass@1", asking, code=True)


def words(config: CodeConfig) -> str:
    """What was trained on and what is asked."""
    if config.data is not None:
        return f"The records are those of {config.data.name}."
    if not config.small:
        return "The records are Code Alpaca; a tenth of them are the test examples."
    drawn = "" if config.limit is None else f" ({config.limit:,} of them, drawn from the seed)"
    return (
        "No file of Code Alpaca is in a package, so the records are a stand-in: the functions of "
        f"Python's own standard library that have a docstring{drawn}, the head with the docstring "
        "as prompt and the body as completion. Validation examples are such functions; the test "
        "examples are HumanEval's 164 problems with their canonical solutions, on which nothing is "
        f"trained. Texts are cut behind {config.max_length} tokens."
    )


EXPERIMENT = experiment_of(
    Study(
        name="code",
        title="Code: HumanEval's solutions, before and after",
        config=CodeConfig,
        data=data,
        benchmark=humaneval,
        source="the paper's section on language models",
        words=words,
    )
)
