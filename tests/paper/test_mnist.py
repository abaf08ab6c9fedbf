"""The MNIST experiment: its runs, what it decides from them, and what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest
import torch
from invented import MNIST, digits_directory, run, says_all, settings
from rich.console import Console

from experiments.mnist import train as mnist_train
from experiments.mnist.data import CLASSES, mnist_examples
from experiments.mnist.net import TwoLayerNet, two_layer_model
from experiments.mnist.runs import (
    CENTRALISED,
    FFA,
    FLEXLORA,
    GAUGE,
    LORA,
    ROLORA,
    SPLITS,
    VARIANTS,
    MnistConfig,
    job,
)
from experiments.mnist.train import Worker, initial_adapter, train
from experiments.pool import run_jobs
from experiments.short_runs import Ending
from experiments.workspace import Workspace
from rolora.core.errors import BadInput
from rolora.data.deal import deal
from rolora.engines.in_process import InProcess

CHANCE = 1 / CLASSES
FIVE, TEN = SPLITS
TINY = {"width": 24, "r": 4, "lora_alpha": 4.0, "rounds": 4, "local_steps": 3, "batch_size": 8}


def config(**changes):
    return MnistConfig(**{**TINY, **changes})


def ran(variant, split, rate=0.5, seed=0, test=False, **changes):
    return train(job(config(**changes), variant, split, rate, seed, test), MNIST)


# -- one run ------------------------------------------------------------------------------------


def test_a_digit_has_one_client():
    for split, held in ((FIVE, 2), (TEN, 1)):
        run = job(config(), ROLORA, split, 0.1, 0, test=True)
        examples = mnist_examples(MNIST, 0.1, 0)
        shares = deal(run.config, examples)
        owners = Counter()
        for rows in shares["train"]:
            digits = set(examples["train"].targets[rows].tolist())
            assert len(digits) == held
            owners.update(digits)
        assert owners == Counter(range(10))
        for name in ("validation", "test"):
            for trained, own in zip(shares["train"], shares[name], strict=True):
                assert set(examples[name].targets[own].tolist()) == set(
                    examples["train"].targets[trained].tolist()
                )


def test_the_paper_is_the_default():
    run = job(MnistConfig(), ROLORA, TEN, 0.1, 0, test=True).config
    assert (run.lora.r, run.rounds, run.federation.clients) == (16, 60, 10)
    assert run.lora.lora_alpha / run.lora.r == 1
    assert (run.optimizer.name, run.optimizer.local_steps, run.optimizer.batch_size) == (
        "sgd",
        20,
        64,
    )
    assert run.method.name == "rolora"
    assert run.method.gauge == "none"
    assert {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1} <= set(MnistConfig().rates)


def test_local_epochs_replace_local_steps():
    run = job(config(local_epochs=5), ROLORA, FIVE, 0.1, 0, test=True).config
    assert (run.optimizer.local_epochs, run.optimizer.local_steps) == (5, None)


def test_centralised_pools_the_clients_batches():
    for split in SPLITS:
        run = job(config(), CENTRALISED, split, 0.1, 0, test=True).config
        assert run.federation.clients == 1
        assert run.optimizer.batch_size == split.clients * 8
        assert run.optimizer.local_steps == 3


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.key)
def test_every_method_learns(variant):
    rate = {FLEXLORA: 0.2, FFA: 2.0}.get(variant, 0.5)
    result = ran(variant, FIVE, test=True, rounds=8, local_steps=20, rate=rate)
    assert len(result["accuracy"]) == 8
    assert not result["diverged"]
    assert result["accuracy"][-1] > 2 * CHANCE
    assert result["test_accuracy"] > 2 * CHANCE


def test_a_run_is_a_function_of_its_job():
    first, again = ran(GAUGE, TEN, test=True), ran(GAUGE, TEN, test=True)
    for result in (first, again):
        del result["seconds"]
    assert first == again
    assert ran(GAUGE, TEN, seed=1, test=True)["accuracy"] != first["accuracy"]


def test_half_the_bytes_travel_up():
    both, one = (ran(variant, TEN)["bytes_up"] for variant in (LORA, ROLORA))
    assert one == pytest.approx(both / 2, rel=0.1)


def test_tuning_never_looks_at_the_test_digits(monkeypatch):
    asked = []
    evaluate = InProcess.evaluate

    def watched(self, plan, split):
        asked.append(split)
        return evaluate(self, plan, split)

    monkeypatch.setattr(InProcess, "evaluate", watched)
    tuned = ran(ROLORA, FIVE)
    assert asked == ["validation"]
    assert tuned["test_accuracy"] is None
    assert len(tuned["accuracy"]) == 1
    asked.clear()
    judged = ran(ROLORA, FIVE, test=True)
    assert asked == ["validation"] * 4 + ["test"]
    assert judged["accuracy"][-1] == tuned["accuracy"][-1]


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    ("variant", "rate"),
    [(LORA, 1e30), (FLEXLORA, 1e3)],  # NaN from a client; an SVD that fails
    ids=["nan", "svd"],
)
def test_a_diverged_run_scores_chance(variant, rate, test):
    result = ran(variant, FIVE, rate=rate, test=test)
    assert result["diverged"]
    assert result["accuracy"][-1] == CHANCE
    assert len(result["accuracy"]) == (4 if test else 1)
    assert result["test_accuracy"] == (CHANCE if test else None)


# -- what the paper leaves open -----------------------------------------------------------------


def test_init_both_has_the_base_weights_variance():
    run = job(config(init="both", width=200, r=16, lora_alpha=32.0), LORA, FIVE, 0.1, 0, True)
    net = TwoLayerNet(784, 200, 10, 0)
    wanted = float(net.hidden.weight.detach().var())
    adapter = initial_adapter(two_layer_model(net), run.config, "both")
    product = 2.0 * adapter["hidden", "B"] @ adapter["hidden", "A"]
    assert float(product.var()) == pytest.approx(wanted, rel=0.1)


def test_init_both_trains_and_zero_is_dead():
    alive = ran(LORA, FIVE, rate=0.2, rounds=8, init="both")
    assert alive["accuracy"][-1] > 2 * CHANCE
    dead = [
        ran(variant, split, rate=0.5, init="zero", test=True)["accuracy"]
        for variant in VARIANTS
        for split in SPLITS
    ]
    assert all(len(set(accuracy)) == 1 for accuracy in dead)


def test_init_base_starts_from_zero_b():
    run = job(config(), LORA, FIVE, 0.1, 0, test=True)
    adapter = initial_adapter(two_layer_model(TwoLayerNet(784, 24, 10, 0)), run.config, "base")
    assert torch.count_nonzero(adapter["hidden", "B"]) == 0
    assert torch.count_nonzero(adapter["hidden", "A"]) > 0


# -- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seeds=[0,100]", "tuning_seed = 100"),
        ("seeds=[0,0]", "seeds = .0, 0.: must differ"),
        ("rates=[0.1,0.1]", "rates = .0.1, 0.1.: must ascend"),
        ("rates=[]", "rates"),
        ("rates=[-1]", "rates"),
        ("init=random", "init = 'random': must be"),
        ("rounds=2", "rounds = 2"),
        ("data=/nowhere/at/all", "there is no such directory"),
        ("limit=3", "of 3 training digits"),
        ("learning_rate=1", "learning_rate: unknown key"),
    ],
)
def test_wrong_settings_are_named(tmp_path, override, words):
    directory = digits_directory(tmp_path / "digits")
    with pytest.raises(BadInput, match=words):
        run("mnist", [f"data={directory}", "workers=1", override], tmp_path / "out")


# -- the whole experiment -----------------------------------------------------------------------


def overrides(directory, **changes):
    few = {**TINY, "rates": [0.05, 0.2], "seeds": [0, 1], "rate_seeds": [100], "workers": 1}
    return settings(**few, data=digits_directory(directory / "digits"), **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished experiment with both figures."""
    directory = tmp_path_factory.mktemp("mnist")
    return run("mnist", overrides(directory, figures="both"), directory / "out")


@pytest.fixture
def trained(monkeypatch):
    """The names of the jobs that are run from here on."""
    names = []
    monkeypatch.setattr(
        mnist_train, "train", lambda job, mnist: names.append(job.name) or train(job, mnist)
    )
    return names


def test_what_it_leaves(finished):
    pictures = {f"{name}.{kind}" for name in ("mnist", "mnist_rates") for kind in ("png", "svg")}
    assert finished.files().keys() == {"report.md", "report.json", *pictures}
    # 12 lines at 2 rates to tune them, then each at its rate with 2 seeds.
    assert len(finished.cells()) == 12 * 2 + 12 * 2
    assert "MNIST from IDX files, 300 and 100 digits" in finished.page()
    assert "numbers are not known here" in finished.page()
    says_all(finished)
    report = finished.record()
    assert len(report["settings"]["digits"]) == 64
    assert len(report["results"]["final"]) == 12
    assert len(report["results"]["grid"]) == 12 * 2
    rate = report["results"]["final"]["rolora 5x2"]["rate"]
    tuned = {
        item["rate"]: item["validation"]
        for item in report["results"]["grid"]
        if (item["variant"], item["split"], item["seed"]) == ("rolora", "5x2", 100)
    }
    assert tuned[rate] == max(tuned.values())


def test_finished_cells_are_not_run_again(finished, trained):
    before = finished.files()
    again = finished.again()
    assert trained == []
    assert again.findings.claims == finished.findings.claims
    assert finished.files() == before


def test_a_lost_or_damaged_cell_is_run_again_alone(finished, trained):
    cells = sorted((finished.out / "cells").iterdir())
    lost, damaged = cells[0], cells[-1]
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-40])
    again = finished.again()
    assert len(trained) == 2
    assert f"{damaged.name}: damaged" in again.said
    assert again.findings.claims == finished.findings.claims


def test_other_digits_are_other_cells(finished, tmp_path, monkeypatch):
    ended = Ending(
        accuracy=[0.5] * 4,
        test_accuracy=0.5,
        diverged=False,
        bytes_up=0,
        bytes_down=0,
        seconds=0.0,
    )
    monkeypatch.setattr(mnist_train, "train", lambda job, mnist: ended)
    other = digits_directory(tmp_path / "digits")
    labels = other / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x00")
    others = finished.again(tmp_path / "out", f"data={other}")
    assert len(others.cells()) == 12 * 2 + 12 * 2
    assert not others.cells() & finished.cells()


@pytest.mark.slow
def test_processes_give_the_same_numbers(tmp_path):
    jobs = [
        job(config(), variant, split, 0.5, seed, test=True)
        for variant in (GAUGE, FLEXLORA)
        for split in SPLITS
        for seed in (0, 1)
    ]
    workspace = Workspace.at(tmp_path, Console(quiet=True))
    found = run_jobs("runs", jobs, Worker(MNIST), workspace, workers=2)
    for one, there in zip(jobs, found, strict=True):
        here = train(one, MNIST)
        assert {**here, "seconds": 0} == {**there, "seconds": 0}


@pytest.mark.slow
def test_interrupted_and_resumed(finished, tmp_path):
    """By the command line; what the processes do at a signal is in test_pool."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments", "mnist", *finished.overrides, "workers=2"]
    process = subprocess.Popen(
        [*command, "--out", str(out)], start_new_session=True, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while not any(out.glob("cells/*.json")):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=300) != 0
        gone, alive = psutil.wait_procs(children, timeout=300)
        assert gone
        assert not alive
    finally:
        process.kill()
    kept = {path.name for path in out.glob("cells/*.json")}
    assert 0 < len(kept) < 48
    resumed = finished.again(out)
    assert resumed.findings.claims == finished.findings.claims
    assert kept <= resumed.cells()
