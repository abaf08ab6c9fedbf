"""The two-layer net of the paper's MNIST experiment."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rolora.core.seeds import torch_generator
from rolora.data import Examples
from rolora.model.frozen_linear import frozen_product
from rolora.model.lora import LoraModel


class TwoLayerNet(nn.Module):
    """``f(x) = ReLU(W_0 x + s B A x)``, then a fixed ``W_out`` (paper, Figure 2).

    The paper gives no initialisation, and with neither a base weight nor a B that differs from
    zero every ReLU is dead; here ``W_0`` is random and frozen. Both weights are uniform in
    ``+-sqrt(3 / d_in)``, drawn from the seed.

    Args:
        d_in: inputs; width: hidden units; num_labels: outputs; seed: the run's seed.
    """

    def __init__(self, d_in: int, width: int, num_labels: int, seed: int):
        super().__init__()
        self.hidden: nn.Module = _random_linear(d_in, width, seed, "hidden")
        self.out = _random_linear(width, num_labels, seed, "out")

    def forward(self, x: Tensor, base: Tensor | None = None) -> Tensor:
        """``x [n, d_in]`` to logits ``[n, labels]``; `base` is ``W_0 x`` where it is known."""
        hidden = self.hidden(x) if base is None else self.hidden(x, base)
        return self.out(torch.relu(hidden))


def _random_linear(d_in: int, d_out: int, seed: int, name: str) -> nn.Linear:
    linear = nn.Linear(d_in, d_out, bias=False)
    bound = math.sqrt(3.0 / d_in)
    weight = torch.rand(d_out, d_in, generator=torch_generator(seed, "two_layer", name))
    with torch.no_grad():
        linear.weight.copy_(weight * (2 * bound) - bound)
    return linear


def two_layer_model(net: TwoLayerNet) -> LoraModel:
    """The net with LoRA on its hidden layer; ``W_0`` and ``W_out`` stay as they are."""
    return LoraModel(net, targets=["hidden"])


def with_base_product(examples: Examples, base: nn.Module) -> Examples:
    """The examples with the column ``base``: ``W_0 x``, which no round changes.

    Args:
        examples: with the pixels ``x``.
        base: the net's hidden layer without LoRA.
    """
    weight = base.get_parameter("weight").detach()
    pieces = examples.dense["x"].split(4096)
    product = torch.cat([frozen_product(x, weight) for x in pieces])  # as the mounted layer does
    return Examples(
        targets=examples.targets,
        strata=examples.strata,
        names=examples.names,
        dense={**examples.dense, "base": product},
        fields=examples.fields,
    )
