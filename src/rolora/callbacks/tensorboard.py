"""TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rolora.callbacks.tracking import Opening, Tracker


class TensorBoard(Tracker):
    """Event files in the run's directory, or in a directory of the run's own below `directory`.

    Args:
        directory: to hold those of several runs.

    Raises:
        BadInput: TensorBoard is not installed.
    """

    name = "tensorboard"
    packages = ("tensorboard",)

    def __init__(self, directory: Path | str | None = None):
        super().__init__()
        self.directory = directory

    def open(self, opening: Opening) -> None:
        """A new file; of files before it, readers drop the steps that are about to come."""
        from torch.utils.tensorboard import SummaryWriter

        own = opening.directory
        at = own if self.directory is None else Path(self.directory) / opening.name
        self._writer = SummaryWriter(str(at), purge_step=opening.first)
        self.closing.callback(self._writer.close)
        if opening.first == 1:
            self._writer.add_text("config", f"```yaml\n{opening.yaml}```", 1)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Scalars, written out at once."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
