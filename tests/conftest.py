"""Fixtures of the whole suite: one thread, small random models on disk."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start as well

import pytest
import torch
from hypothesis import HealthCheck, settings

import small

torch.set_num_threads(1)

settings.register_profile(
    "rolora", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("rolora")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """``model_dir(architecture)``: a directory with a small random model and its tokenizer."""
    made = {}

    def directory(architecture):
        if architecture not in made:
            path = tmp_path_factory.mktemp(architecture)
            made[architecture] = small.save_model(path, architecture)
        return made[architecture]

    return directory


@pytest.fixture
def bert(model_dir):
    return str(model_dir("bert"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A small random language model, and its tokenizer."""
    return str(small.save_causal(tmp_path_factory.mktemp("llama-lm")))


@pytest.fixture(scope="session")
def run_yaml(tmp_path_factory, model_dir):
    """The YAML of a small run for three clients, whose data lie beside it."""
    from federated import write_run

    return write_run(tmp_path_factory.mktemp("federation"), model_dir("bert"))
