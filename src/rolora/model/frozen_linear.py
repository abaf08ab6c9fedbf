"""Frozen linear layers on a CPU: their matrix products through oneDNN.

In float32 torch hands the products of ``nn.Linear`` to its BLAS. Where that is MKL on a processor
that is not Intel's, it leaves the wider vector units idle; oneDNN, which torch carries for
bfloat16 and convolutions, uses them and is about twice as fast. Both round as float32 does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FrozenLinear(nn.Linear):
    """``y = x W^T + b`` with weights that never train; shares them with the layer it replaces."""

    def __init__(self, layer: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., d_in]`` to ``[..., d_out]``."""
        return frozen_product(x, self.weight, self.bias)


def frozen_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` with a gradient for ``x`` alone: ``[..., d_in]`` to ``[..., d_out]``."""
    if not _pays(weight):
        return nn.functional.linear(x, weight, bias)
    if x.requires_grad and torch.is_grad_enabled():
        return _Product.apply(x, weight, bias)
    return _product(x, weight, bias)


class _Product(torch.autograd.Function):
    """``x W^T + b``, with a gradient for ``x`` alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(gradients[0], weight.T, None), None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def speed_up_frozen_linears(module: nn.Module) -> None:
    """Replace the linear layers of a frozen `module` where that pays, in place."""
    for parent in list(module.modules()):
        for name, layer in parent.named_children():
            if type(layer) is nn.Linear and _pays(layer.weight):
                setattr(parent, name, FrozenLinear(layer))


def _pays(weight: Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return on_cpu and torch.backends.mkldnn.is_available()
