"""What the readings say: claims, tables, the report's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from experiments.claims import Claim, compared, mean_std
from experiments.reconstruction.config import DEFENCES, NONE, Case, Factor, ReconstructionConfig
from experiments.reconstruction.runs import Result, Results
from experiments.report import Table

SOURCE = "beyond the paper"


def over_seeds(
    results: Results, factor: Factor, rank: int, batch: int, defence: str
) -> dict[int, Result]:
    """The finished readings of a place in the table, by seed."""
    wanted = (factor, rank, batch, defence)
    return {
        case.seed: result
        for case, result in results.items()
        if (case.factor, case.rank, case.batch, case.defence) == wanted
    }


def claims(config: ReconstructionConfig, results: Results) -> Iterator[Claim]:
    """Of one sentence: whether an update tells more than guessing, and whether a defence keeps
    something back; corrected for their number.
    """
    asked: dict[str, tuple[list[float], list[float]]] = {}
    for rank in config.ranks:
        for factor in config.factors:
            found = list(over_seeds(results, factor, rank, 1, NONE).values())
            if found:
                text = f"{factor}'s update at rank {rank} tells more of a sentence than a guess"
                asked[text] = [r["found"] for r in found], [r["guessed"] for r in found]
    rank = config.ranks[0]
    for factor in config.defended:
        open_ = over_seeds(results, factor, rank, 1, NONE)
        for defence in config.defences:
            behind = over_seeds(results, factor, rank, 1, defence)
            seeds = sorted(set(open_) & set(behind))
            if defence == NONE or not seeds:
                continue
            text = f"{DEFENCES[defence].label}: less comes back of {factor} at rank {rank}"
            ours, theirs = ([of[seed]["found"] for seed in seeds] for of in (open_, behind))
            asked[text] = ours, theirs
    return compared(asked, SOURCE)


def tables(config: ReconstructionConfig, results: Results) -> Iterator[Table]:
    """Undefended by factor, rank and batch; behind each defence."""
    columns = tuple(f"{n} sentence{'s' if n > 1 else ''}" for n in config.batches)
    rows = [
        (f"{factor}, rank {rank}", *_row(config, results, factor, rank, NONE))
        for factor in config.factors
        for rank in config.ranks
    ]
    guesses = [
        _of([r["guessed"] for case, r in results.items() if (case.batch, case.defence) == at])
        for at in ((batch, NONE) for batch in config.batches)
    ]
    words = "Tokens of a batch that come back, in percent (of those read, how many are right)"
    rows.append(("the most frequent tokens, unseen", *guesses))
    yield Table(f"{words}, undefended", ("", *columns), tuple(rows))
    for factor in config.defended:
        rows = [
            (
                DEFENCES[defence].label,
                *_row(config, results, factor, config.ranks[0], defence),
            )
            for defence in config.defences
        ]
        title = f"{words}, {factor} at rank {config.ranks[0]}, behind a defence"
        yield Table(title, ("", *columns), tuple(rows))


def _row(
    config: ReconstructionConfig, results: Results, factor: Factor, rank: int, defence: str
) -> Iterator[str]:
    for batch in config.batches:
        found = over_seeds(results, factor, rank, batch, defence).values()
        right = fmean(r["right"] for r in found) if found else 0.0
        shown = _of([r["found"] for r in found])
        yield f"{shown} ({100 * right:.0f})" if found else shown


def _of(shares: list[float]) -> str:
    return mean_std([100 * share for share in shares]) if shares else "-"


def summary(config: ReconstructionConfig, results: Results) -> str:
    """What was read, as a paragraph or two."""
    wanted = list(config.cases())
    missing = sum(case not in results for case in wanted)
    tokens = {
        batch: fmean([r["tokens"] for case, r in results.items() if case.batch == batch] or [0.0])
        for batch in config.batches
    }
    return (
        f"What a server reads off the update of one site, whose adapters sit in all layers: "
        f"{config.model.name} on {config.data.name or config.data.path}, texts of at most "
        f"{config.length} tokens, LoRA on queries and values. The attack is DAGER's span check, "
        f"with matching pursuit where the update has fewer dimensions than the batch has tokens; "
        f"it knows the model, the factors that the site started from, the longest text and how "
        f"many tokens the batch has, and the size of any noise. The run has gone on for "
        f"{config.before} rounds of AdamW, one more where A trains. A token of a batch comes back "
        f"where it is among those read, wherever it stands; separators do not count. Different "
        f"tokens in a batch without defence: "
        + ", ".join(f"{n:.0f} ({batch})" for batch, n in tokens.items())
        + f".\n\nThe mean over {config.sites} sites at each of {len(config.seeds)} seeds, spread "
        f"over seeds. "
        + (f"{missing} of {len(wanted)} cells are not finished." if missing else "All is here.")
    )


def results_table(results: Results) -> Mapping[str, Any]:
    """All readings, JSON-able."""
    return {"readings": [{**_place(case), **result} for case, result in results.items()]}


def _place(case: Case) -> dict[str, Any]:
    keys = ("factor", "rank", "batch", "defence", "seed")
    return {key: getattr(case, key) for key in keys}
