"""MLflow."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from types import MappingProxyType

from rolora.callbacks.tracking import Opening, Tracker


class MLflow(Tracker):
    """An MLflow run.

    Args:
        uri: where it is kept, a server or a database. None: what ``MLFLOW_TRACKING_URI`` says, or
            a database in the run's directory where it says nothing.
        experiment: that the run belongs to.

    Raises:
        BadInput: MLflow is not installed.
    """

    name = "mlflow"
    packages = ("mlflow", "sqlalchemy", "alembic")
    environment = MappingProxyType(
        {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    )

    def __init__(self, uri: str | None = None, experiment: str = "rolora"):
        super().__init__()
        self.uri, self.experiment = uri, experiment

    def open(self, opening: Opening) -> None:
        """The run that has this id as a tag, or a new one."""
        from mlflow import MlflowClient

        local = f"sqlite:///{opening.directory.resolve()}/mlflow.db"
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or local
        self._client = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(self.experiment)
        where = known.experiment_id if known else self._client.create_experiment(self.experiment)
        found = self._client.search_runs([where], f"tags.`rolora.id` = '{opening.id}'")
        self._run = found[0].info.run_id if found else self._new(where, opening)
        self._client.update_run(self._run, status="RUNNING")
        self.closing.callback(self._leave)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Metrics, in one transaction."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key(name), value, now, step) for name, value in numbers.items()]
        for start in range(0, len(metrics), 1000):  # of which one call may hold no more
            self._client.log_batch(self._run, metrics=metrics[start : start + 1000])

    def _new(self, experiment: str, opening: Opening) -> str:
        from mlflow.entities import Param

        tags = {"rolora.id": opening.id}
        created = self._client.create_run(experiment, run_name=opening.name, tags=tags)
        params = [Param(name, str(value)) for name, value in opening.parameters.items()]
        for start in range(0, len(params), 100):  # of which one call may hold no more
            self._client.log_batch(created.info.run_id, params=params[start : start + 100])
        return str(created.info.run_id)

    def _leave(self) -> None:
        self._client.set_terminated(self._run, "FINISHED" if self.finished else "KILLED")


def key(name: str) -> str:
    """The name with what MLflow refuses, as in ``C++``, as its code: no two become one."""
    return re.sub(r"[^\w\-. :/]", lambda refused: f"_{ord(refused[0]):x}", name)
