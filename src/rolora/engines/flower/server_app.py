"""The ServerApp that every Flower app must name; the rounds of rolora's are driven elsewhere."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Say how a run is started."""
    raise RuntimeError("start the run with `rolora run CONFIG engine.name=flower`")
