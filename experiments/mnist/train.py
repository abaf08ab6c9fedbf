"""One training run of the two-layer net on MNIST, by the same round as every other run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from experiments.mnist.data import Mnist
from experiments.mnist.task import Init, WhichDigit
from experiments.short_runs import TrialResult, run_short
from rolora.config import Config
from rolora.core.seeds import torch_generator
from rolora.core.types import Adapter, Key
from rolora.engines.given import Given
from rolora.engines.preparation import Loaded, Prepared, load, prepare
from rolora.model.lora import LoraModel


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

    def work(self, job: Job) -> TrialResult:
        """Run all rounds of `job`."""
        return train(job, self.mnist)


def train(job: Job, mnist: Mnist) -> TrialResult:
    """Run all rounds of `job` (:func:`experiments.short_runs.run_short`)."""
    ready = prepared(job, mnist)
    state = ready.method.init(initial_adapter(ready.model, job.config, job.init))
    return run_short(ready, state, job.test)


def prepared(job: Job, mnist: Mnist) -> Prepared:
    """Everything that the run needs: the digits and who holds them, the net, the method.

    Raises:
        BadInput: too few digits.
    """
    # All of the config that the digits and the net depend on.
    common = Config(seed=job.config.seed, data=job.config.data)
    return prepare(job.config, _loaded(mnist, job.width, job.init, common))


# A process runs one seed's jobs one after the other; only the last seed's pixels are kept.
@lru_cache(maxsize=1)
def _loaded(mnist: Mnist, width: int, init: Init, config: Config) -> Loaded:
    """The net of a seed, and the examples with what ``W_0`` makes of them."""
    return load(config, given=Given(task=WhichDigit(mnist, width, init)))


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
