"""A first config: what a file's columns are for is guessed, and every guess is said."""

from rolora.starter.drafting import Draft, draft
from rolora.starter.roles import Choice

__all__ = ["Choice", "Draft", "draft"]
