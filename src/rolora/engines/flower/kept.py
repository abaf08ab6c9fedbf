"""What a site keeps for itself between rounds, on its disk."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import load_file, save

from rolora.client.kept import NOTHING, Kept
from rolora.core.noise import KEPT
from rolora.records.atomic import write_atomic
from rolora.secure.forms import NONE, Opened


class KeptStore:
    """A client's own parts and optimiser state after every round of one run, a file a round.

    A server that goes on from an older checkpoint does some rounds again; each starts from what
    the client kept before it, as the first time.

    Args:
        directory: of the site.
        run: names a directory under it.

    Raises:
        ValueError: `run` is not of hex digits alone.
    """

    def __init__(self, directory: Path, run: str):
        if not re.fullmatch(r"[0-9a-f]{8,64}", run):
            raise ValueError(f"run {run!r}: must be hex digits")
        self.directory = directory / run

    def rounds(self) -> dict[int, Path]:
        """The file of each round after which something was kept."""
        found = self.directory.glob("round_*.safetensors")
        return {int(path.stem.removeprefix("round_")): path for path in sorted(found)}

    def before(self, round_number: int) -> Kept:
        """What was kept when `round_number` first began; and the client's key, which is one for the
        whole run, so that its first round too has the same noise if it is done again.
        """
        rounds = self.rounds()
        earlier = [path for number, path in rounds.items() if number < round_number]
        if earlier:
            return Kept.of(load_file(earlier[-1]))
        later = load_file(min(rounds.values())) if rounds else {}
        return Kept.of({KEPT: later[KEPT]}) if KEPT in later else NOTHING

    def save(self, round_number: int, kept: Kept) -> None:
        """Keep `kept` as it is after a round; whole or not at all."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in kept.tensors().items()}
        if tensors:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_atomic(self.directory / f"round_{round_number:06d}.safetensors", save(tensors))

    def sum_of(self, round_number: int) -> Opened:
        """The sum of a round that this client helped to open; none where it has not."""
        path = self._sum(round_number)
        if not path.exists():
            return NONE
        noted = json.loads(path.read_text())
        return Opened(frozenset(noted["clients"]), float(noted["limit"]))

    def note_sum(self, round_number: int, opened: Opened) -> None:
        """Keep which sum it is about to help with, for as long as the run: how far a restart of the
        server goes back is the server's word.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        noted = {"clients": sorted(opened.clients), "limit": str(opened.limit)}
        write_atomic(self._sum(round_number), json.dumps(noted).encode())

    def _sum(self, round_number: int) -> Path:
        return self.directory / f"sum_{round_number:06d}.json"

    def settle(self, round_number: int) -> None:
        """Drop what only a return behind `round_number` would need."""
        settled = [path for number, path in self.rounds().items() if number <= round_number]
        for path in settled[:-1]:
            path.unlink(missing_ok=True)
