"""Who is told of a run while it goes on."""

from rolora.callbacks.base import Begun, Callback, Callbacks
from rolora.callbacks.terminal import Terminal

__all__ = ["Begun", "Callback", "Callbacks", "Terminal"]
