"""What tasks have in common whose targets are a column of the data."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from rolora.config import DataConfig, PartitionConfig
from rolora.core.errors import BadInput
from rolora.data import Column, RawSplits, labelled, read_labelled
from rolora.data.readers import Table
from rolora.data.sources import Source, Splits
from rolora.tasks.base import Task


class ColumnTask(Task):
    """A task that learns what one column says of each text."""

    def load(
        self,
        config: DataConfig,
        seed: int,
        splits: Splits | None = None,
        partition: PartitionConfig | None = None,
    ) -> RawSplits[Any]:
        """Training, validation and test examples; of a file, its columns must be named."""
        if config.path is not None and (config.text is None or config.label is None):
            raise BadInput("data: path needs text and label: the columns to read")
        return super().load(config, seed, splits, partition)

    def read(self, table: Table, source: Source, known: tuple[str, ...] | None, train: Any) -> Any:
        """One table as a split (:func:`rolora.data.read_labelled`)."""
        return read_labelled(table, source, self, known, train)

    def answered(self, table: Table, source: Source) -> bool:
        """Whether the table has the column, and values in it."""
        return labelled(table, source)

    @abstractmethod
    def targets(
        self, column: Column, known: tuple[str, ...] | None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Read the column of what is to be learned.

        Args:
            column: as it lies in the data.
            known: the names of training, or ``data.labels``; None: take them from the column.

        Returns:
            the targets ``[n, ...]``, and the names of the model's outputs.

        Raises:
            BadInput: a value is missing, of the wrong kind, or unknown.
        """
