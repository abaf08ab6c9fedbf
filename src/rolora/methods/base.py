"""What every method is made of: two pure functions, `plan` and `combine`, a state, and what its
clients do beside plain training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from rolora.core.errors import BadInput
from rolora.core.rules import ClientRule
from rolora.core.types import (
    Adapter,
    ClientInfo,
    Key,
    Part,
    Plan,
    ServerState,
    Update,
    is_side,
    scaling_of,
)
from rolora.methods.fedprox import FedProx
from rolora.methods.options import Options
from rolora.reducers.base import Reducer
from rolora.reducers.mean import Mean

Exactness = Literal["yes", "no", "before truncation", "personalised"]
"""Whether the aggregate is the mean of the clients' products."""
Reduction = Literal["sum", "mean", "each"]
"""What the server needs of what the clients send: one adapter in place of many, however reduced;
their exact weighted mean; or the factors of each.
"""
WHY: Mapping[Reduction, str] = {
    "mean": "adds up what the clients send, which must be their exact mean",
    "each": "multiplies each client's factors and takes the mean of the products",
}


@dataclass(frozen=True)
class Setting:
    """What a method is told of the run, once.

    Args:
        lora_alpha: the numerator of the scaling ``lora_alpha / r``.
        max_rank: the global adapter's rank, the largest of any client.
        rounds: length of the run.
        clients: how many there are.
        head: whether the classification head is frozen, trained or local.
        mixed_ranks: clients have different ranks.
        optimizer_state: what becomes of the clients' optimiser states between rounds.
        server_optimizer: by name.
        reducer: by name.
        stages: by name, in order.
        quantization: how the base's weights are packed; None: they are plain numbers.
        server_lr: the server optimiser's learning rate.
    """

    lora_alpha: float = 16.0
    max_rank: int = 4
    rounds: int = 20
    clients: int = 1
    head: Literal["frozen", "train", "local"] = "frozen"
    mixed_ranks: bool = False
    optimizer_state: str = "reset"
    server_optimizer: str = "fedavg"
    reducer: str = "mean"
    stages: tuple[str, ...] = field(default_factory=tuple)
    quantization: str | None = None
    server_lr: float = 1.0


class Method(ABC):
    """A federated method. It never sees a model, a file or a socket.

    Class attributes are its facts: `title`, `travels` (up and down) and `citation` in words;
    `exactness`; `personal`, whether each client ends with a model of its own; `mixed_ranks`,
    whether clients may have different ranks; `merges`, whether products are added to the base's
    weights; `reduction`, what the server needs of them; `rewrites`, the parts that it makes anew in
    every round beside those that come back; `stepped`, the parts on which a server optimiser acts;
    `Options`, what may be set in a config.

    Args:
        setting: of the run; a method that a program hands over is made again with the run's own.
        options: as they were set; else their defaults.
    """

    Options: ClassVar[type[Options]] = Options
    title: ClassVar[str]
    travels: ClassVar[str]
    citation: ClassVar[str]
    exactness: ClassVar[Exactness]
    personal: ClassVar[bool] = False
    mixed_ranks: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    reduction: ClassVar[Reduction] = "sum"
    rewrites: ClassVar[frozenset[Part]] = frozenset()
    stepped: ClassVar[frozenset[Part]] = frozenset({"A", "B", "head"})

    def __init__(self, setting: Setting | None = None, options: Any = None):
        self.setting = Setting() if setting is None else setting
        self.options: Any = self.Options() if options is None else options
        self.check()

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            BadInput: with the field, its value, and what would be right.
        """
        if self.setting.mixed_ranks and not self.mixed_ranks:
            raise BadInput(
                f"lora.client_ranks: {self.title} needs one rank for all clients; rolora methods "
                "shows which take different ranks"
            )
        reducer, stages = self.setting.reducer, list(self.setting.stages)
        if self.reduction in WHY and reducer != "mean":
            raise BadInput(
                f"server.reducer = {reducer!r}: {self.title} {WHY[self.reduction]}; use mean"
            )
        if self.reduction in WHY and stages:
            raise BadInput(f"stages = {stages}: {self.title} {WHY[self.reduction]}; use none")
        if self.merges and self.setting.quantization is not None:
            raise BadInput(
                f"model.quantization = {self.setting.quantization!r}: {self.title} adds what is "
                "learned to the base's weights, and packed ones cannot hold it; leave it out, or "
                "take a method that keeps to factors (rolora, fedit, ffa_lora, flexlora)"
            )

    def init(self, adapter: Adapter) -> ServerState:
        """The state before round 1, from the initial factors (and head, where it is shared)."""
        parts = adapter if self.setting.head == "train" else adapter.without({"head"})
        return ServerState(round=0, parts=parts, versions=dict.fromkeys(parts.parts, 0))

    @abstractmethod
    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """What `client` does in round ``state.round + 1``."""

    def plans(self, state: ServerState, client: ClientInfo) -> Sequence[Plan]:
        """Every plan that `client` may be given in round ``state.round + 1``, whatever came of the
        rounds before: a site holds what it is asked against them. One, where the plan is a
        function of the round and the settings.

        Args:
            state: with the parts of the initial one, and the round.
            client: who would carry it out.
        """
        return (self.plan(state, client),)

    @abstractmethod
    def combine(self, start: ServerState, reduced: Any) -> ServerState:
        """The state after the round.

        Args:
            start: as the clients started from it (:meth:`start`).
            reduced: what the round's reducer made of their updates.
        """

    def reducer(self) -> Reducer[Any]:
        """A new reducer, for a method that needs each client's factors; else the run's is taken."""
        return Mean()

    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """The state after a round of `updates`, by the method's own reducer."""
        return self.combine(self.start(state), self.reducer().reduce(updates))

    def start(self, state: ServerState) -> ServerState:
        """The state as the clients of the next round start from it."""
        return state

    def rules(self) -> tuple[ClientRule, ...]:
        """What a client does beside plain training."""
        mu = self.options.prox_mu
        return (FedProx(mu),) if mu > 0 else ()

    def turns(self) -> bool:
        """Whether the basis of a factor changes between rounds."""
        return False

    def evaluation_plan(self, state: ServerState) -> Plan:
        """The model to evaluate after ``state.round``: everything held, nothing trained."""
        everyone = ClientInfo(id=-1, rank=self.setting.max_rank, num_examples=0)
        return self.assign(state, everyone, train=(), upload=())

    def local(self) -> frozenset[Part]:
        """The parts that every client keeps for itself."""
        return frozenset({"head"} if self.setting.head == "local" else ())

    def scaling(self, rank: int) -> float:
        """``lora_alpha / r``."""
        return scaling_of(self.setting.lora_alpha, rank)

    def assign(
        self,
        state: ServerState,
        client: ClientInfo,
        train: Collection[Part],
        upload: Collection[Part],
    ) -> Plan:
        """A plan for the next round in which the head follows the run's head policy. Side parts
        are not sent.
        """
        head: frozenset[Part] = frozenset({"head"}) if train else frozenset()
        policy = self.setting.head
        side = {part for part in state.parts.parts if is_side(part)}
        return Plan(
            round=state.round + 1,
            client=client.id,
            send=state.parts.without(side) if side else state.parts,
            versions={part: v for part, v in state.versions.items() if part not in side},
            train=frozenset(train) | (head if policy != "frozen" else frozenset()),
            upload=frozenset(upload) | (head if policy == "train" else frozenset()),
            rank=client.rank,
            scaling=self.scaling(client.rank),
            local=self.local(),
            increments=state.increments,
        )


def refuse_persist(optimizer_state: str, why: str) -> None:
    """Refuse moments kept as they are where the basis in which they live changes.

    Raises:
        BadInput: ``optimizer.state`` is persist.
    """
    if optimizer_state == "persist":
        raise BadInput(
            f"optimizer.state = 'persist': {why} which kept momentum lives; use transport, which "
            "carries it along, or reset"
        )


def written(state: ServerState, new: Adapter) -> ServerState:
    """The state after a round in which `new` was written over the old parts."""
    this_round = state.round + 1
    return ServerState(
        round=this_round,
        parts=state.parts.overwrite(new),
        versions={**state.versions, **dict.fromkeys(new.parts, this_round)},
        optimizer=state.optimizer,
    )


def with_increment(
    state: ServerState, products: Mapping[str, tuple[Tensor, Tensor]]
) -> ServerState:
    """The state in which ``W <- W + U V`` for every module, written in round ``state.round``.

    ``D`` holds everything since the pretrained weight; ``U`` and ``V`` hold the last increment
    and carry the version of the ``D`` that they add to.
    """
    new: dict[Key, Tensor] = {}
    for module, (U, V) in products.items():
        before = state.parts.get((module, "D"))
        new[module, "D"] = U @ V if before is None else before + U @ V
        new[module, "U"], new[module, "V"] = U, V
    since = state.versions.get("D", 0)
    return replace(
        state,
        parts=state.parts.overwrite(new),
        versions={**state.versions, "D": state.round, "U": since, "V": since},
    )
