"""A finished run's language model, asked: it goes on with text, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rolora.core.errors import BadInput
from rolora.core.quiet import quiet
from rolora.data.dialogue import Turn
from rolora.data.templates import Template, asked
from rolora.tasks.causal_lm import CausalLM

if TYPE_CHECKING:
    from rolora.library.finished import Run

Hear = Callable[[str], object]


@dataclass(frozen=True)
class Speaker:
    """A language model with its adapter, and how it is asked.

    Args:
        model: a ``PeftModel``, in evaluation mode.
        tokenizer: its tokenizer.
        template: how turns are written.
    """

    model: Any
    tokenizer: Any
    template: Template

    def answer(self, turns: Sequence[Turn], most: int, hear: Hear | None = None) -> str:
        """What the model says next: the likeliest token each time, until it ends.

        Args:
            turns: what was said so far; the last is a person's.
            most: tokens of the answer.
            hear: told each piece of the answer as soon as it is there.

        Raises:
            BadInput: the template refuses the turns, or they are longer than the model takes.
        """
        text = asked(turns, self.tokenizer, self.template)
        return self.go_on(text, most, hear)

    def go_on(self, text: str, most: int, hear: Hear | None = None) -> str:
        """The same for a text that stands as it is."""
        begins = self.tokenizer.bos_token
        own = begins is not None and text.startswith(begins)  # a template's own
        batch = self.tokenizer(text, add_special_tokens=not own, return_tensors="pt")
        ids = batch["input_ids"].to(self.model.device)
        if not ids.shape[1]:
            raise BadInput("there is nothing to go on with: the text has no tokens")
        room = (getattr(self.model.config, "max_position_embeddings", None) or 2**31) - ids.shape[1]
        if room < 1:
            raise BadInput(f"the text has {ids.shape[1]} tokens, more than the model takes")
        with quiet(), torch.no_grad():
            found = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=min(most, room),
                eos_token_id=self._ends(),
                pad_token_id=self.tokenizer.pad_token_id,
                streamer=None if hear is None else _streamer(self.tokenizer, hear),
            )
        new = found[0, ids.shape[1] :]
        return str(self.tokenizer.decode(new, skip_special_tokens=True)).strip()

    def _ends(self) -> list[int]:
        """The tokens that end an answer: the tokenizer's, and those that the model names."""
        named = getattr(self.model.generation_config, "eos_token_id", None)
        several = named if isinstance(named, list) else [named]
        return sorted({n for n in (self.tokenizer.eos_token_id, *several) if n is not None})


def _streamer(tokenizer: Any, hear: Hear) -> Any:
    from transformers import TextStreamer

    class Told(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            hear(text)

    return Told(tokenizer, skip_prompt=True, skip_special_tokens=True)


def speaker(run: Run, client: int | None = None) -> Speaker:
    """A run's model, ready to answer.

    Args:
        run: of the task ``causal_lm``, finished.
        client: whose own adapter is asked, where the method leaves such.

    Raises:
        BadInput: the run is of another task, or its adapter cannot be had.
    """
    task = run.task
    if not isinstance(task, CausalLM):
        raise BadInput(
            f"{run.directory}: a run of task {task.name} does not speak; rolora predict asks it"
        )
    model, tokenizer = run.model_and_tokenizer(client)
    return Speaker(model, tokenizer, task.settings.template)
