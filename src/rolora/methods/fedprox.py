"""FedProx: hold a client near where it started (Li et al., 2020). Goes with every method."""

from __future__ import annotations

import torch

from rolora.core.rules import ClientRule, Stack, Steps


class FedProx(ClientRule):
    """Adds ``mu / 2 |w - w_start|^2`` over the trained parts to every client's loss.

    Source: Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020
    (arXiv 1812.06127), Algorithm 2.
    """

    def __init__(self, mu: float):
        self.mu = mu

    def steps(self, stack: Stack, optimizer: torch.optim.Optimizer) -> Steps:
        """The pull back to the present values."""
        return _Pull(stack, self.mu)


class _Pull(Steps):
    def __init__(self, stack: Stack, mu: float):
        self.stack, self.mu, self.initial = stack, mu, stack.values.clone()

    def gradient(self) -> None:
        self.stack.gradients.add_(self.stack.values - self.initial, alpha=self.mu)
