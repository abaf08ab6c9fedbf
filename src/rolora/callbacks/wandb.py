"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rolora.callbacks.tracking import Opening, Tracker


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, offline unless ``WANDB_MODE`` says otherwise.

    Every process that goes on with a run leaves a directory ``wandb/offline-run-*``; all have the
    run's id, and ``wandb sync --append`` makes one run of them.

    Args:
        directory: in which ``wandb`` lies; None is the run's.
        project: that the run belongs to.

    Raises:
        BadInput: Weights & Biases is not installed.
    """

    name = "wandb"
    packages = ("wandb",)
    environment = MappingProxyType({"WANDB_ERROR_REPORTING": "false"})

    def __init__(self, directory: Path | str | None = None, project: str = "rolora"):
        super().__init__()
        self.directory, self.project = directory, project

    def open(self, opening: Opening) -> None:
        """A run with this id, beside any that the person has open."""
        import wandb

        self._run = wandb.init(
            project=self.project,
            id=opening.id,
            name=opening.name,
            dir=str(self.directory or opening.run),
            config=opening.parameters,
            resume="allow",
            reinit="create_new",
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                x_transaction_log_flush_interval=0.1,  # for readers, and for what a kill leaves
            ),
        )
        self.closing.callback(lambda: self._run.finish(exit_code=0 if self.finished else 1))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """One line of the run's history; its writer is another process, which outlives this."""
        self._run.log(dict(numbers), step=step, commit=True)

    def result(self, numbers: Mapping[str, float], step: int) -> None:
        """The run's summary: a line of its history, once written, takes no more."""
        self._run.summary.update(dict(numbers))
