"""What clients train on, and what a client can teach: both by the labels that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rolora.config import Config, ObjectiveConfig
from rolora.core.errors import BadInput
from rolora.core.rules import Job
from rolora.data import Examples
from rolora.tasks import Task


@dataclass(frozen=True)
class Objective:
    """The loss of a stack's rows: the task's, of outputs that a client's own label shares shift.

    With ``p_c`` the share of label c among a client's training rows it trains on
    ``output_c + tau log p_c``. What the shares alone explain is then explained already, and the
    adapter need not learn each client's own prior, which the others' undo. Evaluation adds nothing.

    Args:
        task: whose loss it is.
        offsets: ``tau log p_c`` by client, ``[K, 1, labels]``; None: nothing is added.

    Source: Menon et al., Long-Tail Learning via Logit Adjustment, ICLR 2021 (arXiv 2007.07314),
    equation 10; with tau = 1 the balanced softmax of Ren et al., NeurIPS 2020 (arXiv 2007.10740).
    On clients' own shares: Zhang et al., Federated Learning with Label Distribution Skew via Logits
    Calibration (FedLC), ICML 2022 (arXiv 2209.00189), whose margin is ``tau n_c^(-1/4)`` instead.
    """

    task: Task
    offsets: Tensor | None = None

    @staticmethod
    def of(
        task: Task,
        settings: ObjectiveConfig,
        data: Examples,
        jobs: Sequence[Job],
        device: torch.device,
    ) -> Objective:
        """That of a stack of clients."""
        if settings.logit_adjustment == 0.0:
            return Objective(task)
        counts = torch.stack([smoothed_counts(data, job.rows) for job in jobs])
        shares = counts / counts.sum(1, keepdim=True)
        offsets = settings.logit_adjustment * shares.log()
        return Objective(task, offsets.float()[:, None].to(device))

    def losses(self, output: Tensor, targets: Tensor, shape: torch.Size) -> Tensor:
        """The loss of each row ``[K, n]``.

        Args:
            output: what the model says of the clients' rows, one client's after the other's,
                ``[K n, ...]``.
            targets: ``[K n, ...]``.
            shape: K and n.
        """
        if self.offsets is not None:
            output = (output.view(*shape, -1) + self.offsets).view_as(output)
        return self.task.loss(output, targets).view(shape)


def smoothed_counts(data: Examples, rows: Tensor) -> Tensor:
    """How often each label is among `rows`, and once more, so that none is missing: float64
    ``[labels]``.
    """
    return torch.bincount(data.targets[rows], minlength=len(data.names)).double() + 1.0


def information(data: Examples, rows: Tensor) -> float:
    """What a client with these training rows can teach, in examples: ``n (1 - sum_c p_c^2)`` of
    its smoothed label shares, times ``C / (C - 1)``, with which n rows of equal shares count n.

    Once its own shares are a known offset (:class:`Objective`), a client's rows inform on what all
    share with Fisher information of about ``n p (1 - p)`` a label, and the weights of a mean of the
    least variance are the inverse variances. Derived here, not taken from a paper. It is above 0,
    as every label counts once more, and never above n.
    """
    counts = [int(count) for count in smoothed_counts(data, rows).tolist()]
    labels, total = len(counts), sum(counts)
    apart = total * total - sum(count * count for count in counts)
    # Whole numbers until here: with equal shares the fraction is 1 and not next to it.
    return len(rows) * labels * apart / ((labels - 1) * total * total)


def check_shares(config: Config, task: Task) -> None:
    """Whether clients have the label shares that a run asks for.

    Raises:
        BadInput: they have none.
    """
    if task.one_label:
        return
    why = f"{task.name} has no label shares, as its rows do not have one label each"
    tau = config.objective.logit_adjustment
    if tau > 0.0:
        raise BadInput(f"objective.logit_adjustment = {tau:g}: {why}; use 0")
    if config.server.weighting == "information":
        raise BadInput(f"server.weighting = 'information': {why}; use examples or uniform")
