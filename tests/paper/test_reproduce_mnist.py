"""The MNIST experiment: its runs, what it decides from them, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from io import StringIO

import numpy as np
import psutil
import pytest
import torch
from rich.console import Console
from test_mnist_data import idx

from experiments import EXPERIMENTS
from experiments.framework import not_below
from experiments.mnist import train as mnist_train
from experiments.mnist.data import Digits, Mnist
from experiments.mnist.experiment import run_mnist
from experiments.mnist.net import TwoLayerNet, two_layer_model
from experiments.mnist.report import claims, good_rates, tables
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
    Runs,
    job,
)
from experiments.mnist.train import CHANCE, initial_adapter, train
from experiments.short_runs import Ending
from rolora.core.errors import BadInput
from rolora.data.deal import deal
from rolora.engines.in_process import InProcess

FIVE, TEN = SPLITS
TINY = {"width": 24, "r": 4, "lora_alpha": 4.0, "rounds": 4, "local_steps": 3, "batch_size": 8}


def made_up(n, seed):
    """Ten digits that differ in which tenth of the image is inked, with noise."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 10).astype(np.uint8)
    images = rng.integers(0, 40, (n, 784))
    for i, label in enumerate(labels.tolist()):
        images[i, 78 * label : 78 * (label + 1)] += 160
    return Digits(images.astype(np.uint8), labels)


MNIST = Mnist(made_up(300, 1), made_up(100, 2), "made-up digits")


def config(**changes):
    return MnistConfig(**{**TINY, **changes})


def ran(variant, split, rate=0.5, seed=0, test=False, **changes):
    return train(job(config(**changes), variant, split, rate, seed, test), MNIST)


# -- one run ------------------------------------------------------------------------------------


def test_a_digit_has_one_client():
    for split, held in ((FIVE, 2), (TEN, 1)):
        run = job(config(), ROLORA, split, 0.1, 0, test=True)
        examples = {name: MNIST_EXAMPLES(name) for name in ("train", "validation", "test")}
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


def MNIST_EXAMPLES(name):  # noqa: N802
    from experiments.mnist.data import mnist_examples

    return mnist_examples(MNIST, 0.1, 0)[name]


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
        run_mnist([f"data={directory}", "workers=1", override], tmp_path / "out")


# -- what is decided ----------------------------------------------------------------------------


def result(end, test=None, rounds=3):
    """Accuracy rising in a line to `end`."""
    curve = [end * (i + 1) / rounds for i in range(rounds)]
    return Ending(
        accuracy=curve, test_accuracy=test, diverged=False, bytes_up=0, bytes_down=0, seconds=0.0
    )


SPREAD = (0.0, 0.01, -0.01, 0.02, -0.02)


def runs_where(ends, grid=None, figures="rounds"):
    """Five seeds of every line around the end of its variant; jitter differs between variants."""
    settings = MnistConfig(rounds=3, figures=figures, rates=(0.01, 0.1, 1.0))
    final, chosen, table = {}, {}, {}
    for place, variant in enumerate(VARIANTS):
        jitter = [SPREAD[(i + place) % 5] / 10 for i in range(5)]
        for split in SPLITS:
            line = (variant.key, split.key)
            ends_here = [ends[variant] + SPREAD[i] + jitter[i] for i in range(5)]
            final[line] = [result(end, end) for end in ends_here]
            chosen[line] = 0.1
            for rate in settings.rates:
                for i, seed in enumerate(settings.rate_seeds):
                    end = (grid or {}).get((variant, rate), 0.5) * (1 + jitter[i])
                    table[line, rate, seed] = result(end)
    return settings, Runs(table, chosen, final)


def standings(settings, runs):
    return {claim.text: claim.standing for claim in claims(settings, runs)}


ENDS = {CENTRALISED: 0.9, GAUGE: 0.88, ROLORA: 0.8, LORA: 0.7, FLEXLORA: 0.6, FFA: 0.6}
PAIRS = {
    "RoLoRA ends above LoRA": (ROLORA, LORA),
    "RoLoRA ends above FFA-LoRA": (ROLORA, FFA),
    "LoRA ends above FFA-LoRA or near it": (LORA, FFA),
    "The orthonormal gauge ends above RoLoRA": (GAUGE, ROLORA),
}


def test_claims_hold_where_the_numbers_say_so():
    found = standings(*runs_where(ENDS))
    for start in PAIRS:
        told = [standing for text, standing in found.items() if text.startswith(start)]
        assert told == ["holds"] * 2
    # A third of the way up the gauge is far below RoLoRA's end.
    late = [s for text, s in found.items() if text.startswith("The orthonormal gauge has after 1")]
    assert late == ["does not hold"] * 2


@pytest.mark.parametrize("start", PAIRS)
def test_claims_fail_where_the_numbers_say_so(start):
    better, worse = PAIRS[start]
    found = standings(*runs_where({**ENDS, better: 0.3, worse: 0.5}))
    assert [s for text, s in found.items() if text.startswith(start)] == ["does not hold"] * 2


def test_a_tie_is_not_decided():
    found = standings(*runs_where(dict.fromkeys(VARIANTS, 0.5)))
    told = [s for text, s in found.items() if text.startswith("RoLoRA ends above LoRA")]
    assert told == ["not decided at this size"] * 2


def test_near_is_near():
    theirs = [0.5, 0.52, 0.54]
    just_below = [0.4951, 0.5149, 0.5352]
    far_below = [0.4601, 0.4799, 0.5002]
    assert not_below(just_below, theirs, 0.01)[0] == "holds"
    assert not_below(just_below, theirs, 0.0)[0] == "does not hold"
    assert not_below(far_below, theirs, 0.01)[0] == "does not hold"
    assert "paired difference -0.00493" in not_below(just_below, theirs, 0.01)[1]


def test_range_of_good_rates():
    rates = (0.01, 0.1, 1.0, 10.0)
    assert good_rates(rates, (0.1, 0.8, 0.9, 0.2), 0.0) == (1.0, 1.0)
    assert good_rates(rates, (0.9, 0.9, 0.9, 0.9), 0.02) == (0.01, 10.0)
    low, high = good_rates(rates, (0.1, 0.8, 0.9, 0.2), 0.05)
    assert low == pytest.approx(10**-0.5)  # half way from 0.9 to 0.8, in the logarithm
    assert high == pytest.approx(10 ** (0.05 / 0.7))
    # A second hill beyond a valley does not count.
    assert good_rates(rates, (0.9, 0.1, 0.89, 0.1), 0.02)[0] == 0.01
    assert good_rates(rates, (0.9, 0.1, 0.89, 0.1), 0.02)[1] < 0.1


def test_the_wider_range_is_found():
    narrow, wide = (0.2, 0.8, 0.2), (0.79, 0.8, 0.79)
    grid = {
        (variant, rate): value
        for variant in VARIANTS
        for rate, value in zip(
            (0.01, 0.1, 1.0), wide if variant in (GAUGE, ROLORA) else narrow, strict=True
        )
    }
    settings, runs = runs_where(ENDS, grid, figures="both")
    found = standings(settings, runs)
    for worse in ("LoRA (FedAvg)", "FFA-LoRA"):
        told = [
            s
            for text, s in found.items()
            if text.endswith(
                tuple(f"learning rates than {worse} ({split.words})" for split in SPLITS)
            )
        ]
        assert told == ["holds"] * 2


def test_a_rate_at_the_end_of_the_grid_is_marked():
    settings, runs = runs_where(ENDS)
    runs.chosen[ROLORA.key, FIVE.key] = 1.0
    split_table = next(t for t in tables(settings, runs) if "5 clients" in t.title)
    cells = {row[0]: row[1] for row in split_table.rows}
    assert cells["RoLoRA"] == "1 (end of the grid)"
    assert cells["FFA-LoRA"] == "0.1"


# -- the whole experiment -----------------------------------------------------------------------


def digits_directory(directory):
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", MNIST.train), ("t10k", MNIST.test)):
        images = part.images.reshape(-1, 28, 28)
        (directory / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (directory / f"{name}-labels-idx1-ubyte").write_bytes(idx(part.labels))
    return directory


def overrides(directory, **changes):
    settings = {**TINY, "rates": [0.05, 0.2], "seeds": [0, 1], "rate_seeds": [100]}
    settings |= {"data": digits_directory(directory / "digits"), "workers": 1, **changes}
    return [f"{key}={value}" for key, value in settings.items()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished experiment with both figures."""
    directory = tmp_path_factory.mktemp("mnist")
    said = StringIO()
    settings = overrides(directory, figures="both", rounds=3)
    found = run_mnist(settings, directory / "out", Console(file=said, width=200))
    return settings, found, said.getvalue()


def test_what_it_leaves(finished):
    _, found, said = finished
    assert {path.name for path in found.out.iterdir()} == {
        "cells",
        "report.md",
        "report.json",
        "mnist.png",
        "mnist.svg",
        "mnist_rates.png",
        "mnist_rates.svg",
    }
    # 12 lines at 2 rates to tune them, then each at its rate with 2 seeds.
    assert len(list((found.out / "cells").iterdir())) == 12 * 2 + 12 * 2
    page = (found.out / "report.md").read_text()
    source = "MNIST from IDX files, 300 and 100 digits"
    assert source in page
    assert "numbers are not known here" in page
    for claim in found.claims:
        assert claim.text in page
        assert claim.text.split(" (")[0][:60] in said
    report = json.loads((found.out / "report.json").read_text())
    assert len(report["results"]["final"]) == 12
    assert len(report["results"]["grid"]) == 12 * 2
    rate = report["results"]["final"]["rolora 5x2"]["rate"]
    tuned = {
        item["rate"]: item["validation"]
        for item in report["results"]["grid"]
        if (item["variant"], item["split"], item["seed"]) == ("rolora", "5x2", 100)
    }
    assert tuned[rate] == max(tuned.values())


def test_finished_cells_are_not_run_again(finished, monkeypatch):
    settings, found, _ = finished
    before = (found.out / "report.md").read_bytes()
    monkeypatch.setattr(mnist_train, "train", None)
    again = run_mnist(settings, found.out)
    assert again.claims == found.claims
    assert (found.out / "report.md").read_bytes() == before


def test_a_lost_or_damaged_cell_is_run_again_alone(finished, monkeypatch):
    settings, found, _ = finished
    cells = sorted((found.out / "cells").iterdir())
    lost, damaged = cells[0], cells[-1]
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-40])
    trained = []
    monkeypatch.setattr(
        mnist_train, "train", lambda job, mnist: trained.append(job.name) or train(job, mnist)
    )
    said = StringIO()
    again = run_mnist(settings, found.out, Console(file=said, width=200))
    assert len(trained) == 2
    assert f"{damaged.name}: damaged" in said.getvalue()
    assert again.claims == found.claims


def test_other_digits_are_other_cells(finished, tmp_path, monkeypatch):
    settings, found, _ = finished
    trained = []
    monkeypatch.setattr(
        mnist_train, "train", lambda job, mnist: trained.append(job.name) or result(0.5, 0.5, 3)
    )
    other = digits_directory(tmp_path / "digits")
    labels = other / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x00")
    run_mnist([*settings, f"data={other}"], tmp_path / "out")
    assert len(trained) == 12 * 2 + 12 * 2
    for path in (tmp_path / "out" / "cells").iterdir():
        assert not (found.out / "cells" / path.name).exists()


def test_listed():
    assert "Figure 2" in EXPERIMENTS["mnist"].title


@pytest.mark.slow
def test_processes_give_the_same_numbers(finished, tmp_path):
    settings, found, _ = finished
    parallel = run_mnist([*settings, "workers=2"], tmp_path / "out")
    assert parallel.claims == found.claims
    assert parallel.tables == found.tables


@pytest.fixture(scope="module")
def slower(tmp_path_factory):
    """A finished experiment whose runs take long enough for a signal to come in between."""
    directory = tmp_path_factory.mktemp("slower")
    settings = overrides(directory, figures="both", rounds=3, local_steps=100)
    return settings, run_mnist(settings, directory / "out")


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_and_resumed(slower, tmp_path, sign):
    settings, found = slower
    out = tmp_path / "out"
    run = [*settings, "workers=2"]
    command = [sys.executable, "-m", "rolora", "reproduce", "mnist", *run, "--out", str(out)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (out / "cells").exists() and any((out / "cells").glob("*.json")))
        children = psutil.Process(process.pid).children(recursive=True)
        # A terminal sends Ctrl-C to the whole group, a kill reaches the parent alone.
        os.killpg(process.pid, sign) if sign == signal.SIGINT else process.send_signal(sign)
        assert process.wait(timeout=300) != 0
        gone, alive = psutil.wait_procs(children, timeout=300)
        assert gone
        assert not alive
    finally:
        process.kill()
    kept = {path.name for path in (out / "cells").glob("*.json")}
    assert 0 < len(kept) < 48
    resumed = run_mnist(settings, out)
    assert resumed.claims == found.claims
    assert kept <= {path.name for path in (out / "cells").iterdir()}


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
