"""Every method on Flower gives what it gives on the simulator: real nodes, a real SuperLink."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from federated import (
    RUNS,
    assert_same_run,
    assert_sites_keep_theirs,
    federate,
    handler,
    reasons,
    simulate,
)
from flower_cluster import Cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(run_yaml, tmp_path_factory):
    """Three sites that serve one run after another."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        for client in range(3):
            cluster.start_node(client, handler(run_yaml, client, cluster.directory))
        yield cluster


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_as_on_the_simulator(cluster, run_yaml, tmp_path, overrides):
    simulate(run_yaml, tmp_path / "simulated", *overrides)
    address = f"engine.superlink={cluster.address}"
    federate(run_yaml, tmp_path / "federated", address, *overrides)
    assert_same_run(tmp_path / "federated", tmp_path / "simulated")
    assert_sites_keep_theirs(cluster.directory, tmp_path / "simulated")
    assert reasons(tmp_path / "federated") == [[], [], [], []]
