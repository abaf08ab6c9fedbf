"""Dialogues as tokens, each marked whether the model is to learn to say it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch

from rolora.core.errors import BadInput
from rolora.data.dialogue import DialogueSplit
from rolora.data.examples import Examples
from rolora.data.loaders import pad_id
from rolora.data.templates import Piece, Template, pieces, template_of

Marked = tuple[list[int], list[bool]]
"""Tokens, and whether each is learned."""
BLOCK = 512


def tokenize_dialogues(
    split: DialogueSplit, tokenizer: Any, max_length: int, template: Template
) -> Examples:
    """Tokenise once, cut behind `max_length`, without padding.

    A prompt's tokens are those that it has by itself, as when the model is asked; the answer's are
    what the whole text has after them. Where the tokenizer merges across the boundary, so that the
    whole does not begin with the prompt's tokens, the answer is tokenised by itself. The
    end-of-text token stands behind each answer (a chat template writes its own end of turn) and is
    learned; the beginning-of-text token before all where the tokenizer sets it.

    An example of which nothing learned is left is dropped: there is no loss on it.

    Args:
        split: the dialogues.
        tokenizer: one of Transformers', fast or slow.
        max_length: in tokens, special ones included.
        template: how turns are written.

    Returns:
        columns ``input_ids`` and ``learned``; targets are the numbers of learned tokens that can be
        predicted, which the first of a text cannot; ``cut`` and ``dropped`` are counted.

    Raises:
        BadInput: the template does not fit, the tokenizer has no end-of-text token, or no example
            is left.
    """
    if tokenizer.eos_token_id is None:
        raise BadInput("model.name: its tokenizer has no end-of-text token, which ends an answer")
    kind = template_of(tokenizer, template)
    found: list[Marked] = []
    for start in range(0, len(split), BLOCK):
        block = split.dialogues[start : start + BLOCK]
        found += _tokens([pieces(dialogue, tokenizer, kind) for dialogue in block], tokenizer)
    cut = sum(len(ids) > max_length for ids, _ in found)
    shortened = [(ids[:max_length], learned[:max_length]) for ids, learned in found]
    targets = np.array([sum(learned[1:]) for _, learned in shortened], dtype=np.int64)
    kept = np.flatnonzero(targets)
    if not len(kept):
        raise BadInput(
            f"data.max_length = {max_length}: no example of {split.format} has any of its answer "
            "within so many tokens; take more"
        )
    return _examples(
        split.select(kept),
        [shortened[i] for i in kept],
        targets[kept],
        tokenizer,
        cut,
        len(split) - len(kept),
    )


def _examples(
    split: DialogueSplit,
    marked: Sequence[Marked],
    targets: np.ndarray,
    tokenizer: Any,
    cut: int,
    dropped: int,
) -> Examples:
    ids = [*chain.from_iterable(ids for ids, _ in marked), pad_id(tokenizer)]
    learned = [*chain.from_iterable(learned for _, learned in marked), False]
    return Examples(
        targets=torch.from_numpy(targets),
        strata=torch.from_numpy(split.strata),
        names=split.names,
        tokens={
            "input_ids": torch.tensor(ids, dtype=torch.int32),
            "learned": torch.tensor(learned, dtype=torch.int32),
        },
        offsets=torch.tensor([0, *(len(ids) for ids, _ in marked)]).cumsum(0),
        fields=split.fields,
        cut=cut,
        dropped=dropped,
    )


def _tokens(texts: Sequence[Sequence[Piece]], tokenizer: Any) -> list[Marked]:
    """The tokens of each text; all texts' beginnings pass through the tokenizer together."""
    begun = [list(accumulate(piece.text for piece in text)) for text in texts]
    ids = iter(_plain_ids(tokenizer, [*chain.from_iterable(begun)]))
    first = _first_tokens(tokenizer)
    found = []
    for text in texts:
        whole: list[int] = []
        marked: Marked = (list(first), [False] * len(first))
        for piece in text:
            so_far = next(ids)
            own = so_far[len(whole) :]
            if so_far[: len(whole)] != whole:
                (own,) = _plain_ids(tokenizer, [piece.text])
            whole += own
            own = [*own, tokenizer.eos_token_id] if piece.ends else own
            marked[0].extend(own)
            marked[1].extend([piece.learned] * len(own))
        if text[0].text.startswith(tokenizer.bos_token or "\0"):  # a template's own
            marked = (marked[0][len(first) :], marked[1][len(first) :])
        found.append(marked)
    return found


def _plain_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def _first_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer sets before every text: its beginning-of-text token, or nothing."""
    begins = tokenizer.bos_token_id
    set_before = tokenizer("", verbose=False)["input_ids"][:1]
    return [begins] if begins is not None and set_before == [begins] else []
