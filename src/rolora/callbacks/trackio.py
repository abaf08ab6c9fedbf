"""Trackio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rolora.callbacks.tracking import Opening, Tracker


class Trackio(Tracker):
    """A run in a Trackio database: ``TRACKIO_DIR=RUN/trackio trackio show`` draws it.

    It writes to the database itself: a run of Trackio's own would ask the Hub who is logged in,
    and writes from a thread of which a kill takes the last round.

    Args:
        directory: of the database; None is one in the run's directory.
        project: that the run belongs to.

    Raises:
        BadInput: Trackio is not installed.
    """

    name = "trackio"
    packages = ("trackio",)

    def __init__(self, directory: Path | str | None = None, project: str = "rolora"):
        super().__init__()
        self.directory, self.project = directory, project

    def open(self, opening: Opening) -> None:
        """Nothing yet; a run begins in the database with its first numbers."""
        self._opening = opening
        self._place = Path(self.directory or opening.directory).resolve()

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """One line, in one transaction."""
        from trackio import sqlite_storage, utils

        # It reads TRACKIO_DIR on import alone, and a process may have several runs.
        sqlite_storage.TRACKIO_DIR = utils.TRACKIO_DIR = self._place
        sqlite_storage.SQLiteStorage.bulk_log(
            project=self.project,
            run=self._opening.name,
            run_id=self._opening.id,
            metrics_list=[dict(numbers)],
            steps=[step],
            config=self._opening.parameters,
        )
