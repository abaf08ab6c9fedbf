"""Records of a language model, as dialogues: which kind they are is read from the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rolora.core.errors import BadInput, nearest
from rolora.data.choices import CHOICES, HIDDEN, Choices
from rolora.data.columns import check_whole, missing
from rolora.data.dialogue import Dialogue, Turn
from rolora.data.sources import Source, Table

Row = Mapping[str, Any]
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""The roles of messages, in the words of OpenAI and of ShareGPT."""
FORMATS = ("alpaca", "prompt", "chat", "text", *CHOICES)


@dataclass(frozen=True)
class Format:
    """How the rows of a table are read.

    Args:
        title: what they are, in words.
        texts: the columns that the dialogue is made of.
        answer: the column without which a row cannot be learned from.
        dialogue: of a row; raises KeyError, TypeError or ValueError where a cell is wrong.
    """

    title: str
    texts: tuple[str, ...]
    answer: str
    dialogue: Callable[[Row], Dialogue]

    def answered(self, table: Table) -> bool:
        """Whether any row has its answer; benchmarks hide those of their test split."""
        return not all(_hidden(value) for value in table.columns[self.answer])

    def read(self, table: Table) -> list[Dialogue]:
        """The rows as dialogues.

        Raises:
            BadInput: one cannot be read, or holds nothing to learn.
        """
        columns = {name: table.columns[name] for name in self.texts}
        found = []
        for number, cells in enumerate(zip(*columns.values(), strict=True), 1):
            where = f"data: row {number} of {table.source}"
            try:
                dialogue = self.dialogue(dict(zip(columns, cells, strict=True)))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BadInput(f"{where} is no record of the kind {self.title}: {error}") from None
            for turn in dialogue:
                check_whole(turn.content + turn.context, where)
            found.append(dialogue)
        if not found:
            raise BadInput(f"{table.source}: holds no examples")
        return found


def format_of(table: Table, source: Source, wanted: str = "auto") -> Format:
    """The kind of a table's records.

    Columns that the config names decide (``data.text`` and ``data.label``: prompt and completion);
    else messages, one of the multiple-choice data sets, Alpaca's, a prompt and its completion, or a
    text are looked for, in that order.

    Args:
        table: as it was read.
        source: the columns that the config names.
        wanted: one of :data:`FORMATS`, or ``auto``.

    Raises:
        BadInput: the columns are of no kind, or not of the one that is wanted.
    """
    for name, maker in _MAKERS.items():
        found = maker(table.columns, source) if wanted in ("auto", name) else None
        if found is not None:
            return found
    columns = ", ".join(map(repr, list(table.columns)[:20])) or "none"
    if wanted != "auto":
        raise BadInput(f"task.format = {wanted!r}: {table.source} has the columns {columns}")
    text = "" if source.text == "text" else nearest(source.text, table.columns)
    raise BadInput(
        f"data: {table.source} has the columns {columns}{text}; a language model learns from "
        "instruction and output (and input), prompt and completion, messages, text, or a "
        "multiple-choice data set's own; or name them: data.text and data.label are prompt and "
        "completion, data.text alone is text"
    )


def _hidden(value: Any) -> bool:
    return value in HIDDEN if isinstance(value, str | int | None) else missing_cell(value)


def missing_cell(value: Any) -> bool:
    """Whether a cell, of whatever kind, holds nothing."""
    return not isinstance(value, list | tuple | dict) and missing(value)


def text_in(row: Row, name: str) -> str:
    """The text in a column.

    Raises:
        ValueError: it is missing, or no text.
    """
    value = row[name]
    if not isinstance(value, str):
        found = "is missing" if missing_cell(value) else f"is {value!r:.60}, not text"
        raise ValueError(f"{name} {found}")
    return value


def _first(columns: Iterable[str], *names: str) -> str | None:
    return next((name for name in names if name in columns), None)


def _alpaca(columns: Mapping[str, Sequence[Any]], source: Source) -> Format | None:
    output, context = _first(columns, "output", "response"), _first(columns, "input", "context")
    if "instruction" not in columns or output is None:
        return None

    def dialogue(row: Row) -> Dialogue:
        more = "" if context is None or missing_cell(row[context]) else text_in(row, context)
        asked = Turn("user", text_in(row, "instruction"), more)
        return (asked, Turn("assistant", text_in(row, output)))

    names = tuple(filter(None, ("instruction", context, output)))
    return Format(f"instructions ({', '.join(names)})", names, output, dialogue)


def _prompt(columns: Mapping[str, Sequence[Any]], source: Source) -> Format | None:
    prompt, completion = "prompt", "completion"
    if source.label != "label":
        prompt, completion = source.text, source.label
    if prompt not in columns or completion not in columns:
        return None

    def dialogue(row: Row) -> Dialogue:
        asked, said = text_in(row, prompt), text_in(row, completion)
        return (Turn("prompt", asked), Turn("completion", said))

    title = f"prompts and completions ({prompt}, {completion})"
    return Format(title, (prompt, completion), completion, dialogue)


def _named_prompt(columns: Mapping[str, Sequence[Any]], source: Source) -> Format | None:
    return _prompt(columns, source) if source.label != "label" else None


def _chat(columns: Mapping[str, Sequence[Any]], source: Source) -> Format | None:
    name = _first(columns, "messages", "conversations")
    if source.text in columns and isinstance(next(iter(columns[source.text]), None), list | tuple):
        name = source.text
    if name is None:
        return None
    return Format(f"chat messages ({name})", (name,), name, lambda row: tuple(_messages(row[name])))


def _messages(cell: Any) -> list[Turn]:
    if not isinstance(cell, list | tuple) or not cell:
        raise ValueError("must be a list of messages, each with role and content")
    turns = []
    for message in cell:
        if not isinstance(message, Mapping):
            raise ValueError(f"{message!r:.60} is no message with role and content")
        keys = ("role", "content") if "role" in message else ("from", "value")
        role = ROLES.get(str(message.get(keys[0])))
        if role is None:
            raise ValueError(f"the role {message.get(keys[0])!r:.40}{nearest('', ROLES)}")
        turns.append(Turn(role, text_in({keys[1]: None, **message}, keys[1])))
    if not any(turn.learned for turn in turns[1:]):
        raise ValueError("no message of the assistant answers another")
    return turns


def _text(columns: Mapping[str, Sequence[Any]], source: Source) -> Format | None:
    name = source.text
    if name not in columns:
        return None
    return Format(
        f"plain text ({name})", (name,), name, lambda row: (Turn("completion", text_in(row, name)),)
    )


def _choices(spec: Choices) -> Callable[[Mapping[str, Any], Source], Format | None]:
    def make(columns: Mapping[str, Sequence[Any]], source: Source) -> Format | None:
        if not set(spec.columns) <= columns.keys():
            return None
        title = f"{spec.title}'s questions, answered by a letter"
        return Format(title, spec.columns, spec.answer, spec.dialogue)

    return make


_MAKERS: Mapping[str, Callable[[Mapping[str, Sequence[Any]], Source], Format | None]] = {
    "named prompt": _named_prompt,
    "chat": _chat,
    **{name: _choices(spec) for name, spec in CHOICES.items()},
    "alpaca": _alpaca,
    "prompt": _prompt,
    "text": _text,
}
