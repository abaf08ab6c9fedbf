"""Laws that hold for every method in METHODS, and what each method claims for itself.

Clients are emulated: what a plan says is carried out on tensors by a :class:`Replica`, and
training is a random change of the trained parts. No model is needed.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import save

import small
from rolora.client.replica import Replica
from rolora.client.stack import resized
from rolora.config import ServerConfig, parse_config
from rolora.core.errors import BadInput
from rolora.core.rules import Job
from rolora.core.seeds import derive
from rolora.core.types import Adapter, ClientInfo, Update, base_part, is_side
from rolora.methods import METHODS, Options, Setting, gauge, make_method
from rolora.records.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rolora.records.wire import (
    pack_plan,
    pack_update,
    payload_bytes,
    tensor_name,
    unpack_plan,
    unpack_update,
)
from rolora.server.ledger import Ledger, planned_layout
from rolora.server.optimizer import server_step

MODULES = {"tall": (30, 20), "wide": (12, 40), "square": (24, 24)}
R, ALPHA = 3, 6.0

CASES = {name: (name, {}, {}) for name in METHODS}
CASES |= {
    "rolora+gauge": ("rolora", {}, {"gauge": "orthonormal"}),
    "rolora+schedule": ("rolora", {}, {"schedule": "BBA"}),
    "rolora+adaptive": ("rolora", {}, {"schedule": "adaptive"}),
    "rolora+adaptive+gauge": ("rolora", {}, {"schedule": "adaptive", "gauge": "orthonormal"}),
}
for _name, _method in METHODS.items():
    CASES[f"{_name}+head"] = (_name, {"head": "train"}, {})
    if _method.mixed_ranks:
        CASES[f"{_name}+ranks"] = (_name, {"mixed_ranks": True}, {})
every_case = pytest.mark.parametrize("case", CASES)


def setting(**changes):
    return Setting(ALPHA, R, **{"rounds": 10, "clients": 4, **changes})


def make(name, options=None, **changes):
    return METHODS[name](setting(**changes), METHODS[name].Options(name=name, **(options or {})))


@pytest.mark.parametrize("name", METHODS)
def test_a_program_may_make_it_without_arguments(name):
    """As in ``rolora.run(method=RoLoRA())``; the run makes it again with its own setting."""
    assert METHODS[name]().setting == Setting()


def method_of(case):
    name, changes, options = CASES[case]
    return make(name, options, **changes)


def initial(seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (d_out, d_in) in MODULES.items():
        tensors[module, "A"] = torch.randn(R, d_in, generator=generator)
        tensors[module, "B"] = torch.zeros(d_out, R)
    tensors["score.weight", "head"] = torch.randn(2, 9, generator=generator)
    tensors["score.bias", "head"] = torch.zeros(2)
    return Adapter.of(tensors)


def clients_of(case, n=4):
    mixed = CASES[case][1].get("mixed_ranks", False)
    return [ClientInfo(i, [1, R, 2][i % 3] if mixed else R, 10 + 7 * i) for i in range(n)]


class Client:
    """What one client holds and keeps, and its random training."""

    def __init__(self, info, rules=()):
        self.info, self.replica, self.rules, self.kept = info, Replica(), rules, {}

    def start(self, plan):
        """What it trains from, and the side parts that it was given."""
        begun = self.replica.start(plan, self.rules)
        job = Job(plan, begun.parts, torch.arange(1), given=begun.given)
        for rule in self.rules:
            job = rule.start(job, draw)
        return job.start.overwrite(begun.delta).overwrite(self.kept)

    def train(self, plan, seed):
        """The update, and the client's whole model after training."""
        start = self.start(plan)
        generator = torch.Generator().manual_seed(seed)
        trained = {
            key: t + 0.3 * torch.randn(t.shape, generator=generator)
            for key, t in start.items()
            if key[1] in plan.train
        }
        after = start.overwrite(trained)
        self.kept = {key: t for key, t in trained.items() if key[1] in plan.local}
        beside = {
            (module, part): torch.randn(after[module, base_part(part)].shape, generator=generator)
            for part in plan.upload
            if is_side(part)
            for module in after.select({base_part(part)}).modules
        }
        parts = after.overwrite(beside).select(plan.upload)
        return Update(plan.client, self.info.num_examples, parts), after


def draw(rank, *names):
    """Initial factors of a rank, another for other names."""
    return resized(initial(derive(0, *names) % 2**31), rank)


def change(adapter, module, rank=R):
    """``D + s B A`` in float64: what an adapter adds to the pretrained weight."""
    d_out, d_in = MODULES[module]
    total = torch.zeros(d_out, d_in, dtype=torch.float64)
    if (module, "D") in adapter:
        total += adapter[module, "D"]
    return total + ALPHA / rank * (adapter[module, "B"].double() @ adapter[module, "A"].double())


def close(a, b, tolerance=1e-5):
    scale = max(1.0, float(b.abs().max()))
    torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=tolerance)


def rounds(method, clients, count, seed=0, narrow=False, present=lambda number: None):
    """Run emulated rounds; yields state, plans, updates, clients' models, new state.

    Args:
        narrow: send only what the ledger says that a client lacks.
        present: the clients' places in the cohort of a round; None is all.
    """
    state, ledger = method.init(initial()), Ledger()
    emulated = [Client(info, method.rules()) for info in clients]
    for number in range(count):
        places = present(number)
        cohort = emulated if places is None else [emulated[i] for i in places]
        plans = [method.plan(state, client.info) for client in cohort]
        if narrow:
            plans = [ledger.narrow(plan) for plan in plans]
        seeds = [seed + 1000 * number + plan.client for plan in plans]
        results = [c.train(p, s) for c, p, s in zip(cohort, plans, seeds, strict=True)]
        updates, models = [u for u, _ in results], [m for _, m in results]
        new = method.aggregate(state, iter(updates))
        yield state, plans, updates, models, new
        for plan in plans:
            ledger.replied(plan)
            ledger.finished(plan, new)
        state = new


# Laws --------------------------------------------------------------------------------------


@every_case
def test_identical_clients_give_that_clients_product(case):
    method = method_of(case)
    clients = [replace(client, rank=R) for client in clients_of(case)]
    if method.setting.mixed_ranks:
        clients = [replace(client, rank=2) for client in clients]
    for state, plans, updates, models, _ in rounds(method, clients[:1], 4):
        same = [replace(updates[0], client=i, num_examples=5 + i) for i in range(3)]
        new = method.aggregate(state, iter(same))
        after = method.evaluation_plan(new).send
        local = {k: t for k, t in models[0].items() if k[1] in plans[0].local}
        for module in MODULES:
            expected = change(models[0], module, plans[0].rank)
            close(change(after.overwrite(local), module), expected)
        for key in ("score.weight", "score.bias"):
            if (key, "head") in models[0]:
                close(after[key, "head"], models[0][key, "head"])


@every_case
def test_the_order_of_updates_does_not_matter(case):
    method = method_of(case)
    for state, _, updates, _, new in rounds(method, clients_of(case), 3):
        other = method.aggregate(state, iter(updates[::-1]))
        assert other.parts.layout.select(("A", "B", "D", "head")) == new.parts.layout.select(
            ("A", "B", "D", "head")
        )
        assert other.versions == new.versions
        for module in MODULES:
            close(change(other.parts, module), change(new.parts, module))
        for key in new.parts.select({"head"}):
            close(other.parts[key], new.parts[key])


def snapshot(*adapters):
    return [adapter.flat.clone() for adapter in adapters]


@every_case
def test_inputs_are_not_mutated(case):
    method, clients = method_of(case), clients_of(case)
    for state, plans, updates, _, _ in rounds(method, clients, 3):
        versions, moments = dict(state.versions), dict(state.optimizer)
        inputs = [state.parts, *(p.send for p in plans), *(u.parts for u in updates)]
        before = snapshot(*inputs)
        new = method.aggregate(state, iter(updates))
        kept = snapshot(new.parts)
        method.start(new)
        method.evaluation_plan(new)
        for client in clients:
            Client(client, method.rules()).train(method.plan(new, client), seed=1)
        server_step(ServerConfig(optimizer="fedadam"), method.start(state), new, method.stepped)
        for a, b in zip(before, snapshot(*inputs), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(kept[0], new.parts.flat)
        assert state.versions == versions
        assert state.optimizer == moments


@every_case
def test_the_uploaded_keys_are_the_planned_ones_and_only_these_change(case):
    method = method_of(case)
    for state, plans, updates, _, new in rounds(method, clients_of(case), 4):
        for plan, update in zip(plans, updates, strict=True):
            assert plan.round == state.round + 1
            assert {base_part(part) for part in plan.upload} <= plan.train
            assert update.parts.layout == planned_layout(state.parts, plan)
            assert update.parts.parts == plan.upload
        assert new.round == state.round + 1
        for part in new.parts.parts & state.parts.parts & {"A", "B", "head"}:
            if part in plans[0].upload | plans[0].derives | method.rewrites:
                continue
            assert torch.equal(new.parts.select({part}).flat, state.parts.select({part}).flat)
            assert new.versions[part] == state.versions[part]
        changed = {part for part, version in new.versions.items() if version == new.round}
        assert changed <= plans[0].upload | {"A", "B", "D", "head"}
        assert set(new.versions) == set(new.parts.parts)


@every_case
def test_the_state_survives_a_checkpoint_and_plans_and_updates_the_wire(case, tmp_path):
    method, clients = method_of(case), clients_of(case)
    for state, plans, updates, _, new in rounds(method, clients, 3):
        for plan in plans:
            assert same_plan(unpack_plan(pack_plan(plan)), plan)
        for update in updates:
            update = replace(update, metrics={"train_loss": 0.125})
            back = unpack_update(pack_update(update))
            assert replace(back, parts=update.parts) == update
            assert same_adapter(back.parts, update.parts)
        new = server_step(ServerConfig(optimizer="fedyogi"), state, new, method.stepped)
        path = save_checkpoint(tmp_path, Checkpoint(new, {}, {}, {}, {}), keep=2)
        found = load_checkpoint(path).state
        assert same_adapter(found.parts, new.parts)
        assert (found.round, found.versions) == (new.round, new.versions)
        assert found.optimizer.keys() == new.optimizer.keys()
        assert all(torch.equal(found.optimizer[k], t) for k, t in new.optimizer.items())
        for client in clients:
            assert same_plan(method.plan(found, client), method.plan(new, client))


def same_adapter(a, b):
    return a.layout == b.layout and torch.equal(a.flat, b.flat)


def same_plan(a, b):
    return same_adapter(a.send, b.send) and replace(a, send=b.send) == b


def safetensors_size(tensors):
    """Bytes of a safetensors file: 8, a JSON header padded to 8, and the float32 data.

    Args:
        tensors: name to shape.
    """
    header, at = [], 0
    for name, shape in sorted(tensors.items()):
        count = 1
        for length in shape:
            count *= length
        shown = ",".join(map(str, shape))
        header.append(
            f'"{name}":{{"dtype":"F32","shape":[{shown}],"data_offsets":[{at},{at + 4 * count}]}}'
        )
        at += 4 * count
    length = len("{" + ",".join(header) + "}")
    return 8 + -(-length // 8) * 8 + at if tensors else 0


def planned_shapes(case, plan, previous):
    """What travels to and from a client that answered every round, from the methods' papers.

    Args:
        case: in CASES; plan: the client's; previous: last round's updates, None in round 1.
    """
    name, changes, options = CASES[case]
    active = {"ffa_lora": "B", "fedsa_lora": "A", "fedsvd": "B"}.get(name, "AB")
    sent = {"flora": "", "fedsvd": "AB"}.get(name, "AB" if previous is None else active)
    if name in ("rolora", "scaffold"):
        schedule = options.get("schedule", "BA")
        active = schedule[(plan.round - 1) % len(schedule)]
        sent = "AB" if previous is None else schedule[(plan.round - 2) % len(schedule)]
        if schedule == "adaptive":  # what it chose: one factor up, last round's down
            (active,) = plan.upload
            sent = "AB" if previous is None else min(previous[0].parts.parts)
    both = {
        module: {"A": (plan.rank, d_in), "B": (d_out, plan.rank)}
        for module, (d_out, d_in) in MODULES.items()
    }
    up = {f"{module}::{part}": both[module][part] for module in MODULES for part in active}
    down = {f"{module}::{part}": both[module][part] for module in MODULES for part in sent}
    if name in ("flora", "fedex_lora") and previous is not None:
        down |= base_change_shapes(previous, R if name == "fedex_lora" else 0)
    if changes.get("head") == "train":
        head = {"score.weight::head": (2, 9), "score.bias::head": (2,)}
        up, down = up | head, down | head
    if name == "scaffold":  # the active factor's variate beside it, and the head's
        beside = {n.replace("::", "::control."): shape for n, shape in up.items()}
        up, down = up | beside, down | beside
    return up, down


def base_change_shapes(updates, extra):
    """The stacked factors, or the dense change where that is smaller."""
    factors, dense = {}, {}
    for module, (d_out, d_in) in MODULES.items():
        q = sum(u.parts[module, "A"].shape[0] for u in updates) + extra
        factors |= {f"{module}::U": (d_out, q), f"{module}::V": (q, d_in)}
        dense[f"{module}::D"] = (d_out, d_in)
    return min(factors, dense, key=safetensors_size)


@every_case
@pytest.mark.parametrize("n", [2, 4])
def test_bytes_equal_the_formula_and_the_serialised_payload(case, n):
    previous = None
    for _, plans, updates, *_ in rounds(method_of(case), clients_of(case, n), 4, narrow=True):
        for plan, update in zip(plans, updates, strict=True):
            planned = planned_shapes(case, plan, previous)
            for adapter, shapes in zip((update.parts, plan.send), planned, strict=True):
                named = {tensor_name(key): tensor for key, tensor in adapter.items()}
                assert {name: tuple(t.shape) for name, t in named.items()} == shapes
                size = payload_bytes(adapter.layout)
                assert size == safetensors_size(shapes)
                assert size == (len(save(named)) if named else 0)
        previous = updates


cohorts = st.lists(st.sets(st.integers(0, 3), min_size=1).map(sorted), min_size=5, max_size=8)


@every_case
@hypothesis_settings(max_examples=8)
@given(cohorts)
def test_late_and_absent_clients_have_the_models_of_full_plans_bit_for_bit(case, cohorts):
    method, clients = method_of(case), clients_of(case)
    count, present = len(cohorts), cohorts.__getitem__
    full = rounds(method, clients, count, present=present)
    narrow = rounds(method, clients, count, present=present, narrow=True)
    for (_, _, _, models, new), (_, _, _, others, other_new) in zip(full, narrow, strict=True):
        for model, other in zip(models, others, strict=True):
            assert same_adapter(model, other)
        assert same_adapter(new.parts, other_new.parts)


# What each claims --------------------------------------------------------------------------

EXACT = [case for case in CASES if METHODS[CASES[case][0]].exactness == "yes"]


def mean_change(updates, models, plans, module):
    total = sum(update.num_examples for update in updates)
    return sum(
        update.num_examples / total * change(model, module, plan.rank)
        for update, model, plan in zip(updates, models, plans, strict=True)
    )


@hypothesis_settings(max_examples=15)
@given(st.sampled_from(EXACT), st.integers(0, 2**32), st.integers(1, 6))
def test_exact_methods_aggregate_to_the_mean_of_the_products(case, seed, n):
    method = method_of(case)
    for _, plans, updates, models, new in rounds(method, clients_of(case, n), 4, seed):
        for module in MODULES:
            close(change(new.parts, module), mean_change(updates, models, plans, module))


@given(st.integers(0, 2**32))
def test_fedit_misses_the_mean_of_the_products_by_the_covariance(seed):
    method, clients = method_of("fedit"), clients_of("fedit", 3)
    for _, plans, updates, models, new in rounds(method, clients, 2, seed):
        total = sum(update.num_examples for update in updates)
        for module in MODULES:
            gap = change(new.parts, module) - mean_change(updates, models, plans, module)
            covariance = sum(
                u.num_examples
                / total
                * (u.parts[module, "B"] - new.parts[module, "B"]).double()
                @ (u.parts[module, "A"] - new.parts[module, "A"]).double()
                for u in updates
            )
            close(gap, -ALPHA / R * covariance)
            assert gap.abs().max() > 1e-3


@hypothesis_settings(max_examples=15)
@given(st.sampled_from(["flexlora", "flexlora+ranks"]), st.integers(0, 2**32))
def test_flexlora_truncates_the_mean_product_at_the_eckart_young_error(case, seed):
    method = method_of(case)
    for _, plans, updates, models, new in rounds(method, clients_of(case), 3, seed):
        for module in MODULES:
            dense = mean_change(updates, models, plans, module)
            singular = torch.linalg.svdvals(dense)
            error = (dense - change(new.parts, module)).norm()
            best = singular[R:].square().sum().sqrt()
            assert best > 1e-2  # there is something to truncate
            assert abs(error - best) <= 1e-4 * singular[0]


def test_flexlora_puts_all_singular_values_on_b():
    method, s = method_of("flexlora"), ALPHA / R
    for *_, new in rounds(method, clients_of("flexlora"), 2):
        for module in MODULES:
            A, B = new.parts[module, "A"], new.parts[module, "B"]
            torch.testing.assert_close(A @ A.T, torch.eye(R), rtol=0, atol=1e-5)
            singular = torch.linalg.svdvals(change(new.parts, module))[:R].float()
            gram = B.T @ B
            close(gram, torch.diag((singular / s).square()))


def test_fedsvd_puts_all_singular_values_on_b_and_never_leaves_as_first_rows():
    method = method_of("fedsvd")
    for state, plans, _, models, new in rounds(method, clients_of("fedsvd"), 3):
        assert plans[0].train == {"B"}
        for module in MODULES:
            held = models[0][module, "A"]
            assert torch.equal(held, state.parts[module, "A"])  # frozen, and the same for all
            A, B = new.parts[module, "A"].double(), new.parts[module, "B"].double()
            close(A @ A.T, torch.eye(R).double())
            values = torch.linalg.svdvals(B @ A)[:R]
            close(B.T @ B, torch.diag(values.square()))
            first = torch.linalg.qr(initial()[module, "A"].T.double()).Q
            close(A @ first @ first.T, A)


def test_fedsvd_keeps_a_whole_basis_where_the_product_has_less_than_its_rank():
    method = method_of("fedsvd")
    state = method.init(initial())
    B = state.parts.select({"B"}).clone()
    B["wide", "B"][:, 0] = 1.0  # of rank 1 there, and 0 elsewhere
    new = method.aggregate(state, iter([Update(0, 10, B)]))
    for module in MODULES:
        A = new.parts[module, "A"].double()
        close(A @ A.T, torch.eye(R).double())
        close(change(new.parts, module), change(state.parts.overwrite(B), module))


def test_fedsvd_refuses_what_lives_in_one_basis():
    for field, value in {
        "optimizer_state": "persist",
        "server_optimizer": "fedavgm",
        "server_lr": 0.5,
    }.items():
        with pytest.raises(BadInput, match=f"{field.replace('_', '.')} = .*FedSVD"):
            make("fedsvd", **{field: value})
    make("fedsvd", optimizer_state="transport")


def test_a_low_rank_flexlora_client_gets_the_first_components_at_its_own_scaling():
    method = method_of("flexlora+ranks")
    *_, (_, _, _, _, new) = rounds(method, clients_of("flexlora+ranks"), 2)
    plan = method.plan(new, ClientInfo(0, 1, 10))
    assert plan.scaling == ALPHA
    for module in MODULES:
        left, values, right = torch.linalg.svd(change(new.parts, module))
        best = values[0] * left[:, :1] @ right[:1]
        sent = plan.scaling * plan.send[module, "B"].double() @ plan.send[module, "A"].double()
        close(sent, best)


def test_fedex_mean_plus_residual_is_the_mean_of_products_and_is_not_transposed():
    method = method_of("fedex_lora")
    for state, _, updates, _, new in rounds(method, clients_of("fedex_lora"), 3):
        total = sum(update.num_examples for update in updates)
        for module in MODULES:
            weights = [u.num_examples / total for u in updates]
            Bs = [u.parts[module, "B"].double() for u in updates]
            As = [u.parts[module, "A"].double() for u in updates]
            mean_b = sum(w * B for w, B in zip(weights, Bs, strict=True))
            mean_a = sum(w * A for w, A in zip(weights, As, strict=True))
            mean_ba = sum(w * B @ A for w, B, A in zip(weights, Bs, As, strict=True))
            residual = ALPHA / R * (mean_ba - mean_b @ mean_a)
            close(new.parts[module, "A"].double(), mean_a)
            close(new.parts[module, "B"].double(), mean_b)
            step = new.parts[module, "U"].double() @ new.parts[module, "V"].double()
            close(step, residual)
            before = state.parts.get((module, "D"), torch.zeros(()))
            close(new.parts[module, "D"].double() - before, residual)
            if module == "square":
                assert (residual - residual.T).abs().max() > 1e-2


def test_flora_starts_every_round_anew():
    method = method_of("flora")
    for _, plans, _, _, new in rounds(method, clients_of("flora"), 3):
        assert not any(plan.send.parts & {"A", "B"} for plan in plans)
        for module in MODULES:
            assert not new.parts[module, "B"].any()


# RoLoRA ------------------------------------------------------------------------------------


def test_rolora_starts_with_b_and_alternates():
    method = method_of("rolora")
    active = [plans[0].train for _, plans, *_ in rounds(method, clients_of("rolora"), 4)]
    assert active == [{"B"}, {"A"}, {"B"}, {"A"}]


def test_the_active_factor_is_a_function_of_the_round_alone():
    method = method_of("rolora")
    state = method.init(initial())
    for number in range(6):
        at = replace(state, round=number)
        for client in clients_of("rolora"):
            assert method.plan(at, client).train == {"B" if number % 2 == 0 else "A"}
            method.evaluation_plan(at)


def test_rolora_schedule_and_switch():
    scheduled = method_of("rolora+schedule")
    state = scheduled.init(initial())
    assert "".join(scheduled.active(replace(state, round=n)) for n in range(7)) == "BBABBAB"
    switched = make("rolora", {"switch_at": 0.4})
    order = "".join(switched.active(replace(state, round=n)) for n in range(10))
    assert order == "BABABBBBBB"


def moved_by(start, new, active):
    """``|dB A|_F`` or ``|B dA|_F`` over all modules, from dense products."""
    squares = 0.0
    for module in MODULES:
        factors = {"A": new[module, "A"].double(), "B": new[module, "B"].double()}
        factors[active] = factors[active] - start[module, active].double()
        squares += float((factors["B"] @ factors["A"]).square().sum())
    return squares


@pytest.mark.parametrize("case", ["rolora+adaptive", "rolora+adaptive+gauge"])
@hypothesis_settings(max_examples=15)
@given(st.lists(st.sampled_from([0.02, 0.5, 9.0]), min_size=7, max_size=10), st.integers(0, 2**32))
def test_the_adaptive_schedule_trains_what_moved_the_product_more_and_starves_none(
    case, sizes, seed
):
    method, moved, order = method_of(case), {}, ""
    state, generator = method.init(initial()), torch.Generator().manual_seed(seed)
    for size in sizes:
        (active,) = method.plan(state, ClientInfo(0, R, 10)).train
        late = [factor for factor in "BA" if factor not in order[-3:]]
        if len(order) < 2:
            assert active == "BA"[len(order)]
        else:
            assert active == (late[0] if late else max("BA", key=moved.__getitem__))
        start = method.start(state).parts
        steps = {
            key: t + size * torch.randn(t.shape, generator=generator)
            for key, t in start.select({active}).items()
        }
        state = method.aggregate(state, iter([Update(0, 10, Adapter.of(steps))]))
        moved[active], order = moved_by(start, state.parts, active), order + active
        method.start(state), method.evaluation_plan(state)


@pytest.mark.parametrize("case", ["rolora", "rolora+gauge", "ffa_lora"])
def test_the_frozen_factor_is_the_same_to_the_bit_on_all_clients_and_the_server(case):
    method = method_of(case)
    for _, plans, _, models, new in rounds(method, clients_of(case), 5, narrow=True):
        (frozen,) = {"A", "B"} - plans[0].train
        for model in models:
            assert same_adapter(model.select({frozen}), new.parts.select({frozen}))


@pytest.mark.parametrize("frozen", ["A", "B"])
def test_the_mean_of_products_with_a_shared_factor_is_the_product_of_the_mean(frozen):
    method = method_of("rolora")
    for state, plans, updates, _, new in rounds(method, clients_of("rolora"), 4):
        if frozen in plans[0].train:
            continue
        (active,) = plans[0].train
        total = sum(u.num_examples for u in updates)
        for module in MODULES:
            mean = sum(u.num_examples / total * u.parts[module, active].double() for u in updates)
            close(new.parts[module, active].double(), mean)
            assert torch.equal(new.parts[module, frozen], state.parts[module, frozen])


def test_the_gauge_does_not_change_what_clients_start_from():
    method = method_of("rolora+gauge")
    emulated = Client(ClientInfo(0, R, 10), method.rules())
    for state, plans, *_ in rounds(method, clients_of("rolora+gauge"), 5):
        start = emulated.start(plans[0])
        server = method.start(state).parts
        assert same_adapter(start, server)
        for module in MODULES:
            close(change(start, module), change(state.parts, module))
            (frozen,) = plans[0].derives
            basis = start[module, "A"] if frozen == "A" else start[module, "B"].T
            torch.testing.assert_close(basis @ basis.T, torch.eye(R), rtol=0, atol=1e-5)


# Head policies -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("policy", ["frozen", "train", "local"])
def test_the_head_policy_is_explicit(name, policy):
    method = make(name, head=policy)
    state = method.init(initial())
    for number in range(2):
        plan = method.plan(replace(state, round=number), ClientInfo(0, R, 10))
        assert ("head" in plan.send.parts) == (policy == "train")
        assert ("head" in plan.train) == (policy != "frozen")
        assert ("head" in plan.upload) == (policy == "train")
        assert ("head" in plan.local) == (policy == "local")
    assert method.evaluation_plan(state).train == frozenset()
    assert method.evaluation_plan(state).upload == frozenset()


# Options that do not fit -------------------------------------------------------------------


def test_an_unknown_method_lists_the_known():
    with pytest.raises(BadInput, match=r"'roloro'.*did you mean rolora.*fedsa_lora"):
        make_method(Options(name="roloro"), setting())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("option", "value"), [("gauge", "orthonormal"), ("schedule", "AB"), ("switch_at", 0.5)]
)
def test_options_are_refused_by_methods_that_lack_them(name, option, value):
    section = {"method": {"name": name, option: value}}
    if option in METHODS[name].Options.model_fields:
        assert getattr(parse_config(section).method, option) == value
    else:
        with pytest.raises(BadInput, match=f"method.{option}: unknown key .*known: name, prox_mu"):
            parse_config(section)


@pytest.mark.parametrize("name", METHODS)
def test_mixed_ranks_are_refused_where_factors_are_averaged(name):
    if METHODS[name].mixed_ranks:
        make(name, mixed_ranks=True)
    else:
        with pytest.raises(BadInput, match=r"client_ranks.*rolora methods"):
            make(name, mixed_ranks=True)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("changes", [{"reducer": "median"}, {"stages": ("int8",)}])
def test_a_method_that_needs_each_clients_factors_takes_no_other_reduction(name, changes):
    if METHODS[name].reduction == "sum":
        make(name, **changes)
    else:
        field = "server.reducer" if "reducer" in changes else "stages"
        with pytest.raises(BadInput, match=f"^{field} = .*{METHODS[name].title}"):
            make(name, **changes)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name):
    chosen = METHODS[name]
    for text in (chosen.title, chosen.travels, chosen.exactness, chosen.citation):
        assert text.strip()
    assert "arXiv" in chosen.citation
    assert chosen.__doc__
    assert "Source:" in chosen.__doc__


def test_the_gauge_decomposes_once_for_a_switch(monkeypatch):
    """The server and all clients of a process start from one and the same decomposition."""
    done, plain = [], gauge.orthonormalise

    def counted(adapter, frozen):
        done.append(frozen)
        return plain(adapter, frozen)

    monkeypatch.setattr(gauge, "orthonormalise", counted)
    settings = small.config(method={"gauge": "orthonormal"}, rounds=5)
    small.run(settings, small.engine(settings))
    assert done == ["A", "B", "A", "B", "A"]
