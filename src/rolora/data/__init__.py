"""Data as everybody else sees them: indices into examples that are held once."""

from rolora.data.columns import Column, LabelReader
from rolora.data.doubts import tell_cut, tell_dropped, tell_lacking, tell_shares
from rolora.data.examples import Examples
from rolora.data.loaders import (
    Reader,
    check_known,
    labelled,
    load_data,
    pad_id,
    plain_fields,
    read_labelled,
    tokenize,
)
from rolora.data.partition import assign_like, partition, strata_table
from rolora.data.raw import RawSplit, RawSplits, text_columns

__all__ = [
    "Column",
    "Examples",
    "LabelReader",
    "RawSplit",
    "RawSplits",
    "Reader",
    "assign_like",
    "check_known",
    "labelled",
    "load_data",
    "pad_id",
    "partition",
    "plain_fields",
    "read_labelled",
    "strata_table",
    "tell_cut",
    "tell_dropped",
    "tell_lacking",
    "tell_shares",
    "text_columns",
    "tokenize",
]
