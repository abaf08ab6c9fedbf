"""LoRA dropout whose masks are a function of names alone, not of what else is in the batch.

Every row of a batch has a stream of random numbers of its own, named by the seed, the round, the
client, the step and the row's place in its client's batch; every layer draws a part of it of its
own. How clients are stacked, and how their batches are cut, sorted and padded, changes no mask.
The numbers are counted and hashed on the device (SplitMix64: Steele, Lea & Flood, 2014), for which
a generator a client would be a loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rolora.core.seeds import derive

_GOLDEN = -0x61C8864680B583EB
_LEVELS = 1 << 16


def client_streams(seeds: Sequence[int], step: int, device: torch.device) -> Tensor:
    """The stream of each client's batch in this step, int64 ``[K]``, from the clients' seeds."""
    return torch.tensor([_signed(derive(seed, step)) for seed in seeds], device=device)


def row_streams(clients: Tensor, places: Tensor) -> Tensor:
    """The stream of every row, int64 ``[K n]``.

    Args:
        clients: int64 ``[K]``, of :func:`client_streams`.
        places: int64 ``[K, n]``, each row's place in its client's batch.
    """
    return _mixed(clients[:, None] + places.to(clients.device) * _GOLDEN).flatten()


def layer_stream(name: str) -> int:
    """What sets a layer's draws apart from those of others."""
    return _signed(derive(0, "dropout", name))


def dropped(x: Tensor, p: float, streams: Tensor, layer: int) -> Tensor:
    """`x` with entries zeroed with probability `p`, rounded to 1/65536, and the rest scaled up.

    Args:
        x: ``[rows, ..., d]``, row by row; what lies between are a row's tokens in order.
        p: in ``[0, 1)``.
        streams: int64 ``[rows]``.
        layer: of :func:`layer_stream`.
    """
    levels = min(round(p * _LEVELS), _LEVELS - 1)
    if levels == 0 or x.numel() == 0:
        return x
    bits = _bits(_mixed(streams ^ layer), x.numel() // (len(streams) * x.shape[-1]), x.shape[-1])
    keep = (bits >= levels - _LEVELS // 2).reshape(x.shape)
    return x * (keep.to(x.dtype) * (_LEVELS / (_LEVELS - levels)))


def _bits(streams: Tensor, tokens: int, features: int) -> Tensor:
    """Uniform int16 ``[rows, tokens, features]``: a word of 64 bits serves four features."""
    words = -(-features // 4)
    counter = torch.arange(1, tokens * words + 1, device=streams.device) * _GOLDEN
    mixed = _mixed(streams[:, None] + counter)
    return mixed.view(torch.int16).view(len(streams), tokens, 4 * words)[..., :features]


def _mixed(z: Tensor) -> Tensor:
    """SplitMix64's hash of 64 bits; torch shifts the sign in, hence the masks."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * -0x6B2FB644ECCEEE15
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _signed(seed: int) -> int:
    return seed - (1 << 62)  # of 63 bits: as likely below zero as above
