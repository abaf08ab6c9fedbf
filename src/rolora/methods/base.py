"""What every method is made of: two pure functions, `plan` and `aggregate`, and a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from rolora.core.errors import BadInput
from rolora.core.types import Adapter, ClientInfo, Key, Part, Plan, ServerState, Update


@dataclass(frozen=True)
class Setting:
    """What a method is told of the run, once.

    Args:
        lora_alpha: the numerator of the scaling ``lora_alpha / r``.
        max_rank: the global adapter's rank, the largest of any client.
        rounds: length of the run.
        head: whether the classification head is frozen, trained or local.
        mixed_ranks: clients have different ranks.
        gauge, schedule, switch_at: RoLoRA's options.
        prox_mu: FedProx's mu.
    """

    lora_alpha: float
    max_rank: int
    rounds: int
    head: Literal["frozen", "train", "local"] = "frozen"
    mixed_ranks: bool = False
    gauge: Literal["none", "orthonormal"] = "none"
    schedule: str = "BA"
    switch_at: float = 1.0
    prox_mu: float = 0.0


class Method(ABC):
    """A federated method. It never sees a model, a file or a socket.

    Class attributes say what `rolora methods` shows: `title`, `travels` (up and down), `exact`
    (is the aggregate the mean of the clients' products?), `citation`; and what composes with it:
    `mixed_ranks` (clients of different ranks), `stepped` (the parts on which a server optimiser
    acts), `options` (which of RoLoRA's options it takes).
    """

    title: ClassVar[str]
    travels: ClassVar[str]
    exact: ClassVar[str]
    citation: ClassVar[str]
    mixed_ranks: ClassVar[bool] = False
    stepped: ClassVar[frozenset[Part]] = frozenset({"A", "B", "head"})
    options: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, setting: Setting):
        self.setting = setting
        defaults = {"gauge": "none", "schedule": "BA", "switch_at": 1.0}
        for option, default in defaults.items():
            value = getattr(setting, option)
            if value != default and option not in self.options:
                raise BadInput(
                    f"method.{option} = {value!r}: {self.title} has no such option; "
                    f"leave it at {default!r}"
                )
        if setting.mixed_ranks and not self.mixed_ranks:
            raise BadInput(
                f"lora.client_ranks: {self.title} needs one rank for all clients; "
                "flexlora and flora take different ranks"
            )

    def init(self, adapter: Adapter) -> ServerState:
        """The state before round 1, from the initial factors (and head, where it is shared)."""
        parts = adapter if self.setting.head == "train" else adapter.without({"head"})
        return ServerState(round=0, parts=parts, versions=dict.fromkeys(parts.parts, 0))

    @abstractmethod
    def plan(self, state: ServerState, client: ClientInfo) -> Plan:
        """What `client` does in round ``state.round + 1``."""

    @abstractmethod
    def aggregate(self, state: ServerState, updates: Iterable[Update]) -> ServerState:
        """The state after the round; consumes `updates` one by one."""

    def start(self, state: ServerState) -> ServerState:
        """The state as the clients of the next round start from it."""
        return state

    def evaluation_plan(self, state: ServerState) -> Plan:
        """The model to evaluate after ``state.round``: everything held, nothing trained."""
        everyone = ClientInfo(id=-1, rank=self.setting.max_rank, num_examples=0)
        return self.assign(state, everyone, train=(), upload=())

    def local(self) -> frozenset[Part]:
        """The parts that every client keeps for itself."""
        return frozenset({"head"} if self.setting.head == "local" else ())

    def scaling(self, rank: int) -> float:
        """``lora_alpha / r``."""
        return self.setting.lora_alpha / rank

    def assign(
        self,
        state: ServerState,
        client: ClientInfo,
        train: Collection[Part],
        upload: Collection[Part],
        gauge: Literal["A", "B"] | None = None,
        redraw: bool = False,
    ) -> Plan:
        """A plan for the next round in which the head follows the run's head policy."""
        head: frozenset[Part] = frozenset({"head"}) if train else frozenset()
        policy = self.setting.head
        return Plan(
            round=state.round + 1,
            client=client.id,
            send=state.parts,
            versions=state.versions,
            train=frozenset(train) | (head if policy != "frozen" else frozenset()),
            upload=frozenset(upload) | (head if policy == "train" else frozenset()),
            rank=client.rank,
            scaling=self.scaling(client.rank),
            gauge=gauge,
            local=self.local(),
            prox=self.setting.prox_mu,
            redraw=redraw,
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


def rank_of(parts: Adapter) -> int:
    """The LoRA rank of an adapter that holds A.

    Raises:
        ValueError: it holds no A.
    """
    for (_, part), tensor in parts.items():
        if part == "A":
            return tensor.shape[0]
    raise ValueError("the adapter holds no factor A")
