"""How a text file is read that is not of the usual kind."""

from __future__ import annotations

import codecs
from typing import Annotated

from pydantic import Field, field_validator

from rolora.core.errors import nearest
from rolora.core.section import Section


class ReadOptions(Section):
    """How a text file is read where it is not the usual way: `sep` stands between the cells of a
    csv and `quotechar` around those that hold one (a tsv has no quotes); `encoding` is that of a
    csv, tsv, json or jsonl, utf-8 where null.
    """

    sep: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    encoding: str | None = None
    quotechar: Annotated[str, Field(min_length=1, max_length=1)] | None = None

    @field_validator("encoding")
    @classmethod
    def _of_text(cls, name: str | None) -> str | None:
        try:
            if name is not None:
                "".encode(name)
                codecs.lookup(name)
        except (LookupError, ValueError):  # unknown, or no encoding of text
            known = ("utf-8", "latin-1", "cp1252", "utf-16", "shift_jis", "gb18030")
            raise ValueError(f"{name!r} is no encoding{nearest(str(name), known)}") from None
        return name
