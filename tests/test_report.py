"""The run report and the comparison: what is in the files is on the page, and nothing else."""

import json
from pathlib import Path

import numpy as np

from rolora.config import dump_config, parse_config

STAGES = ("plan", "train", "aggregate", "evaluate", "checkpoint")
TITLES = {"rolora": "RoLoRA", "fedit": "FedIT", "ffa_lora": "FFA-LoRA", "fedsa_lora": "FedSA-LoRA"}


def make_run(
    directory: Path,
    *,
    method: str = "rolora",
    seed: int = 0,
    clients: int = 10,
    per_round: int | None = None,
    rounds: int = 20,
    done: int | None = None,
    labels: tuple[str, ...] = ("negative", "positive"),
    failures: float = 0.0,
    reach: float = 0.77,
    collapsed: bool = False,
) -> Path:
    """A run directory as `rolora run` leaves it, with made-up but plausible numbers."""
    rng = np.random.default_rng(seed)
    cohort = per_round or clients
    directory.mkdir(parents=True, exist_ok=True)
    config = parse_config(
        {
            "seed": seed,
            "rounds": rounds,
            "method": {"name": method},
            "federation": {"clients": clients, "clients_per_round": per_round},
        }
    )
    (directory / "config.yaml").write_text(dump_config(config))
    chance = 1 / len(labels)
    records = []
    for number in range(1, (rounds if done is None else done) + 1):
        progress = 1 / (1 + np.exp(-(number - 0.4 * rounds) / (0.12 * rounds)))
        accuracy = chance if collapsed else chance + (reach - chance) * progress
        failed = [
            {"client": int(c), "reason": str(rng.choice(["nan", "lost", "missing part"])),
             "detail": "B of encoder.layer.3.attention.self.query is not finite"}
            for c in rng.choice(clients, rng.binomial(cohort, failures), replace=False)
        ]  # fmt: skip
        phase = {"rolora": "B" if number % 2 else "A", "ffa_lora": "B"}.get(method, "AB")
        both = 2 if phase == "AB" else 1
        due = number % 2 == 0 or number == rounds
        loss = float(np.log(len(labels)) * (1 - 0.35 * progress) + rng.normal(0, 0.01))
        stages = dict(zip(STAGES, [0.002, 5.1, 0.03, 1.9 * due, 0.05], strict=True))
        records.append(
            {
                "round": number,
                "phase": phase,
                "train_loss": None if collapsed and number == 3 else loss,
                "eval_loss": loss + 0.02 if due else None,
                "eval_accuracy": float(accuracy + rng.normal(0, 0.008)) if due else None,
                "clients": cohort - len(failed),
                "cohort": cohort,
                "failures": failed,
                "bytes_up": 76_312 * both * (cohort - len(failed)),
                "bytes_down": 76_312 * (both + (number == 1)) * cohort,
                "seconds": stages | {"total": sum(stages.values()) + 0.02},
            }
        )
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if done is not None:
        return directory

    sizes = rng.dirichlet(np.full(clients, 2.0)) * 700 * clients + 4
    split = [
        rng.multinomial(int(n), rng.dirichlet(np.full(len(labels), 0.5))).tolist() for n in sizes
    ]
    final = records[-1]
    examples = np.maximum(1, sizes // 9).astype(int)
    local = rng.binomial(examples, final["eval_accuracy"]) / examples
    evaluated = [r for r in records if r["eval_accuracy"] is not None]
    best = max(evaluated, key=lambda r: r["eval_accuracy"])
    shares = np.full(len(labels), chance)
    if collapsed:
        shares = np.array([0.004] * (len(labels) - 1) + [1 - 0.004 * (len(labels) - 1)])
    summary = {
        "rolora_version": "0.1.0",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2",
                     "python": "3.11.2", "numpy": "2.4.6"},
        "method": {"name": method, "title": TITLES.get(method, method),
                   "travels": "B in odd rounds, A in even", "exact": "yes",
                   "citation": "Chen et al., 2025, Algorithm 1, arXiv:2502.01755"},
        "config_hash": "9f2d1c0a7b",
        "data": {"name": "rotten_tomatoes", "train": 6910, "validation": 767, "test": 853,
                 "test_from": "10% of train",
                 "label_names": list(labels), "fingerprint": f"c0ffee{seed}"},
        "model": {"name": "minilm", "type": "bert", "parameters": 22_713_986,
                  "adapter_parameters": 36_864},
        "label_table": split,
        "client_accuracy": [
            {"client": i, "examples": int(n), "accuracy": float(a)}
            for i, (n, a) in enumerate(zip(examples, local, strict=True))
        ],
        "final": {"round": rounds, "eval_accuracy": final["eval_accuracy"],
                  "eval_loss": final["eval_loss"],
                  "test_accuracy": final["eval_accuracy"] - 0.007, "test_loss": 0.512},
        "best": {"round": best["round"], "eval_accuracy": best["eval_accuracy"]},
        "majority_accuracy": chance + 0.004,
        "bytes_up": sum(r["bytes_up"] for r in records),
        "bytes_down": sum(r["bytes_down"] for r in records),
        "failures": sum(len(r["failures"]) for r in records),
        "seconds": {s: sum(r["seconds"][s] for r in records) for s in (*STAGES, "total")},
        "device": "cpu", "dtype": "float32", "threads": 2, "peak_memory_mb": 812.4,
        "command": "rolora run configs/quickstart.yaml --out runs/quickstart",
        "started": "2026-11-22T15:00:01+00:00", "finished": "2026-11-22T15:02:24+00:00",
        "predicted_label_shares": shares.tolist(),
    }  # fmt: skip
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory
