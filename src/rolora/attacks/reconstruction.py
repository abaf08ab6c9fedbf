"""Reading the tokens of a batch off one update: gradient inversion by the first layer's inputs.

A step of SGD on T tokens moves the factors of an adapted layer by

    ``dA = -lr s sum_t (B^T g_t) x_t^T``  and  ``dB = -lr s sum_t g_t (A x_t)^T``,

with x_t a token's input and g_t the loss's gradient at its output. Whatever g_t is, the rows of dA
lie in the span of the x_t, and those of dB in the span of the A x_t. In the first layer x_t is a
function of the token and its place, so that whoever has the model knows all there are, and can tell
which lie in that span (Petrov et al., DAGER, NeurIPS 2024, arXiv 2405.15586, section 4).

An update of rank r has no more than r dimensions a module, and a batch has more tokens. Then no
token lies in what is seen of the span, but some lie nearer to it than others: they are taken one by
one, the nearest first, each time to what those before leave of the update (orthogonal matching
pursuit by subspace: Davies and Eldar, Rank Awareness in Joint Sparse Recovery, IEEE Transactions on
Information Theory 58, 2012, RA-ORMP; for gradients Li and Li, SOMP, arXiv 2603.16761). Where every
token lies in the span, the two are one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rolora.client.batches import batch_rows
from rolora.core.errors import BadInput
from rolora.core.types import Adapter, ServerState, Update
from rolora.engines.preparation import Prepared, build_engine
from rolora.model.lora import LoraModel
from rolora.stages import change

AT_A_TIME = 512
"""Tokens whose inputs are asked for at a time."""
KEPT = 16384
"""Of all tokens and places, those that are looked at again after the first time."""
PASSES = 32
"""Looks at them, at the most: of large batches several tokens are taken at a look."""
ROUNDING = 2.0**-25
"""Relative error of float32, in which parts travel, in the root mean square."""


@dataclass(frozen=True)
class Inputs:
    """What the first adapted layer sees.

    Args:
        vectors: ``[V, P, d]``, of each token at each place; P is 1 where the place does not matter.
        modules: those that see it.
    """

    vectors: Tensor
    modules: tuple[str, ...]

    @cached_property
    def squares(self) -> Tensor:
        """Squared lengths, ``[V P]``."""
        return torch.linalg.vector_norm(self.vectors.flatten(0, 1), dim=1).square()

    @cached_property
    def middle(self) -> Tensor:
        """The mean, ``[d]``."""
        return self.vectors.mean((0, 1))

    @staticmethod
    def of(model: LoraModel, places: int) -> Inputs:
        """Those of `model`, whose adapters are put at rest, for texts of so many tokens.

        Raises:
            BadInput: the lowest adapted layer sees more of a text than a token and its place.
        """
        resting = model.initial_adapter(1, 0)
        model.mount({key: tensor[None] for key, tensor in resting.items()}, [1.0])
        embeddings: Any = model.module.get_input_embeddings()  # type: ignore[operator]
        first, others = torch.full((2, places), 1), torch.full((2, places), 1)
        others[:, :-1] = 2  # all that the last one of a decoder's tokens could see
        (alone, modules), (among, _) = _seen(model, first), _seen(model, others)
        if not torch.allclose(alone[:, -1], among[:, -1], atol=1e-5):
            raise BadInput(
                f"lora.layers: {modules[0]} sees what other layers made of a whole text; tokens "
                "can be read off the first layer alone"
            )
        if torch.equal(alone[0, :1].expand(places, -1), alone[0]):
            places = 1  # they come in later, as in decoders with rotary positions
        tokens = torch.arange(embeddings.num_embeddings)[:, None].expand(-1, places)
        pieces = [_seen(model, ids, 1)[0] for ids in tokens.split(AT_A_TIME)]
        return Inputs(torch.cat(pieces), modules)


@dataclass(frozen=True)
class Upload:
    """What a server sees of one client in a round, and what it does not see.

    Args:
        change: of the uploaded parts, as it was decoded.
        start: the parts that it is the change of.
        rows: the numbers of the examples that it was made of.
    """

    change: Adapter
    start: Adapter
    rows: Tensor

    @staticmethod
    def of(prepared: Prepared, state: ServerState, client: int) -> Upload:
        """That of `client` in the round after `state`, trained as `prepared` says."""
        config, engine = prepared.config, build_engine(prepared)
        up = engine.runtime.up
        plan = prepared.method.plan(state, prepared.client(client))
        start = engine.job(plan).start
        (update,) = engine.train([plan])
        assert isinstance(update, Update)
        wanted = start.select(plan.upload).layout
        moved = up.decode(update, wanted).parts if up else change(update.parts, start)
        shares = prepared.shares["train"][client]
        rows = torch.cat(batch_rows(shares, plan, config.optimizer, config.seed)).unique()
        return Upload(moved, start, rows)


class _Enough(Exception):  # noqa: N818
    """Of a forward pass, once the inputs are seen."""


def _seen(model: LoraModel, ids: Tensor, most: int = 99) -> tuple[Tensor, tuple[str, ...]]:
    """What the first adapted layer is given for texts ``[n, P]``, float32 ``[n, P, d]``, and those
    of its modules, up to `most`, that are given it.
    """
    found: dict[str, Tensor] = {}

    def look(name: str, given: Tensor) -> None:
        if any(given is not other for other in found.values()):
            raise _Enough
        found[name] = given
        if len(found) == most:
            raise _Enough

    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: look(name, given[0]))
        for name, layer in model.layers.items()
    ]
    try:
        with torch.no_grad():
            model.module(input_ids=ids, attention_mask=torch.ones_like(ids))
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return next(iter(found.values())).float(), tuple(found)


class View:
    """One matrix of an update, and the vectors of which its rows are made.

    Args:
        rows: ``[m, k]``, combinations of some of `atoms` and noise.
        atoms: ``[N, k]``.
        squares: their squared lengths, ``[N]``.
        noise: the standard deviation of each number's noise.
    """

    def __init__(self, rows: Tensor, atoms: Tensor, squares: Tensor, noise: float):
        self.rows, self.atoms, self.left = rows.double(), atoms, squares
        self.least = 1e-6 * self.left
        self.taken = rows.new_zeros(0, rows.shape[1], dtype=torch.float64)
        # The largest singular value of the noise alone (Davidson and Szarek, 2001).
        self.floor = noise * sum(map(math.sqrt, rows.shape))

    def directions(self) -> Tensor:
        """An orthonormal basis ``[q, k]`` of what is left of the rows and is not noise; empty where
        every direction is left, which tells nothing.
        """
        _, sizes, basis = torch.linalg.svd(self.rows, full_matrices=False)
        basis = basis[sizes > self.floor]
        return basis[:0] if len(basis) + len(self.taken) >= basis.shape[1] else basis

    def nearness(self, directions: Tensor) -> Tensor:
        """How much of what is left of each atom lies in `directions`: ``[N]`` in [0, 1]."""
        inside = (self.atoms @ directions.T.float()).square().sum(1)
        return inside / self.left.clamp(min=self.least)

    def take(self, vector: Tensor) -> None:
        """Leave no more of rows and atoms than what is orthogonal to `vector` as well."""
        rest = vector.double()
        for _ in range(2):  # once leaves rounding errors of the size of what is taken away
            rest = rest - self.taken.T @ (self.taken @ rest)
        unit = rest / rest.norm().clamp(min=torch.finfo(torch.float64).tiny)
        self.taken = torch.cat([self.taken, unit[None]])
        self.rows = self.rows - torch.outer(self.rows @ unit, unit)
        self.left = self.left - (self.atoms @ unit.float()).square()

    def keep(self, chosen: Tensor) -> None:
        """Forget all other atoms."""
        self.atoms, self.left, self.least = (
            each[chosen] for each in (self.atoms, self.left, self.least)
        )


def views_of(change: Adapter, start: Adapter, inputs: Inputs, noise: float) -> list[View]:
    """The matrices of a change that tell of the first layer's inputs: A's together, B's each by its
    own A; without what all inputs have in common, which does not tell them apart.
    """
    views, atoms = [], inputs.vectors.flatten(0, 1)
    if "A" in change.parts:
        rows = torch.cat([change[module, "A"] for module in inputs.modules])
        before = torch.cat([start[module, "A"] for module in inputs.modules])
        rounding = ROUNDING * float(before.square().mean().sqrt())
        views.append(View(rows, atoms, inputs.squares, noise + rounding))
        views[0].take(inputs.middle)
    if "B" in change.parts:
        for module in inputs.modules:
            rows, before = change[module, "B"], start[module, "B"]
            rounding = ROUNDING * float(before.square().mean().sqrt())
            images = atoms @ start[module, "A"].T
            views.append(View(rows, images, images.square().sum(1), noise + rounding))
            views[-1].take(inputs.middle @ start[module, "A"].T)
    return views


def read(
    change: Adapter, start: Adapter, inputs: Inputs, most: int, noise: float = 0.0
) -> list[tuple[int, int]]:
    """The tokens that a change was made of, as far as they can be told, each with its place, in the
    order in which they were found.

    Args:
        change: of A, of B or of both, by one client or a sum of several.
        start: the parts that it is the change of, A and B.
        inputs: of the model.
        most: tokens that the batch may have.
        noise: the standard deviation of what was added to each number of the change, as far as it
            is known.
    """
    views, places = views_of(change, start, inputs, noise), inputs.vectors.shape[1]
    numbers = torch.arange(inputs.vectors.shape[:2].numel())
    found: list[int] = []
    while len(found) < most:
        scores = _nearness(views)
        if scores is None:
            break
        scores[found] = -1.0
        if not found and len(scores) > KEPT:
            scores, chosen = scores.topk(KEPT)
            numbers = numbers[chosen]
            for view in views:
                view.keep(chosen)
        for atom in _best(scores, numbers // places, min(-(-most // PASSES), most - len(found))):
            found.append(atom)
            for view in views:
                view.take(view.atoms[atom])
    return [divmod(int(number), places) for number in numbers[found]]


def _best(scores: Tensor, tokens: Tensor, count: int) -> list[int]:
    """The places of the best `count` scores of different tokens: a token looks much like itself at
    the next place until it is taken.
    """
    best: dict[int, int] = {}
    for atom in scores.argsort(descending=True).tolist():
        best.setdefault(int(tokens[atom]), atom)
        if len(best) == count:
            break
    return list(best.values())


def _nearness(views: Sequence[View]) -> Tensor | None:
    """The mean over the views that tell something; None where none does."""
    found = [(view, basis) for view in views if len(basis := view.directions())]
    if not found:
        return None
    return sum((view.nearness(basis) for view, basis in found), torch.zeros(())) / len(found)
