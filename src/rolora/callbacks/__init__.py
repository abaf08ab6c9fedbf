"""Who is told of a run while it goes on."""

from collections.abc import Iterable, Mapping

from rolora.callbacks.base import Begun, Callback, Callbacks
from rolora.callbacks.mlflow import MLflow
from rolora.callbacks.tensorboard import TensorBoard
from rolora.callbacks.terminal import Terminal
from rolora.callbacks.tracking import Tracker
from rolora.callbacks.trackio import Trackio
from rolora.callbacks.wandb import WeightsAndBiases
from rolora.core.errors import BadInput, nearest

__all__ = [
    "TRACKERS",
    "Begun",
    "Callback",
    "Callbacks",
    "MLflow",
    "TensorBoard",
    "Terminal",
    "Tracker",
    "Trackio",
    "WeightsAndBiases",
    "make_trackers",
]

TRACKERS: Mapping[str, type[Tracker]] = {
    tracker.name: tracker for tracker in (TensorBoard, MLflow, WeightsAndBiases, Trackio)
}
"""Trackers by the name that a config gives them; none imports its package before it is made."""


def make_trackers(names: Iterable[str]) -> list[Tracker]:
    """The trackers of these names, each with what it takes by itself.

    Raises:
        BadInput: there is none of that name, or its package is not installed.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in TRACKERS:
            raise BadInput(f"tracking = {name!r}: no such tracker{nearest(name, TRACKERS)}")
    return [TRACKERS[name]() for name in names]
