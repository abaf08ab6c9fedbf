"""How much of each site the SuperLink takes: the answers that were asked of it, each up to the size
that the run said, and a few of them at a time.

Flower stores whatever a node sends, and the run finds out afterwards. It also takes a message that
a node sends in the SuperLink's name to another node.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

AT_ONCE = 4
"""Answers of one site that are kept; the oldest is dropped for another. A run asks one thing of a
site at a time, beside the greeting.
"""
_OBJECT_BYTES = 4 * 2**20
_FEW_OBJECTS = 64
"""Of an answer, beside one for every 4 MB (:mod:`rolora.engines.flower.payload`)."""


class OverQuota(Exception):  # noqa: N818
    """What a node sent is not taken; `root` is the answer that is to be dropped for it, if any."""

    def __init__(self, why: str, root: str = ""):
        super().__init__(why)
        self.root = root


@dataclass(frozen=True)
class Asked:
    """A request that is on its way: the node that it is for, and how large its answer may be."""

    node: int
    most_bytes: int


@dataclass
class Answer:
    """An answer that a node has announced.

    Args:
        run: that it belongs to.
        to: the id of the request.
        root: its own id.
        objects: the ids of all that it consists of.
        most_bytes: how large it may be.
        sizes: bytes by id of what has come.
    """

    run: int
    to: str
    root: str
    objects: frozenset[str]
    most_bytes: int = 0
    sizes: dict[str, int] = field(default_factory=dict)


class Quota:
    """What each node has announced and sent; one for all threads of a SuperLink."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, list[Answer]] = {}
        self._refused: dict[str, frozenset[str]] = {}

    def announce(self, node: int, answer: Answer, asked: Asked | None) -> list[str]:
        """Take an answer's announcement; returns the roots of older ones that make room for it.

        Raises:
            OverQuota: nobody asked for it, or it has too many pieces.
        """
        with self._lock:
            mine = self._open.setdefault(node, [])
            if any(one.root == answer.root for one in mine):
                return []  # said again, as its receipt was lost
            if asked is None or asked.node != node or any(one.to == answer.to for one in mine):
                raise OverQuota("an answer to nothing that this node was asked")
            if len(answer.objects) > _FEW_OBJECTS + asked.most_bytes // _OBJECT_BYTES:
                raise OverQuota(f"an answer of {len(answer.objects)} pieces")
            answer.most_bytes = asked.most_bytes
            mine[:] = [*(one for one in mine if one.run == answer.run), answer]
            dropped = [one.root for one in mine[:-AT_ONCE]]
            del mine[:-AT_ONCE]
            for root in dropped:
                self._refused.pop(root, None)
            return dropped

    def push(self, node: int, name: str, size: int) -> None:
        """Take a piece of an answer.

        Raises:
            OverQuota: it belongs to none that is announced, or the answer is too large with it.
        """
        with self._lock:
            found = [
                one
                for one in self._open.get(node, [])
                if name in one.objects and one.root not in self._refused
            ]
            if not found:
                raise OverQuota("a piece of no announced answer")
            for answer in found:
                answer.sizes[name] = size
                if sum(answer.sizes.values()) > answer.most_bytes:
                    self._refused[answer.root] = answer.objects
                    answer.sizes = {}
                    raise OverQuota(f"more than the {answer.most_bytes} bytes asked", answer.root)

    def was_refused(self, name: str) -> bool:
        """Whether that piece is of an answer that was dropped as it grew too large."""
        with self._lock:
            return any(name in objects for objects in self._refused.values())

    def taken(self, root: str) -> None:
        """The run has what it wants of an answer."""
        with self._lock:
            self._refused.pop(root, None)
            for mine in self._open.values():
                mine[:] = [one for one in mine if one.root != root]
