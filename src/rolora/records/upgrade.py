"""Files of schema 1, from before scores had names, as today's."""

from __future__ import annotations

from typing import Any

from rolora.records.schema import CLASSIFICATION, Comparison, RoundRecord, Summary

Raw = dict[str, Any]
MEASURES = ("bytes_up", "bytes_down", "seconds", "seeds", "title", "collapsed", "failures")


def upgraded(raw: Raw, kind: type) -> Raw:
    """`raw`, a JSON object of schema 1, as one of the schema that `kind` is of."""
    upgrades = {RoundRecord: _round, Summary: _summary, Comparison: _comparison}
    return upgrades[kind](raw) if kind in upgrades else raw


def _scores(raw: Raw, prefix: str) -> Raw:
    """``{prefix}_accuracy`` and ``{prefix}_loss`` by name, of those that are known."""
    found = {name: raw.get(f"{prefix}_{name}") for name in ("accuracy", "loss")}
    return {name: score for name, score in found.items() if score is not None}


def _round(raw: Raw) -> Raw:
    known = {"phase": "", "train_loss": None, "clients": 0, "cohort": 0}
    sent = {"bytes_up": 0, "bytes_down": 0}
    return {**known, **sent, **raw, "validation": _scores(raw, "eval") or None}


def _summary(raw: Raw) -> Raw:
    method, data, model = (dict(raw.get(key) or {}) for key in ("method", "data", "model"))
    final, best = dict(raw.get("final") or {}), raw.get("best")
    name = method.get("name") or ""
    method |= {"name": name, "title": method.get("title") or name}
    method["exactness"] = method.get("exact") or ""
    method["personal"] = method["exactness"] == "personalised"
    constant = raw.get("majority_accuracy")
    return {
        "bytes_up": 0,
        "bytes_down": 0,
        "failures": 0,
        **raw,
        "task": CLASSIFICATION.model_dump(),
        "method": method,
        "data": {"name": "", **data},
        "model": {"name": "", **model},
        "strata": {
            "names": data.get("label_names", ()),
            "table": raw.get("label_table", ()),
        },
        "clients": [
            {**client, "scores": {"accuracy": client.get("accuracy")}}
            for client in raw.get("client_accuracy", ())
        ],
        "final": {
            "round": final.get("round", 0),
            "validation": _scores(final, "eval"),
            "test": _scores(final, "test"),
        },
        "best": best and {**best, "validation": _scores(best, "eval")},
        "constant": {} if constant is None else {"accuracy": constant},
        "prediction_shares": raw.get("predicted_label_shares", ()),
    }


def _comparison(raw: Raw) -> Raw:
    measures = {"test_accuracy": "test", "final_eval_accuracy": "validation"}
    return {
        **raw,
        "task": CLASSIFICATION.model_dump(),
        "constant": {seed: {"accuracy": share} for seed, share in raw["majority_accuracy"].items()},
        "methods": {
            name: {
                **{key: method[key] for key in MEASURES},
                **{new: {"accuracy": method[old]} for old, new in measures.items()},
                "best": method["best_eval_accuracy"],
            }
            for name, method in raw["methods"].items()
        },
        "differences": [
            {**difference, "split": measures[difference["measure"]], "metric": "accuracy"}
            for difference in raw["differences"]
        ],
    }
