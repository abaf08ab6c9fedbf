"""Tokenised examples, held once; everybody else holds indices into them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from rolora.core.errors import BadInput, nearest


@dataclass(frozen=True, eq=False)
class Examples:
    """`n` examples with targets, from which padded batches are drawn by index.

    The token columns of all examples lie end to end, so a batch is one gather per column: no
    Python object per example, no padding in storage.

    Args:
        targets: ``[n, ...]``, what is to be learned, in the task's own form.
        strata: int64 ``[n]``, the stratum of each, from 0, by which examples may be dealt.
        names: what the model's outputs stand for, in order.
        tokens: ragged columns such as ``input_ids``, int32 ``[total + 1]``: all examples'
            tokens, and in the last place the column's padding value.
        offsets: int64 ``[n + 1]``; example ``i`` is ``tokens[name][offsets[i]:offsets[i + 1]]``.
            One for all columns, whose lengths agree.
        dense: columns with one row for each example, ``[n, ...]``, such as the pixels ``x``.
        fields: columns of the raw data, as lists of `n` plain values, to partition by.
        cut: how many texts were longer than was taken; not known of a selection.
        dropped: how many were left out, as nothing to learn was within that length; likewise.

    Raises:
        ValueError: columns disagree in length.
    """

    targets: Tensor
    strata: Tensor
    names: tuple[str, ...]
    tokens: Mapping[str, Tensor] = field(default_factory=dict)
    offsets: Tensor | None = None
    dense: Mapping[str, Tensor] = field(default_factory=dict)
    fields: Mapping[str, Sequence[object]] = field(default_factory=dict)
    cut: int = 0
    dropped: int = 0

    def __post_init__(self) -> None:
        n = len(self)
        columns = {"strata": self.strata, **self.dense, **self.fields}
        rows = {name: len(column) for name, column in columns.items()}
        if self.offsets is not None:
            rows["offsets"] = len(self.offsets) - 1
        for name, length in rows.items():
            if length != n:
                raise ValueError(f"column {name} has {length} rows, targets have {n}")
        if self.tokens and self.offsets is None:
            raise ValueError("token columns need offsets")
        total = 0 if self.offsets is None else int(self.offsets[-1])
        for name, column in self.tokens.items():
            if len(column) != total + 1:
                raise ValueError(
                    f"column {name} has {len(column)} tokens, offsets say {total} and the padding"
                )

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each example, int64 ``[n]``; ones where the data are not text."""
        return torch.ones_like(self.strata) if self.offsets is None else self.offsets.diff()

    def values(self, name: str) -> Sequence[object]:
        """The field `name`, to partition by.

        Raises:
            BadInput: the data have no such field.
        """
        if name not in self.fields:
            raise BadInput(
                f"partition.field = {name!r}: the data have no such column"
                f"{nearest(name, self.fields)}"
            )
        return self.fields[name]

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """The model's inputs for `rows`, padded on the right to the longest of them.

        Args:
            rows: int64 ``[b]``; in any order, repeated or not.

        Returns:
            the token columns and ``attention_mask``, int64 ``[b, longest]``, and the dense
            columns ``[b, ...]``. Targets are not among them: take
            ``targets[rows]``.
        """
        batch = {name: column.index_select(0, rows) for name, column in self.dense.items()}
        if self.offsets is None:
            return batch
        lengths = self.lengths[rows][:, None]
        longest = int(lengths.max()) if len(rows) else 0
        columns = torch.arange(longest)
        inside = columns < lengths
        where = torch.where(inside, self.offsets[rows][:, None] + columns, self.offsets[-1])
        for name, flat in self.tokens.items():
            batch[name] = flat[where].long()
        batch["attention_mask"] = inside.long()
        return batch

    def select(self, rows: Tensor) -> Examples:
        """A copy that holds `rows` alone, in that order."""
        tokens, offsets = self.tokens, None
        if self.offsets is not None:
            lengths = self.lengths[rows]
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            shift = (self.offsets[rows] - offsets[:-1]).repeat_interleave(lengths)
            where = torch.cat([torch.arange(int(offsets[-1])) + shift, self.offsets[-1:]])
            tokens = {name: flat[where] for name, flat in tokens.items()}
        chosen = rows.tolist()
        return Examples(
            targets=self.targets[rows],
            strata=self.strata[rows],
            names=self.names,
            tokens=tokens,
            offsets=offsets,
            dense={name: column[rows] for name, column in self.dense.items()},
            fields={name: [column[i] for i in chosen] for name, column in self.fields.items()},
        )

    def keys(self, rows: Tensor) -> list[bytes]:
        """A digest of each row's inputs, int64 ``[b]``: of the same inputs the same, wherever they
        lie and whatever is to be learned of them.
        """
        columns = {name: self.tokens[name].numpy() for name in sorted(self.tokens)}
        dense = {name: self.dense[name].contiguous().numpy() for name in sorted(self.dense)}
        digests = []
        for row in rows.tolist():
            digest = hashlib.blake2b(digest_size=16)
            if self.offsets is not None:
                start, end = self.offsets[row : row + 2].tolist()
                for name, column in columns.items():
                    digest.update(f"{name} {end - start};".encode())
                    digest.update(column[start:end].data)
            for name, column in dense.items():
                digest.update(f"{name} {column.dtype} {column.shape[1:]};".encode())
                digest.update(column[row].data)
            digests.append(digest.digest())
        return digests

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the contents in hex; a run refuses to resume on other data."""
        digest = hashlib.sha256()
        tensors = {"targets": self.targets, **self.tokens, **self.dense}
        if self.offsets is not None:
            tensors["offsets"] = self.offsets
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        plain = [self.names, {name: list(column) for name, column in self.fields.items()}]
        digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def with_strata(self, strata: Tensor) -> Examples:
        """The same examples in other strata, int64 ``[n]``."""
        return replace(self, strata=strata)
