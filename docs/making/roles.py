"""Docstrings as markdown: what they say of classes and functions by role becomes plain code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Class, Extension, Object

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`")


def plain(text: str) -> str:
    """The same without roles."""
    return ROLE.sub(r"`\1`", text)


class Roles(Extension):
    """Every docstring, as it is read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Change the docstring in place. The arguments of a class without an ``__init__`` of its
        own are its fields.
        """
        if obj.docstring is None:
            return
        text = plain(obj.docstring.value)
        if isinstance(obj, Class) and "__init__" not in obj.members:
            text = text.replace("\nArgs:\n", "\nAttributes:\n")
        obj.docstring.value = text
