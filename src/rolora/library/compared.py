"""Several methods side by side, as they lie in a directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rolora.library.finished import Run
from rolora.records.files import read_json
from rolora.records.schema import Comparison

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


class ComparedRuns:
    """Runs of several methods under the same seeds.

    Args:
        directory: with ``comparison.json``, ``comparison.md`` and ``comparison.png``.
        runs: where each lies, by method and seed.
    """

    def __init__(self, directory: Path, runs: Mapping[tuple[str, int], Path]):
        self.directory = directory
        self.runs: dict[tuple[str, int], Run] = {key: Run(path) for key, path in runs.items()}

    @property
    def comparison(self) -> Comparison:
        """Means, spreads and paired differences, as a record."""
        return read_json(self.directory / "comparison.json", Comparison)

    @property
    def table(self) -> pd.DataFrame:
        """A row a method and seed: test scores, bytes and seconds."""
        import pandas as pd

        rows = []
        for (method, seed), run in self.runs.items():
            summary = run.summary
            scores = {f"test.{name}": score for name, score in summary.final.test.items()}
            sent = {"bytes_up": summary.bytes_up, "bytes_down": summary.bytes_down}
            seconds = {"seconds": summary.seconds.get("total")}
            rows.append({"method": method, "seed": seed, **scores, **sent, **seconds})
        return pd.DataFrame(rows)
