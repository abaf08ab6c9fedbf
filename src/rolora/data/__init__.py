"""Data as everybody else sees them: indices into examples that are held once."""

from rolora.data.columns import Column, Reader
from rolora.data.doubts import tell_cut, tell_lacking, tell_shares
from rolora.data.examples import Examples
from rolora.data.loaders import (
    check_known,
    load_data,
    pad_id,
    read_split,
    tokenize,
)
from rolora.data.partition import assign_like, partition, strata_table
from rolora.data.raw import RawSplit, RawSplits, text_columns

__all__ = [
    "Column",
    "Examples",
    "RawSplit",
    "RawSplits",
    "Reader",
    "assign_like",
    "check_known",
    "load_data",
    "pad_id",
    "partition",
    "read_split",
    "strata_table",
    "tell_cut",
    "tell_lacking",
    "tell_shares",
    "text_columns",
    "tokenize",
]
