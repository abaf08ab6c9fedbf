"""This process's memory on a CPU: what it holds, and what torch's libraries keep for later."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from functools import cache

import psutil

PRODUCTS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""How many products, each compiled for a number of rows, oneDNN keeps, and how many torch beside
it: 1,024 unless these say otherwise, a megabyte and a quarter of one each."""
FEW = 64
"""Those of a step. More of them are hardly met again, as the next step has other lengths."""
FREE = 128 << 20
"""Bytes of the heap that may lie free: to give back fewer costs more than they are worth."""


def keep_few_products() -> None:
    """Have the products of a step alone kept, where nobody has said otherwise; before torch
    multiplies for the first time.
    """
    for variable in PRODUCTS:
        os.environ.setdefault(variable, str(FEW))


def products_kept() -> int:
    """How many compiled products are kept."""
    said = [os.environ.get(variable, "") for variable in PRODUCTS]
    return max(int(number) if number.isdecimal() else 1024 for number in said)


class _Mallinfo2(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (field, ctypes.c_size_t)
        for field in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc from 2.33 on."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype = _Mallinfo2
    return library


def give_back() -> None:
    """Return what lies free in the heap to the system, where that is more than :data:`FREE`.

    Batches of ever other lengths leave holes: after a round of a language model a third of what
    the process holds. A tenth of a second a gigabyte.
    """
    library = _glibc()
    if library is not None and library.mallinfo2().fordblks > FREE:
        library.malloc_trim(0)


def resident_memory() -> int:
    """Resident bytes of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """The most resident bytes of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
