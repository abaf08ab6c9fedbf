"""One training run of the two-layer net on MNIST, by the same round as every other run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch

from experiments.mnist.data import CLASSES, PIXELS, Mnist, mnist_examples
from experiments.mnist.net import TwoLayerNet, two_layer_model, with_base_product
from experiments.short_runs import Curve, Ending
from rolora.client.evaluation import Split
from rolora.config import Config, DataConfig
from rolora.core.errors import RunFailed
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter, Key
from rolora.data import Examples
from rolora.data.deal import deal
from rolora.engines.in_process import InProcess
from rolora.engines.preparation import setting_of
from rolora.methods import make_method
from rolora.model.lora import LoraModel
from rolora.server.ledger import Ledger
from rolora.server.round import evaluate, run_rounds

CHANCE = 1.0 / CLASSES
"""What a diverged model scores from then on."""
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
    """Run all rounds of `job`.

    A run in which a client's factors cease to be finite, or grow until FlexLoRA's SVD fails, ends
    there; it scores chance, 1/10, from then on.
    """
    config = job.config
    model, examples = _net(job.width, job.init, config.seed, config.data, mnist)
    shares = deal(config, examples)
    splits = {name: Split(part, shares[name]) for name, part in examples.items()}
    engine = InProcess(config, model, splits)
    method = make_method(config.method.name, setting_of(config))
    state = method.init(initial_adapter(model, config, job.init))
    curve, test_accuracy, begin = Curve(), None, time.perf_counter()
    try:
        state = run_rounds(config, method, engine, state, Ledger(), curve)
        if job.test:
            test_accuracy = evaluate(engine.task, method, engine, state, "test")["accuracy"]
    except RunFailed:
        test_accuracy = CHANCE if job.test else None
    seen = [line["eval_accuracy"] for line in curve.evaluated()]
    missing = config.rounds // config.evaluation.every - len(seen)
    return Ending(
        accuracy=seen + [CHANCE] * missing,
        test_accuracy=test_accuracy,
        diverged=len(curve.lines) < config.rounds,
        bytes_up=curve.sent_up()[-1],
        bytes_down=curve.sent_down(),
        seconds=round(time.perf_counter() - begin, 2),
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


# A process runs one seed's jobs one after the other; only the last seed's pixels are kept.
@lru_cache(maxsize=1)
def _net(
    width: int, init: Init, seed: int, data: DataConfig, mnist: Mnist
) -> tuple[LoraModel, dict[str, Examples]]:
    """The net of a seed, and the examples with what ``W_0`` makes of them."""
    net = TwoLayerNet(PIXELS, width, CLASSES, seed)
    if init != "base":
        with torch.no_grad():
            net.hidden.get_parameter("weight").zero_()
    model = two_layer_model(net)
    examples = mnist_examples(mnist, data.validation, seed, data.limit)
    return model, {name: with_base_product(part, model) for name, part in examples.items()}
