"""Fixtures of the engines' tests."""

import pytest

from federated import connect_locally, handler


@pytest.fixture
def sites(run_yaml, tmp_path, monkeypatch):
    """Three sites in this process; a run on Flower finds them."""
    handlers = {client: handler(run_yaml, client, tmp_path) for client in range(3)}
    answers = {"answered": lambda client, frames: frames}
    connect_locally(monkeypatch, handlers, answers)
    return handlers, answers
