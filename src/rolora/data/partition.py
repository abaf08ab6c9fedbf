"""Who holds which examples: lists of indices, a pure function of the seed.

Every draw comes from NumPy's PCG64 with a named seed, so that one seed gives one split on every
machine, for every method, whatever torch does.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rolora.config import PartitionConfig
from rolora.core.errors import BadInput
from rolora.core.seeds import numpy_generator
from rolora.data.columns import missing

Ints = np.ndarray
_IID_ALPHA = 1e9
"""Beyond this a Dirichlet draw is uniform to rounding, and its gamma variates may overflow."""


def partition(
    strata: Tensor | np.ndarray,
    config: PartitionConfig,
    clients: int,
    seed: int,
    field: Sequence[object] | None = None,
) -> list[Tensor]:
    """Deal `n` examples out to `clients` clients.

    - ``iid``: a random deal of equal sizes.
    - ``dirichlet``: the examples of each stratum go to clients in proportions drawn from a
      symmetric Dirichlet(`dirichlet_alpha`); sizes differ (Yurochkin et al., 2019, after Hsu et
      al., 2019, arXiv:1909.06335).
    - ``shards``: sorted by stratum, cut into `shards_per_client` equal shards for each client,
      dealt at random (McMahan et al., 2017, arXiv:1602.05629).
    - ``field``: all examples with one value of `field` go to one client, client ``k`` holds the
      ``k``-th value in sorted order; with ``config.merge`` there may be more values than clients,
      which are dealt so that sizes balance.

    Where a drawn split leaves a client with fewer than ``config.min_examples``, examples drawn
    from the largest clients fill it up.

    Args:
        strata: int ``[n]``, from 0: the labels of a classification, whatever the task names else.
        config: the kind of split and its numbers.
        clients: number of clients.
        seed: the run's seed.
        field: the values of ``config.field``, `n` of them; needed by ``field`` alone.

    Returns:
        for each client its examples, int64, sorted; disjoint, together all of ``0 .. n - 1``.

    Raises:
        BadInput: too few examples for so many clients, another number of values of the field
            than of clients, or a value of it that is missing or rare.
    """
    classes = np.asarray(strata, dtype=np.int64)
    _check_enough(len(classes), clients, config.min_examples)
    rng = numpy_generator(seed, "partition")
    if config.name == "field":
        return _parts(_field_owner(field, config, len(classes), clients), clients)
    if config.name == "iid":
        owner = _deal(rng.permutation(len(classes)), clients)
    elif config.name == "shards":
        owner = _shards_owner(classes, clients, config.shards_per_client, rng)
    else:
        owner = _dirichlet_owner(classes, clients, config.dirichlet_alpha, rng)
    return _parts(_fill_up(owner, clients, config.min_examples, rng), clients)


def _check_enough(n: int, clients: int, least: int) -> None:
    if n < clients * least:
        raise BadInput(
            f"federation.clients = {clients}: needs {clients * least} training examples "
            f"(partition.min_examples = {least} each), the data have {n}; take fewer clients or "
            "more data"
        )


def assign_like(
    train_parts: Sequence[Tensor],
    train_strata: Tensor | np.ndarray,
    held_strata: Tensor | np.ndarray,
    seed: int,
    train_field: Sequence[object] | None = None,
    held_field: Sequence[object] | None = None,
) -> list[Tensor]:
    """Deal held-out examples out so that each client's follow its training examples.

    A held-out example of stratum ``c`` goes to client ``k`` with a probability proportional to the
    number of training examples of stratum ``c`` that ``k`` holds. The draws of one stratum are
    systematic (one uniform offset), so that the counts are within one of their expectation. With
    the two fields, an example goes to the client that trains on its value of the field; a value
    that no client trains on goes to none.

    Args:
        train_parts: each client's training examples, as :func:`partition` gives them.
        train_strata: int ``[n]``.
        held_strata: int ``[m]``.
        seed: the run's seed.
        train_field: for a split by field, its `n` values.
        held_field: its `m` values.

    Returns:
        for each client its held-out examples, int64, sorted and disjoint; possibly none.
    """
    held = np.asarray(held_strata, dtype=np.int64)
    clients = len(train_parts)
    if train_field is not None and held_field is not None:
        owner_of = {
            train_field[i]: client for client, rows in enumerate(train_parts) for i in rows.tolist()
        }
        return _parts(np.array([owner_of.get(v, clients) for v in held_field], int), clients)
    train = np.asarray(train_strata, dtype=np.int64)
    num_strata = int(max(train.max(initial=0), held.max(initial=0))) + 1
    table = strata_table(train_parts, train, num_strata)
    rng = numpy_generator(seed, "held-out")
    owner = np.empty(len(held), dtype=np.int64)
    for stratum in np.unique(held):
        weights = table[:, stratum] if table[:, stratum].any() else table.sum(1)
        rows = rng.permutation(np.flatnonzero(held == stratum))
        total = weights.sum()
        at = (np.arange(len(rows)) + rng.random()) * (total / len(rows))
        inside = np.minimum(at, np.nextafter(total, 0))  # against a last draw rounded up
        owner[rows] = np.searchsorted(weights.cumsum(), inside, side="right")
    return _parts(owner, clients)


def strata_table(
    parts: Sequence[Tensor], strata: Tensor | np.ndarray, num_strata: int
) -> np.ndarray:
    """How many examples of each stratum each client holds, int64 ``[clients, num_strata]``."""
    classes = np.asarray(strata, dtype=np.int64)
    owner = np.repeat(np.arange(len(parts)), [len(rows) for rows in parts])
    held = classes[torch.cat(list(parts)).numpy()] if parts else classes[:0]
    counts = np.bincount(owner * num_strata + held, minlength=len(parts) * num_strata)
    return counts.reshape(len(parts), num_strata)


def _parts(owner: Ints, clients: int) -> list[Tensor]:
    """The sorted indices of each client; an owner of `clients` or more is nobody."""
    order = np.argsort(owner, kind="stable")
    sizes = np.bincount(owner, minlength=clients)[:clients]
    return list(torch.from_numpy(order[: sizes.sum()]).split(sizes.tolist()))


def _deal(order: Ints, hands: int) -> Ints:
    """The hand of each index when `order` is cut into `hands` runs of equal size, or one more."""
    size, longer = divmod(len(order), hands)
    hand = np.empty(len(order), dtype=np.int64)
    hand[order] = np.repeat(np.arange(hands), size + (np.arange(hands) < longer))
    return hand


def _shards_owner(classes: Ints, clients: int, each: int, rng: np.random.Generator) -> Ints:
    shards = clients * each
    if len(classes) < shards:
        raise BadInput(
            f"partition.shards_per_client = {each}: {clients} clients need {shards} shards, the "
            f"data have only {len(classes)} training examples"
        )
    shuffled = rng.permutation(len(classes))
    by_stratum = shuffled[np.argsort(classes[shuffled], kind="stable")]
    return _deal(rng.permutation(shards), clients)[_deal(by_stratum, shards)]


def _dirichlet_owner(classes: Ints, clients: int, alpha: float, rng: np.random.Generator) -> Ints:
    owner = np.empty(len(classes), dtype=np.int64)
    for stratum in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == stratum))
        share = rng.dirichlet(np.full(clients, min(alpha, _IID_ALPHA)))
        ends = np.rint(share.cumsum() * len(rows)).astype(np.int64)
        ends[-1] = len(rows)
        owner[rows] = np.repeat(np.arange(clients), np.diff(ends, prepend=0))
    return owner


def _field_owner(
    field: Sequence[object] | None, config: PartitionConfig, n: int, clients: int
) -> Ints:
    if field is None or len(field) != n:
        raise ValueError("a partition by field needs the field's value for every example")
    check_field(field, config, "the training examples")
    values = sorted(set(field), key=lambda value: (type(value).__name__, value))
    if len(values) < clients or (len(values) > clients and not config.merge):
        merge = ", or partition.merge = true to have several lie with one client"
        raise BadInput(
            f"partition.field = {config.field!r}: has {len(values)} different values, and each is "
            f"a client of its own, but federation.clients = {clients}; take federation.clients = "
            f"{len(values)}{merge if len(values) > clients else ', or fewer'}"
        )
    index = {value: i for i, value in enumerate(values)}
    value_of = np.array([index[value] for value in field])
    return _balanced(np.bincount(value_of), clients)[value_of]


def check_field(field: Sequence[object], config: PartitionConfig, source: str) -> None:
    """Refuse a field by which clients cannot be told apart.

    Args:
        field: the value of ``config.field`` in each row.
        config: of the partition.
        source: where the rows lie, for messages.

    Raises:
        BadInput: a row has no value, or a value stands in fewer than ``config.min_examples``.
    """
    where = f"partition.field = {config.field!r}"
    for row, value in enumerate(field, 1):
        if missing(value):
            raise BadInput(
                f"{where}: row {row} of {source} has no value; fill it in, leave the row out, or "
                "partition by another field"
            )
    rare = [(v, n) for v, n in Counter(field).items() if n < config.min_examples]
    if rare:
        value, count = rare[0]
        rows = "1 row" if count == 1 else f"{count} rows"
        more = f"; {len(rare) - 1} other values are as rare" if len(rare) > 1 else ""
        raise BadInput(
            f"{where}: the value {value!r:.60} stands in {rows} of {source} (the first is row "
            f"{field.index(value) + 1}{more}), and partition.min_examples = "
            f"{config.min_examples} asks for more; leave it out, write it as another value, or "
            "take a smaller min_examples"
        )


def _balanced(sizes: Ints, clients: int) -> Ints:
    """Deal items of `sizes`, largest first, each to the client that holds least so far.

    Clients are then numbered by their first item.
    """
    load = [(0, client) for client in range(clients)]
    owner = np.empty(len(sizes), dtype=np.int64)
    for item in np.argsort(-sizes, kind="stable"):
        held, client = load[0]
        owner[item] = client
        heapq.heapreplace(load, (held + int(sizes[item]), client))
    _, first = np.unique(owner, return_index=True)
    number = np.empty(clients, dtype=np.int64)
    number[np.argsort(first)] = np.arange(clients)
    return number[owner]


def _fill_up(owner: Ints, clients: int, least: int, rng: np.random.Generator) -> Ints:
    """Give every client `least` examples, at the cost of the largest.

    The largest are cut down to one level, as high as the need allows; which of their examples go
    is drawn at random.
    """
    sizes = np.bincount(owner, minlength=clients)
    need = np.maximum(least - sizes, 0)
    if not need.any():
        return owner
    give = np.maximum(sizes - _level(sizes, int(need.sum())), 0)
    spare = give.sum() - need.sum()
    give[np.flatnonzero(give)[:spare]] -= 1
    shuffled = rng.permutation(len(owner))
    by_owner = shuffled[np.argsort(owner[shuffled], kind="stable")]
    place = np.arange(len(owner)) - np.repeat(sizes.cumsum() - sizes, sizes)
    moved = rng.permutation(by_owner[place < np.repeat(give, sizes)])
    filled = owner.copy()
    filled[moved] = np.repeat(np.arange(clients), need)
    return filled


def _level(sizes: Ints, need: int) -> int:
    """The highest level above which the clients together hold at least `need` examples."""
    low, high = 0, int(sizes.max())
    while high - low > 1:
        middle = (low + high) // 2
        if np.maximum(sizes - middle, 0).sum() >= need:
            low = middle
        else:
            high = middle
    return low
