"""What every record is made of."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SCHEMA = 2
"""Of the files that this version writes. 1 was before scores had names."""


class Record(BaseModel):
    """A JSON object; what it does not know, and a value of another type, is refused in writing."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class FileRecord(Record):
    """A record that is a file, or a line of one."""

    schema_version: int = Field(default=SCHEMA, alias="schema")


def finite(value: Any) -> Any:
    """The value, or None where JSON has no word for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Score = Annotated[float | None, BeforeValidator(finite)]
"""None where it is not finite, or not defined (a correlation of constants)."""
Scores = dict[str, Score]
