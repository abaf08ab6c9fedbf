"""How a dialogue is written out for a model: by its tokenizer's chat template, or plainly.

The plain way is Stanford Alpaca's (Taori et al., 2023): a preamble, the parts under ``###``
headings, the answer after ``### Response:``. A chat is the same with a heading a turn, and its
system message in place of the preamble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rolora.core.errors import BadInput
from rolora.data.dialogue import Dialogue, Turn

Template = Literal["auto", "chat", "plain"]
PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request."
)
PREAMBLE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)


@dataclass(frozen=True)
class Piece:
    """A stretch of text: whether it is learned, and whether the text ends after it."""

    text: str
    learned: bool = False
    ends: bool = False


def template_of(tokenizer: Any, wanted: Template) -> Literal["chat", "plain"]:
    """The template to use: with ``auto`` the tokenizer's own where it has one.

    Raises:
        BadInput: it has none, and it is wanted.
    """
    has = getattr(tokenizer, "chat_template", None) is not None
    if wanted == "chat" and not has:
        raise BadInput(
            "task.template = 'chat': the model's tokenizer has no chat template; use plain"
        )
    return "chat" if has and wanted != "plain" else "plain"


def pieces(
    dialogue: Dialogue, tokenizer: Any, template: Literal["chat", "plain"]
) -> tuple[Piece, ...]:
    """A dialogue as text, in stretches of which some are learned, each with the end of its turn.

    Args:
        dialogue: turns in order.
        tokenizer: one of Transformers'.
        template: how turns with roles are written; a prompt and its completion stand as they are.

    Raises:
        BadInput: the chat template refuses the turns, or does not write one after the other.
    """
    if dialogue[0].role in ("prompt", "completion"):
        return tuple(Piece(turn.content, turn.learned, turn.learned) for turn in dialogue)
    return _chat(dialogue, tokenizer) if template == "chat" else _plain(dialogue)


def asked(turns: Sequence[Turn], tokenizer: Any, template: Template) -> str:
    """The text to which a model is to answer: the turns so far, and the beginning of its own.

    Raises:
        BadInput: the chat template refuses the turns.
    """
    kind = template_of(tokenizer, template)
    if turns[0].role == "prompt":
        return "".join(turn.content for turn in turns)
    if kind == "chat":
        return _written(turns, tokenizer, begin=True)
    said = _plain((*turns, Turn("assistant", "")))
    return "".join(piece.text for piece in said)


def _plain(dialogue: Dialogue) -> tuple[Piece, ...]:
    system = dialogue[0].role == "system"
    given = PREAMBLE_WITH_INPUT if any(turn.context for turn in dialogue) else PREAMBLE
    text = dialogue[0].content if system else given
    found = []
    for turn in dialogue[1:] if system else dialogue:
        if turn.learned:
            found += [Piece(f"{text}\n\n### Response:\n"), Piece(turn.content, True, True)]
            text = ""
        else:
            more = f"\n\n### Input:\n{turn.context}" if turn.context else ""
            text += f"\n\n### Instruction:\n{turn.content}{more}"
    return tuple(found)


def _chat(dialogue: Dialogue, tokenizer: Any) -> tuple[Piece, ...]:
    """What the template adds from before an answer to after it is the answer and its end; white
    space behind that end is not learned.
    """
    whole, done, found = _written(dialogue, tokenizer), 0, []
    special = tuple(tokenizer.all_special_tokens)
    for i, turn in enumerate(dialogue):
        if not turn.learned:
            continue
        before = _written(dialogue[:i], tokenizer, begin=True)
        after = whole if i + 1 == len(dialogue) else _written(dialogue[: i + 1], tokenizer)
        if not (after.startswith(before) and whole.startswith(after) and len(before) >= done):
            raise BadInput(
                "task.template: the tokenizer's chat template does not write one turn after the "
                "other, so that what is learned cannot be told; use task.template: plain"
            )
        said = after[len(before) :].rstrip()
        found += [Piece(whole[done : len(before)]), Piece(said, True, not said.endswith(special))]
        done = len(before) + len(said)
    return tuple(found)


def _written(turns: Sequence[Turn], tokenizer: Any, begin: bool = False) -> str:
    messages = [{"role": turn.role, "content": _content(turn)} for turn in turns]
    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begin)
        )
    except Exception as error:  # a template's own, of whatever kind
        raise BadInput(
            f"task.template: the tokenizer's chat template refuses a dialogue ({error!s:.200}); "
            "use task.template: plain"
        ) from None


def _content(turn: Turn) -> str:
    return f"{turn.content}\n\n{turn.context}" if turn.context else turn.content
