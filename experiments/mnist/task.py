"""Which digit is it: the two-layer net on MNIST, as a task like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from experiments.mnist.data import CLASSES, PIXELS, Mnist, mnist_examples
from experiments.mnist.net import TwoLayerNet, two_layer_model, with_base_product
from rolora.config import Config, DataConfig, ModelConfig, PartitionConfig
from rolora.core.section import Section
from rolora.data import Examples, RawSplits
from rolora.data.sources import Splits
from rolora.model.loading import Pretrained
from rolora.model.lora import LoraModel
from rolora.tasks.classification import Classification

Init = Literal["base", "both", "zero"]
"""What the paper leaves open: where the hidden units' first activity comes from.

- ``base``: a random frozen weight ``W_0`` under the adapter and ``B = 0``, as LoRA is used: the
  net starts as the random features ``ReLU(W_0 x)``, the same for all clients.
- ``both``: no base weight; A and B both random, of such a size that ``s B A`` has the variance of
  ``W_0``. Closest to the paper's formula, but the first B, or in FFA-LoRA the frozen A, holds all
  that reaches the hidden units: 16 directions of the image.
- ``zero``: no base weight and ``B = 0``. Every hidden unit is at 0, where ReLU's gradient is 0 as
  well; no factor gets a gradient and nothing ever trains, with any method.
"""


class WhichDigit(Classification):
    """Classification of digits that are at hand, by a net of its own.

    Args:
        mnist: the digits.
        width: hidden units.
        init: what the net starts from; ``base`` alone has a base weight.
    """

    title = "Which digit"

    def __init__(self, mnist: Mnist, width: int, init: Init):
        super().__init__(Section())
        self.mnist, self.width, self.init = mnist, width, init

    def load(
        self,
        config: DataConfig,
        seed: int,
        splits: Splits | None = None,
        partition: PartitionConfig | None = None,
    ) -> RawSplits[Examples]:
        """The splits of the digits; of `config`, ``validation`` and ``limit`` count.

        Raises:
            BadInput: too few digits.
        """
        digits = mnist_examples(self.mnist, config.validation, seed, config.limit)
        return RawSplits(**digits, test_from="test", held_out=False)

    def backbone(self, config: ModelConfig, names: tuple[str, ...], seed: int) -> Pretrained:
        """The two-layer net, drawn from `seed`; the section ``model`` says nothing of it."""
        net = TwoLayerNet(PIXELS, self.width, CLASSES, seed)
        if self.init != "base":
            with torch.no_grad():
                net.hidden.get_parameter("weight").zero_()
        return Pretrained(net, tokenizer=None, head=(), source="two-layer net")

    def encode(
        self,
        raw: RawSplits[Any],
        pretrained: Pretrained,
        config: DataConfig,
        notice: Callable[[str], None],
    ) -> dict[str, Examples]:
        """The digits with what ``W_0`` makes of them."""
        base = pretrained.module.get_submodule("hidden")
        return {name: with_base_product(part, base) for name, part in raw.by_name.items()}

    def adapted(self, pretrained: Pretrained, config: Config) -> LoraModel:
        """The net with LoRA on its hidden layer."""
        assert isinstance(pretrained.module, TwoLayerNet)
        return two_layer_model(pretrained.module)
