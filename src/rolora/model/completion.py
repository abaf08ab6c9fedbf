"""The loss of a language model's learned tokens, without the logits of the others.

A vocabulary is far wider than a model: the logits of a batch, ``[tokens, vocabulary]``, would take
more memory than all its layers. Only the positions whose next token is learned are looked at, some
at a time. The output embedding is frozen, so all that the backward pass asks of it is the gradient
of the hidden states, which is made beside the loss while a piece's logits are at hand.

Source: the fused linear cross-entropy of Liger Kernel (Hsu et al., arXiv 2410.10989), here in plain
torch for any device, with a gradient for the hidden states alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rolora.core.errors import BadInput
from rolora.model.frozen_linear import frozen_product
from rolora.model.lora import LoraModel
from rolora.model.prefix import RowKeys

PIECE_BYTES = {"cpu": 24 * 2**20, "cuda": 512 * 2**20, "mps": 128 * 2**20}
"""Float32 logits that are held at once, by kind of device."""


@dataclass(frozen=True)
class OutputHead:
    """From hidden states to logits: ``c tanh(s (W h + b) / c)``.

    Args:
        weight: ``[vocabulary, d]``, frozen.
        bias: ``[vocabulary]``, or None.
        scale: s.
        cap: c; None caps nothing.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    @staticmethod
    def of(module: Any) -> OutputHead:
        """That of a causal language model of Transformers.

        Source: the forward passes of Gemma 2 and 3 (``final_logit_softcapping``), Granite
        (``logits_scaling``) and Cohere (``logit_scale``); elsewhere neither.
        """
        layer, config = module.get_output_embeddings(), module.config
        cap = getattr(config, "final_logit_softcapping", None)
        scale = getattr(config, "logit_scale", None) or 1.0
        if config.model_type.startswith("granite"):
            scale = 1.0 / config.logits_scaling
        return OutputHead(layer.weight, getattr(layer, "bias", None), scale, cap)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[m, d]`` to float32 ``[m, vocabulary]``."""
        logits = frozen_product(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits *= self.scale
        return logits if self.cap is None else logits.div_(self.cap).tanh_().mul_(self.cap)

    def hidden_gradient(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient ``[m, d]`` of hidden states from that of their `logits`."""
        if self.cap is not None:
            gradient = gradient * (1.0 - (logits / self.cap) ** 2)
        if self.scale != 1.0:
            gradient = gradient * self.scale
        return frozen_product(gradient.to(self.weight.dtype), self.weight.T)


def completion_loss(
    model: LoraModel,
    batch: Mapping[str, Tensor],
    learned: Tensor,
    streams: Tensor | None = None,
    rows: RowKeys | None = None,
) -> Tensor:
    """Each row's summed negative log-likelihood of its learned tokens: float32 ``[b]``.

    Args:
        model: a causal language model with its adapters mounted.
        batch: its inputs, ``input_ids`` and ``attention_mask`` ``[b, T]``.
        learned: ``[b, T]``, not 0 where the token is to be foretold from those before it; a row's
            first token has none before it and never counts.
        streams: int64 ``[b]``, each row's random numbers for LoRA dropout; None drops nothing.
        rows: a key for each row, by which frozen activations are found again.
    """
    hidden = model.hidden_states(batch, rows, streams)
    wanted = learned[:, 1:] != 0
    row, position = (index.to(hidden.device) for index in wanted.nonzero(as_tuple=True))
    tokens = batch["input_ids"][:, 1:][wanted].to(hidden.device)
    losses = token_losses(hidden[row, position], OutputHead.of(model.module), tokens)
    return losses.new_zeros(len(learned)).index_add(0, row, losses)


def token_losses(hidden: Tensor, head: OutputHead, tokens: Tensor) -> Tensor:
    """The negative log-likelihood, float32, of each of `tokens` ``[m]``, foretold from
    `hidden` ``[m, d]``.
    """
    losses: Tensor = _TokenLosses.apply(hidden, head, tokens)
    return losses


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: OutputHead, tokens: Tensor) -> Tensor:
        at_once = PIECE_BYTES.get(hidden.device.type, PIECE_BYTES["cpu"])
        size = max(1, at_once // (4 * len(head.weight)))
        losses = torch.empty(len(tokens), device=hidden.device)
        trains = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if trains else None
        for start in range(0, len(tokens), size):
            piece = slice(start, start + size)
            logits, at = head.logits(hidden[piece]), tokens[piece, None]
            normal = logits.logsumexp(1, keepdim=True)
            losses[piece] = (normal - logits.gather(1, at))[:, 0]
            if gradient is not None:
                shares = (logits - normal).exp_()
                shares.scatter_add_(1, at, shares.new_full(at.shape, -1.0))
                gradient[piece] = head.hidden_gradient(shares, logits)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None].to(gradient.dtype), None, None


def check_output_head(name: str, module: Any) -> None:
    """Refuse a model that is asked nothing sound by :func:`completion_loss`.

    Args:
        name: of the model, for the message.
        module: a causal language model of Transformers, in evaluation mode.

    Raises:
        BadInput: it sees tokens that come later, or makes its logits in another way than
            :class:`OutputHead` knows.
    """
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=module.device)
    with torch.no_grad():
        wanted = module(input_ids=ids, use_cache=False).logits.float()
        hidden = module.base_model(input_ids=ids, use_cache=False).last_hidden_state
        ours = OutputHead.of(module).logits(hidden.flatten(0, 1)).view_as(wanted)
    kind = module.config.model_type
    if not torch.allclose(wanted[0, :3], wanted[1, :3], rtol=0.02, atol=0.02):
        raise BadInput(
            f"model.name = {name!r}: a {kind} sees the tokens that come later, which it would have "
            "to foretell; take a causal language model"
        )
    if not torch.allclose(ours, wanted, rtol=0.02, atol=0.02):
        raise BadInput(
            f"model.name = {name!r}: a {kind} makes its logits in a way that is not known here; "
            "take a model of another architecture (Llama, Qwen, Mistral, Gemma, Phi, GPT-2 and "
            "their kin are known)"
        )
