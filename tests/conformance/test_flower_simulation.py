"""Flower's own simulation gives what the in-process engine gives."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")
pytest.importorskip("ray")

from federated import assert_same_run, assert_sites_keep_theirs, federate, reasons, simulate

pytestmark = pytest.mark.slow
RUNS = {
    "rolora": ["model.head=train"],
    "fedsa_lora": ["method.name=fedsa_lora", "model.head=local", "optimizer.state=persist"],
}


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_as_in_process(run_yaml, tmp_path, overrides):
    """Two clients over two processes, either of which may get a client's message."""
    options = ["federation.clients=2", *overrides]
    ray = ["engine.runtime=simulation", "engine.workers=2", f"engine.state={tmp_path / 'state'}"]
    simulate(run_yaml, tmp_path / "simulated", *options)
    federate(run_yaml, tmp_path / "federated", *ray, *options)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    assert_sites_keep_theirs(tmp_path / "state", tmp_path / "simulated")
    assert reasons(tmp_path / "federated") == [[], [], [], []]
