"""What the process's libraries keep of its memory."""

import os
import platform
import subprocess
import sys

import pytest

from rolora.core.memory import (
    FEW,
    FREE,
    PRODUCTS,
    give_back,
    keep_few_products,
    products_kept,
    resident_memory,
)

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's heap")


def holes(megabytes):
    """Leave so many free in the heap, each below one that is in use."""
    blocks = [bytearray(100_000) for _ in range(20 * megabytes)]
    for block in blocks:
        block[:] = b"x" * len(block)
    return blocks[::2]


@glibc
def test_what_lies_free_in_the_heap_is_given_back():
    kept = holes(2 * (FREE >> 20))
    before = resident_memory()
    give_back()
    assert resident_memory() < before - FREE // 2
    assert all(block[0] == ord("x") for block in kept)


@glibc
def test_a_little_is_not():
    give_back()
    kept = holes((FREE >> 20) // 4)
    before = resident_memory()
    give_back()
    assert resident_memory() > before - FREE // 8
    assert kept


def test_few_products_are_kept_where_nobody_said_otherwise(monkeypatch):
    for variable in PRODUCTS:
        monkeypatch.delenv(variable, raising=False)
    assert products_kept() == 1024
    keep_few_products()
    assert products_kept() == FEW
    monkeypatch.setenv(PRODUCTS[0], "700")
    keep_few_products()
    assert products_kept() == 700


def test_torch_takes_heed():
    code = """
import torch
from rolora.core.memory import keep_few_products, resident_memory
if few: keep_few_products()
weight = torch.zeros(1536, 384, dtype=torch.bfloat16)
for rows in range(20, 420):
    if rows == 220: before = resident_memory()
    torch.nn.functional.linear(weight.new_zeros(rows, 384), weight)
print(resident_memory() - before)
"""
    env = {name: value for name, value in os.environ.items() if name not in PRODUCTS}

    def grown(few):
        text = f"few = {few}{code}"
        done = subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True)
        return int(done.stdout)

    assert grown(True) < 0.7 * grown(False)
