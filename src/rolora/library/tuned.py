"""A search for learning rates, as it lies in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rolora.config import Config, load_config
from rolora.core.errors import BadInput, nearest
from rolora.records.files import read_json
from rolora.records.tuning import Tuning

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


class TunedRates:
    """What :func:`rolora.tune` found.

    Args:
        directory: with ``tuning.json``, ``tuning.png``, a config a method, and the runs.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    @property
    def tuning(self) -> Tuning:
        """All of it, as a record."""
        return read_json(self.directory / "tuning.json", Tuning)

    @property
    def rates(self) -> dict[str, float]:
        """The best rate by method; a method whose runs all failed has none."""
        found = self.tuning.methods.items()
        return {name: method.rate for name, method in found if method.rate is not None}

    def config(self, method: str | None = None) -> Config:
        """The config that was tuned, with the method and its best rate.

        Args:
            method: by name; None where there is one alone.

        Raises:
            BadInput: no such method was tuned, or none of its runs came to an end.
        """
        rates = self.rates
        name = next(iter(rates), "") if method is None and len(rates) == 1 else method
        if name not in rates:
            raise BadInput(f"method = {method!r}: has no rate here{nearest(str(method), rates)}")
        return load_config(self.directory / f"{name}.yaml")

    @property
    def table(self) -> pd.DataFrame:
        """A row for each method, rate, number of rounds and seed: the validation score."""
        import pandas as pd

        tuning = self.tuning
        score = f"validation.{tuning.task.first.name}"
        return pd.DataFrame(
            [
                {"method": name, "lr": one.rate, "rounds": int(rung), "seed": int(seed), score: at}
                for name, method in tuning.methods.items()
                for one in method.tried
                for rung, by_seed in one.scores.items()
                for seed, at in by_seed.items()
            ]
        )
