"""Data as everybody else sees them: indices into examples that are held once."""

from rolora.data.examples import Examples
from rolora.data.loaders import (
    RawSplit,
    RawSplits,
    check_known,
    load_data,
    pad_id,
    tokenize,
)
from rolora.data.partition import assign_like, label_table, partition

__all__ = [
    "Examples",
    "RawSplit",
    "RawSplits",
    "assign_like",
    "check_known",
    "label_table",
    "load_data",
    "pad_id",
    "partition",
    "tokenize",
]
