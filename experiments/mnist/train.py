"""One training run of the two-layer net on MNIST, by the same round as every other run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch

from experiments.mnist.data import CLASSES, PIXELS, Mnist, mnist_examples
from experiments.mnist.net import TwoLayerNet, two_layer_model, with_base_product
from experiments.short_runs import Ending, ending, run_short
from rolora.config import Config, DataConfig
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter, Key
from rolora.engines.preparation import Loaded, Prepared, prepare
from rolora.model.loading import Pretrained
from rolora.model.lora import LoraModel

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


@dataclass(frozen=True)
class Job:
    """One run: a cell of the experiment.

    Args:
        name: for people.
        config: of the run; its `data` section holds the validation share and the limit.
        width: hidden units.
        init: what the net starts from.
        test: whether the final model is judged on the test digits.
    """

    name: str
    config: Config
    width: int
    init: Init
    test: bool

    def settings(self, mnist: Mnist) -> dict[str, Any]:
        """All that the result depends on, JSON-able."""
        config = self.config.model_dump(mode="json", exclude={"model", "checkpoint", "engine"})
        setting = {"width": self.width, "init": self.init, "test": self.test}
        return {**config, **setting, "digits": mnist.digest}


@dataclass(frozen=True)
class Worker:
    """Runs jobs on these digits."""

    mnist: Mnist

    def settings(self, job: Job) -> dict[str, Any]:
        """All that the result depends on, JSON-able."""
        return job.settings(self.mnist)

    def work(self, job: Job) -> Ending:
        """Run all rounds of `job`."""
        return train(job, self.mnist)


def train(job: Job, mnist: Mnist) -> Ending:
    """Run all rounds of `job` (:func:`experiments.short_runs.run_short`)."""
    ready = prepared(job, mnist)
    state = ready.method.init(initial_adapter(ready.model, job.config, job.init))
    return ending(run_short(ready, state, job.test))


def prepared(job: Job, mnist: Mnist) -> Prepared:
    """Everything that the run needs: the digits and who holds them, the net, the method.

    Raises:
        BadInput: too few digits.
    """
    config = job.config
    return prepare(config, _loaded(job.width, job.init, config.seed, config.data, mnist))


# A process runs one seed's jobs one after the other; only the last seed's pixels are kept.
@lru_cache(maxsize=1)
def _loaded(width: int, init: Init, seed: int, data: DataConfig, mnist: Mnist) -> Loaded:
    """The net of a seed, and the examples with what ``W_0`` makes of them."""
    net = TwoLayerNet(PIXELS, width, CLASSES, seed)
    if init != "base":
        with torch.no_grad():
            net.hidden.get_parameter("weight").zero_()
    model = two_layer_model(net)
    examples = mnist_examples(mnist, data.validation, seed, data.limit)
    return Loaded(
        pretrained=Pretrained(net, tokenizer=None, head=(), source="two-layer net"),
        model=model,
        examples={name: with_base_product(part, model) for name, part in examples.items()},
        test_from="test",
    )


def initial_adapter(model: LoraModel, config: Config, init: Init) -> Adapter:
    """A random; B random for ``both``, else 0."""
    adapter = model.initial_adapter(config.lora.r, config.seed)
    if init != "both":
        return adapter
    drawn: dict[Key, torch.Tensor] = {}
    for key, zeros in adapter.items():
        if key[1] == "B":
            generator = torch_generator(config.seed, "lora_B", key[0])
            # A's entries have variance 1 / (3 d_in), W_0's 1 / d_in: B's is 3 / (r s^2).
            bound = 3.0 / math.sqrt(config.lora.r) / (config.lora.lora_alpha / config.lora.r)
            drawn[key] = torch.rand(zeros.shape, generator=generator) * (2 * bound) - bound
    return adapter.overwrite(drawn)
