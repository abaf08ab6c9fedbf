"""Who is told of a run while it goes on."""

from rolora.callbacks.base import Begun, Callback, Callbacks

__all__ = ["Begun", "Callback", "Callbacks"]
