"""DP-SGD: each example's gradient by itself, clipped, and their sum with noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rolora.client.batches import chunks
from rolora.client.descent import Descent
from rolora.client.stack import resized
from rolora.config import OptimizerConfig, PrivacyConfig
from rolora.core.clipping import clipped_sum, units
from rolora.core.noise import Noise, own_noise
from rolora.core.rules import Job, Trained
from rolora.core.types import Adapter, Key, Layout
from rolora.model.dropout import row_streams
from rolora.privacy.noising import by_example


@dataclass(frozen=True)
class Hiding:
    """What one client's steps of a round are sampled and noised with.

    Args:
        draws: the client's.
        names: of the round's draws; with a digest of what it starts from where the key is secret.
        rate: with which an example is in a sample.
        deviation: of the noise, in clips.
        layout: of what trains, at the client's own rank.
        kept: what the client keeps for its next round.
    """

    draws: Noise
    names: tuple[str | int, ...]
    rate: float
    deviation: float
    layout: Layout
    kept: Mapping[str, Tensor]

    @staticmethod
    def of(privacy: PrivacyConfig, settings: OptimizerConfig, rounds: int, job: Job) -> Hiding:
        """Of a client with this work."""
        draws, kept = own_noise(privacy.seed, job.plan.client, job.kept)
        accountant = by_example(privacy, settings, len(job.rows), rounds).accountant
        return Hiding(
            draws=draws,
            names=draws.over(torch.cat([job.start.flat, job.delta.flat]), job.plan.round),
            rate=accountant.rate,
            deviation=accountant.noise,
            layout=job.start.layout.select(job.plan.train),
            kept=kept,
        )

    def sample(self, step: int, rows: Tensor) -> Tensor:
        """The Poisson sample of a step."""
        drawn = self.draws.uniform(len(rows), "sample", step, *self.names) < self.rate
        return rows[torch.from_numpy(drawn)]

    def noise(self, step: int) -> Adapter:
        """The noise of a step, in clips."""
        drawn = self.draws.gaussian(self.layout.size, "noise", step, *self.names)
        return Adapter(self.layout, (self.deviation * drawn).float())


class PerExample(Descent):
    """The gradient of a client is ``c (sum_i clip(g_i / c) + z n) / (q N)``: over a Poisson sample
    of its N examples, each with probability ``q = batch_size / N``, n standard normal.

    For the layers an example is a client of its own (:class:`rolora.model.lora.StackedLoRA`): where
    each example has its row of the factors ``[n, ...]``, the layer's two small products, ``g^T (x
    A^T)`` for B and ``(g B)^T x`` for A, are that example's gradients, and so are a head's. All
    that trains is clipped together, and the model is not touched.

    All examples count alike, also where a task weighs them within a batch. Losses are not told.

    Source: Abadi et al., Deep Learning with Differential Privacy, CCS 2016 (arXiv 1607.00133),
    Algorithm 1.

    Args:
        privacy: of the run.
        rounds: in which a client may take part.
        given: as of :class:`Descent`.
    """

    def __init__(self, privacy: PrivacyConfig, rounds: int, *given: Any):
        self.privacy, self.rounds = privacy, rounds
        self.hiding: list[Hiding] = []
        super().__init__(*given)

    def drawn(self, job: Job) -> Sequence[Tensor]:
        """A client's Poisson samples, which may be empty."""
        hiding = Hiding.of(self.privacy, self.settings, self.rounds, job)
        self.hiding.append(hiding)
        steps = self.settings.steps(len(job.rows))
        return [hiding.sample(step, job.rows) for step in range(steps)]

    def mount(self) -> None:
        """Nothing: the factors are put in place anew for every chunk of examples."""

    def add_gradients(self, step: int) -> None:
        """Each client's noised gradient of a step; of no account once it has made its last."""
        streams, stack = self.streams(step), self.stack
        unit = units(stack.layout, self.privacy.clip).to(stack.device, torch.float32)
        for k, job in enumerate(stack.jobs):
            if step >= len(self.batches[k]):
                continue
            hiding = self.hiding[k]
            total = resized(hiding.noise(step), stack.rank).flat.to(stack.device)
            for gradients in self.gradients(k, self.batches[k][step], streams):
                total = total + clipped_sum(gradients / unit)
            mean = unit * total / (hiding.rate * len(job.rows))
            for key, place in stack.places(k).items():
                start, end, _ = stack.layout.spans[key]
                stack.gradients[place] += mean[start:end]

    def gradients(self, k: int, rows: Tensor, streams: Tensor | None) -> Iterator[Tensor]:
        """The gradient of each example in client k's parts, some ``[n, P]`` at a time.

        Args:
            k: the client's place in the stack.
            rows: the examples, ``[b]``.
            streams: what the clients' dropout is drawn from, ``[K]``.
        """
        if not len(rows):
            return
        task, model, stack = self.loss.task, self.model, self.stack
        for chunk in chunks(self.data, [rows], model.device.type, None, model.tokens_at_once):
            n = chunk.rows.shape[1]
            tensors, leaves = self._apart(k, n)
            model.mount(tensors, [stack.jobs[k].plan.scaling] * n)
            drawn = None if streams is None else row_streams(streams[k : k + 1], chunk.places)
            asked = (model, self.data, chunk.rows[0])
            output, targets = task.outputs(*asked, again=True, streams=drawn)
            task.loss(output, targets).sum().backward()
            found = (leaf if leaf.grad is None else leaf.grad for leaf in leaves)
            yield torch.cat([gradient.view(n, -1) for gradient in found], 1)

    def _apart(self, k: int, n: int) -> tuple[dict[Key, Tensor], list[Tensor]]:
        """Client k's tensors for n examples, and those of them that train: a row each."""
        stack, tensors, leaves = self.stack, dict[Key, Tensor](), list[Tensor]()
        for key, place in stack.places(k).items():
            shape = stack.layout.spans[key][2]
            value = stack.values[place].view(1, *shape)
            tensors[key] = value.detach().repeat(n, *(1 for _ in shape)).requires_grad_()
            leaves.append(tensors[key])
        for key, tensor in stack.starts[k].items():
            if key not in tensors:
                tensors[key] = tensor.to(stack.device).expand(n, *tensor.shape)
        return tensors | dict(stack.jobs[k].delta), leaves

    def finish(self, k: int, trained: Trained) -> Trained:
        """Without the loss, and with the client's key."""
        update = replace(trained.update, metrics={})
        return replace(trained, update=update, kept={**trained.kept, **self.hiding[k].kept})
