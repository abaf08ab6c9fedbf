"""Laws of the secure sum: what it is of, what is seen of one client, who can open it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import chi2

from rolora.core.types import Adapter, Update
from rolora.records.wire import pack_update, payload_bytes, unpack_update, update_bytes
from rolora.secure.fixed import LOSS, LOSS_REACH, MASKED, FixedPoint, Form, Withheld
from rolora.secure.forms import (
    STEPS,
    BadForm,
    Opened,
    Refused,
    Roster,
    Terms,
    beside,
    pack_clients,
)
from rolora.secure.party import Party, pair_mask
from rolora.secure.primitives import own_mask
from rolora.secure.shamir import PRIME, at, deal, fresh, together
from rolora.secure.tally import Sealed, Tally
from rolora.secure.vouching import Signed

EXAMPLES = (9, 500, 7, 40, 6, 3, 21)


def terms(clients, threshold=None, **others):
    given = {"round": 3, "reach": 4.0, "by_examples": True, **others}
    return Terms(threshold=threshold or clients // 2 + 1, most=clients, **given)


def update(client, size=40, scale=0.01):
    generator = torch.Generator().manual_seed(client)
    parts = Adapter.of({("m", "B"): scale * torch.randn(size // 2, 2, generator=generator)})
    return Update(client, EXAMPLES[client % 7], parts, {"train_loss": 0.1 * client, "seconds": 1.0})


class Play:
    """A sum from its first step to its last; `gone` names who no longer answers, by step."""

    def __init__(self, terms, updates, gone=(), share=1.0):
        self.terms, self.updates = terms, {u.client: u for u in updates}
        self.left = {step: set(dict(gone).get(step, ())) for step in STEPS}
        self.parties = {u.client: Party(u.client, u.num_examples, terms) for u in updates}
        self.tally = Tally(terms, share)
        self.examples = {u.client: u.num_examples for u in updates}
        self.sent = {}

    def still(self, step):
        gone = set().union(*(self.left[s] for s in STEPS[: STEPS.index(step) + 1]))
        return [client for client in sorted(self.parties) if client not in gone]

    def keys(self):
        for client in self.still("keys"):
            answer = self.parties[client].answer("keys", b"")
            self.tally.seated(client, answer)
        self.tally.close(self.examples)
        return self

    def shares(self):
        told = self.tally.roster.pack()
        for client in self.still("shares"):
            self.tally.dealt(client, self.parties[client].answer("shares", told))
        return self

    def masked(self):
        for client in self.still("masked"):
            dealt = self.tally.passed_on(client)
            self.sent[client] = self.parties[client].masked(dealt, self.updates[client])
            self.tally.add(self.sent[client])
        return self

    def opened(self):
        told = pack_clients(self.tally.added)
        for client in self.still("opened"):
            self.tally.given(client, self.parties[client].answer("opened", told))
        return self.tally.opened()

    def all(self):
        return self.keys().shares().masked().opened()


def plainly(play):
    """The same sum of the same whole numbers, without a mask."""
    roster, there = play.tally.roster, play.tally.added
    form = Form(play.terms.reach, play.terms.most)
    numbers = [form.encoded(play.updates[c], roster.shares[c]).astype(object) for c in there]
    total = np.array([int(n) % 2**32 for n in sum(numbers)], dtype=np.uint32)
    mean, loss = form.decoded(total)
    weight = sum(roster.shares[c] for c in there)
    return mean / weight, loss / weight


@hypothesis_settings(max_examples=40)
@given(st.data())
def test_the_sum_is_exact_whoever_drops_out_at_whatever_step(data):
    """Bit for bit that of the plain whole numbers, as long as the threshold is there."""
    clients = data.draw(st.integers(2, 7))
    threshold = data.draw(st.integers(clients // 2 + 1, clients))
    going = data.draw(st.permutations(range(clients)))[: clients - threshold]
    gone = {}
    for client in going:
        gone.setdefault(data.draw(st.sampled_from((*STEPS, "never"))), set()).add(client)
    agreed = terms(clients, threshold, by_examples=data.draw(st.booleans()))
    share = data.draw(st.sampled_from((1.0, 0.5)))
    gone.pop("never", None)
    play = Play(agreed, [update(c) for c in range(clients)], gone, share)
    mean, loss, liars = play.all()
    expected, expected_loss = plainly(play)
    assert torch.equal(mean, expected)
    assert loss == expected_loss
    assert not liars


def test_the_sum_is_the_weighted_mean_to_half_a_step_a_client():
    play = Play(terms(7), [update(c) for c in range(7)], {"masked": {1}})
    mean, loss, _ = play.all()
    there = [play.updates[c] for c in (0, 2, 3, 4, 5, 6)]
    weight = sum(u.num_examples for u in there)
    expected = sum(u.num_examples * u.parts.flat.double() for u in there) / weight
    share = weight / sum(EXAMPLES)  # of those that dealt, one of whom is gone
    assert (mean - expected).abs().max() <= 6 * 0.5 * 4.0 / (2**31 - 7) / share
    losses = sum(u.num_examples * u.metrics["train_loss"] for u in there) / weight
    assert loss == pytest.approx(losses, abs=6 * LOSS_REACH / 2**32 / share)


@given(st.integers(2, 200), st.sampled_from([0.01, 4.0, 1024.0]))
def test_no_sum_of_numbers_within_reach_wraps_around(clients, reach):
    numbers = FixedPoint(reach, clients)
    for sign in (1, -1):
        x = torch.full((1,), sign * reach)
        total = sum(numbers.encoded(x, 1 / clients).astype(object) for _ in range(clients))
        whole = np.array([int(total[0]) % 2**32], dtype=np.uint32)
        assert float(numbers.decoded(whole)) == pytest.approx(sign * reach, rel=1e-6)


def uniform(texts, level=1e-6):
    """Whether the bytes are as if drawn evenly."""
    found = np.bincount(np.frombuffer(b"".join(texts), np.uint8), minlength=256)
    expected = found.sum() / 256
    return ((found - expected) ** 2 / expected).sum() < chi2.isf(level, 255)


def seen(sent):
    return sent.parts.flat.numpy().tobytes() + sent.side[LOSS].numpy().tobytes()


def test_what_the_server_sees_of_one_client_is_uniform():
    """Its masked numbers, and the same before a mask for the test to tell; an update of nothing and
    one at the end of reach look the same, also against each other under fresh keys.
    """
    size, updates = 20_000, {}
    for name, scale in (("nothing", 0.0), ("large", 0.5)):
        ones = [update(c, size, scale if c == 0 else 0.01) for c in range(3)]
        play = Play(terms(3), ones).keys().shares().masked()
        updates[name] = seen(play.sent[0])
        plain = Form(4.0, 3).encoded(ones[0], play.tally.roster.shares[0])
        assert not uniform([plain.tobytes()])
        assert uniform([updates[name]])
    between = np.frombuffer(updates["nothing"], np.uint32) - np.frombuffer(
        updates["large"], np.uint32
    )
    assert uniform([between.tobytes()])


def test_two_rounds_of_the_same_update_share_no_mask():
    one, other = (
        Play(terms(3), [update(c, 4000) for c in range(3)]).keys().shares().masked().sent[0]
        for _ in range(2)
    )
    between = one.parts.flat.numpy().view(np.uint32) - other.parts.flat.numpy().view(np.uint32)
    assert uniform([between.tobytes()])


def test_a_server_and_fewer_than_the_threshold_together_see_no_more():
    """Of three clients one tells the server all that it has: its mask with the first, and its share
    of the first one's secrets.
    """
    play = Play(terms(3), [update(c, 20_000) for c in range(3)]).keys().shares().masked()
    ally, roster, left = play.parties[1], play.tally.roster, seen(play.sent[0])
    theirs = pair_mask(ally._mask, roster.seats[0].keys.mask, roster, len(left) // 4)
    assert uniform([(np.frombuffer(left, np.uint32) - theirs).tobytes()])
    told = ally._held[0][0]
    assert told != play.parties[0]._own
    assert at(0, {2: told, 3: play.parties[2]._held[0][0]}) == play.parties[0]._own


@pytest.mark.parametrize("step", STEPS[1:])
def test_below_the_threshold_nothing_is_opened(step):
    play = Play(terms(5, 4), [update(c) for c in range(5)], {step: {0, 1}}).keys()
    if step == "shares":
        play.shares()
        with pytest.raises(Refused, match="3 clients, and 4 are agreed on"):
            play.masked()
    elif step == "masked":
        play.shares().masked()
        with pytest.raises(Refused, match="a sum over 3, and 4 are agreed on"):
            play.opened()
    else:
        with pytest.raises(Sealed, match=r"3 shares .* it takes 4"):
            play.shares().masked().opened()


def asked_again(play, step):
    return play.parties[2].answer(step, pack_clients(play.tally.added))


def test_a_client_gives_no_second_share_of_another():
    """Whoever asks it for the other secret of the same client, or for anything twice."""
    play = Play(terms(4, 3), [update(c) for c in range(4)], {"masked": {3}})
    play.keys().shares().masked()
    play.parties[2].answer("opened", pack_clients({0, 1, 2}))
    with pytest.raises(Refused, match="step opened after"):
        play.parties[2].answer("opened", pack_clients({0, 2, 3}))
    for step in STEPS:
        with pytest.raises(Refused):
            asked_again(play, step)


ORDERS = [("shares",), ("opened",), ("keys", "keys"), ("keys", "opened"), ("dump",), ("masked",)]


@pytest.mark.parametrize("order", ORDERS)
def test_steps_come_once_and_in_their_order(order):
    party = Party(0, 9, terms(3))
    *good, bad = order
    for step in good:
        party.answer(step, b"")
    with pytest.raises(Refused):
        party.answer(bad, b"")


FOUR = frozenset(range(4))


def reseated(roster, **changes):
    """The roster with client 0's seat changed."""
    first, *others = roster.seats
    return replace(roster, seats=(replace(first, **changes), *others))


ROSTERS = {
    "other keys": lambda r: reseated(r, keys=r.seats[1].keys),
    "another number of examples": lambda r: reseated(r, examples=1),
    "without it": lambda r: replace(r, seats=r.seats[1:]),
    "a client twice": lambda r: replace(r, seats=(*r.seats, r.seats[-1])),
    "in another order": lambda r: replace(r, seats=r.seats[::-1]),
    "too few": lambda r: replace(r, seats=r.seats[:2]),
    "too many": lambda r: replace(r, seats=(*r.seats, replace(r.seats[-1], client=9))),
    "a limit of nothing": lambda r: replace(r, limit=0.0),
    "less in all than together": lambda r: replace(r, total=0.9 * r.total),
    "no number": lambda r: replace(r, total=float("nan")),
    "a weight of nothing": lambda r: reseated(replace(r, seats=r.seats[::-1]), examples=0),
}


@pytest.mark.parametrize("lie", ROSTERS)
def test_a_roster_that_cannot_be_is_refused(lie):
    play = Play(terms(4, 3), [update(c) for c in range(4)]).keys()
    with pytest.raises(Refused):
        play.parties[0].answer("shares", ROSTERS[lie](play.tally.roster).pack())


def test_a_key_that_agrees_on_what_everybody_knows_is_refused():
    play = Play(terms(3), [update(c) for c in range(3)]).keys()
    first, second, third = play.tally.roster.seats
    weak = replace(third, keys=replace(third.keys, agree=bytes(32)))
    roster = replace(play.tally.roster, seats=(first, second, weak))
    with pytest.raises(Refused, match="a public key"):
        play.parties[0].answer("shares", roster.pack())


def test_clients_that_are_told_different_rosters_give_noise():
    """A server that tells one client other weights, so that its part would stand out, gets nothing:
    masks do not cancel, and what was sealed for others does not open.
    """
    play = Play(terms(3, 2), [update(c, 4000) for c in range(3)]).keys()
    told = play.tally.roster
    others = replace(told, seats=(*told.seats[:2], replace(told.seats[2], examples=6)))
    for client, party in play.parties.items():
        said = others if client == 0 else told
        play.tally.dealt(client, party.answer("shares", said.pack()))
    play.masked()
    total = sum(np.frombuffer(seen(play.sent[c]), np.uint32) for c in range(3))
    for party in play.parties.values():  # as if it had them all the same
        total = total - own_mask(party._own, len(total))
    assert uniform([total.tobytes()])
    with pytest.raises(Sealed):
        play.opened()


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({0, 1, 4}, "did not all mask"),
        ({1, 2, 3}, "did not all mask"),
        ({0, 1}, "a sum over 2"),
        (set(), "did not all mask"),
    ],
)
def test_a_sum_that_is_not_of_those_that_masked_is_not_opened(there, words):
    play = Play(terms(4, 3), [update(c) for c in range(4)]).keys().shares().masked()
    with pytest.raises(Refused, match=words):
        play.parties[0].answer("opened", pack_clients(there))


def test_a_round_s_sum_is_opened_over_the_same_clients_or_not_again():
    """Two sums over different clients would tell the update of the one between."""
    play = Play(terms(4, 3), [update(c) for c in range(4)])
    before = Opened(frozenset({0, 1, 2}), math.inf)
    for client in before.clients:
        play.parties[client] = Party(client, EXAMPLES[client], play.terms, before)
    for client, party in play.parties.items():
        play.tally.seated(client, party.answer("keys", b""))
    assert play.tally.close(play.examples) == {3}
    assert play.tally.roster.clients == (0, 1, 2)


def test_one_client_that_makes_up_an_earlier_sum_leaves_nobody_out():
    play = Play(terms(4, 3), [update(c) for c in range(4)])
    before = Opened(frozenset({2}), math.inf)
    play.parties[2] = Party(2, EXAMPLES[2], play.terms, before)
    play.left["opened"] = {2}  # which it refuses
    mean, _, liars = play.all()
    assert torch.equal(mean, plainly(play)[0])
    assert not liars


@pytest.mark.parametrize("before", [Opened(frozenset({0, 1, 2}), math.inf), Opened(FOUR, 9.0)])
def test_a_server_that_opens_it_over_others_or_by_other_weights_is_refused(before):
    """It takes no notice of what the client says."""
    play = Play(terms(4, 3), [update(c) for c in range(4)])
    play.parties[0] = Party(0, EXAMPLES[0], play.terms, before)
    for client, party in play.parties.items():
        play.tally.seated(client, party.answer("keys", b"")[:192])
    play.tally.close(play.examples)
    play.shares().masked()
    with pytest.raises(Refused, match="their difference would tell"):
        play.parties[0].answer("opened", pack_clients(FOUR))
    same = Play(terms(4, 3), [update(c) for c in range(4)])
    same.parties[0] = Party(0, EXAMPLES[0], same.terms, Opened(FOUR, math.inf))
    same.all()


def test_weights_do_not_depend_on_who_drops_out():
    """A heavy client that is gone from the first step still counts in what one may weigh."""
    weights = []
    for gone in ({}, {"keys": {1}}):
        play = Play(terms(4, 3), [update(c) for c in range(4)], gone, share=0.5)
        play.keys()
        weights.append({c: play.tally.roster.shares[c] for c in (0, 2, 3)})
    assert weights[0] == weights[1]


def test_false_shares_are_named_and_the_sum_is_right_all_the_same():
    play = Play(terms(6, 4), [update(c) for c in range(6)], {"masked": {5}})
    play.keys().shares().masked()
    told = pack_clients(play.tally.added)
    for client in range(5):
        answer = play.parties[client].answer("opened", told)
        play.tally.given(client, bytes(len(answer)) if client == 1 else answer)
    mean, loss, liars = play.tally.opened()
    expected, expected_loss = plainly(play)
    assert torch.equal(mean, expected)
    assert loss == expected_loss
    assert liars == {1}


def test_who_deals_false_shares_is_named():
    play = Play(terms(4, 3), [update(c) for c in range(4)]).keys()
    play.parties[2]._own = fresh()  # not what it committed itself to
    play.shares()
    play.masked()
    with pytest.raises(Sealed) as closed:
        play.opened()
    assert closed.value.client == 2


def test_shares_that_were_spoilt_on_their_way_are_none():
    """Those of others are enough."""
    play = Play(terms(4, 3), [update(c) for c in range(4)]).keys().shares()
    play.tally._dealt[1][3] = bytes(80)
    mean, _, liars = play.masked().opened()
    assert torch.equal(mean, plainly(play)[0])
    assert not liars


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"parts": float("nan")}, "nan"),
        ({"parts": 4.1}, "out_of_reach"),
        ({"metrics": {"train_loss": float("inf")}}, "train_loss"),
    ],
)
def test_what_cannot_be_one_of_a_sum_is_not_sent(changed, reason):
    play = Play(terms(3), [update(c) for c in range(3)]).keys().shares()
    one = update(0)
    if "parts" in changed:
        flat = torch.full_like(one.parts.flat, changed["parts"])
        changed = {"parts": Adapter(one.parts.layout, flat)}
    with pytest.raises(Withheld) as why:
        play.parties[0].masked(play.tally.passed_on(0), replace(one, **changed))
    assert why.value.reason == reason


def test_nothing_stands_in_clear_beside_the_masked_numbers():
    play = Play(terms(3), [update(c) for c in range(3)]).keys().shares().masked()
    sent = unpack_update(pack_update(play.sent[0]))
    assert torch.equal(sent.parts.flat, play.sent[0].parts.flat)
    assert sent.metrics == {"seconds": 1.0}
    assert [(n, tuple(t.shape), t.dtype) for n, t in sent.side.items()] == list(MASKED)


# Whose keys are whose ----------------------------------------------------------------------


def signing(run="run"):
    """Four sites' vouching; each has pinned the others' keys."""
    own = [ec.generate_private_key(ec.SECP384R1()) for _ in range(4)]
    return [
        Signed(run, own[c], {p: own[p].public_key() for p in range(4) if p != c}) for c in range(4)
    ]


def signed_play(vouching, **others):
    play = Play(terms(4, 3, **others), [update(c) for c in range(4)])
    for client, party in play.parties.items():
        party._vouching = vouching[client]
    return play


def test_signed_keys_are_taken():
    play = signed_play(signing())
    assert torch.equal(play.all()[0], plainly(play)[0])


def unpinned(vouching):
    return [replace(one, peers={c: k for c, k in one.peers.items() if c != 3}) for one in vouching]


MEN_IN_THE_MIDDLE = {
    "the server's own keys": lambda r, old: (
        replace(r.seats[3], keys=Party(3, r.seats[3].examples, r.terms)._keys),
    ),
    "and its own signature": lambda r, old: (
        replace(
            r.seats[3],
            keys=(made := Party(3, r.seats[3].examples, r.terms)._keys),
            signature=signing()[3].sign(3, r.terms, made),
        ),
    ),
    "no signature": lambda r, old: (replace(r.seats[3], signature=bytes(96)),),
    "those of another round": lambda r, old: (old["round"],),
    "those of another run": lambda r, old: (old["run"],),
    "those of another client": lambda r, old: (replace(r.seats[2], client=3),),
}


@pytest.mark.parametrize("case", MEN_IN_THE_MIDDLE)
def test_keys_that_their_site_did_not_sign_for_this_round_are_refused(case):
    vouching = signing()
    others = [replace(one, run="other") for one in vouching]
    old = {
        "round": signed_play(vouching, round=2).keys().tally.roster.seats[3],
        "run": signed_play(others).keys().tally.roster.seats[3],
    }
    play = signed_play(vouching).keys()
    told = play.tally.roster
    lie = replace(told, seats=(*told.seats[:3], *MEN_IN_THE_MIDDLE[case](told, old)))
    with pytest.raises(Refused, match="the keys of client 3 are not signed"):
        play.parties[0].answer("shares", lie.pack())


def test_a_client_of_whom_no_key_is_pinned_is_refused():
    play = signed_play(unpinned(signing())).keys()
    with pytest.raises(Refused, match=r"client 3 .* peers has no key"):
        play.parties[0].answer("shares", play.tally.roster.pack())


# Bytes -------------------------------------------------------------------------------------


def test_fifty_clients_cost_little_more_than_the_plain_update():
    """The vector of the quickstart's active factor: rank 4, query and value, six layers of MiniLM;
    what a client sends is at most 1.3 times the plain update, and what it is told beside it, too.
    """
    shapes = {(f"layer.{i}.{name}", "B"): (384, 4) for i in range(6) for name in ("query", "value")}
    tensors = {key: torch.zeros(shape) for key, shape in shapes.items()}
    plain = payload_bytes(Adapter.of(tensors).layout)
    updates = [Update(c, 10, Adapter.of(tensors), {"train_loss": 1.0}) for c in range(50)]
    play = Play(terms(50, 34), updates).keys()
    up = 96 + 96
    told = play.tally.roster.pack()
    down = len(told)
    for client, party in play.parties.items():
        play.tally.dealt(client, party.answer("shares", told))
    up += 80 * 49
    dealt = play.tally.passed_on(0)
    down += len(dealt)
    masked = play.parties[0].masked(dealt, updates[0])
    there = pack_clients(range(50))
    down += len(there)
    up += len(play.parties[0].answer("opened", there))
    assert (up, down) == beside(50)
    sent = up + update_bytes(masked)
    assert sent <= 1.3 * plain
    assert sent + plain + down <= 1.3 * (plain + plain)  # with what it is sent to start from


# Pieces ------------------------------------------------------------------------------------


@given(st.integers(0, PRIME - 1), st.integers(1, 8), st.integers(0, 6), st.randoms())
def test_any_threshold_of_shares_make_the_secret_and_one_less_says_nothing(s, t, more, random):
    holders = random.sample(range(1, 1000), t + more)
    shares = deal(s, t, holders)
    chosen = {holder: shares[holder] for holder in random.sample(holders, t)}
    assert at(0, chosen) == s
    if t > 1:
        chosen.popitem()
        # Another secret goes as well with the shares that are left.
        other = (s + 1) % PRIME
        missing = next(h for h in holders if h not in chosen)
        point = at(missing, {**chosen, 0: other})
        assert at(0, {**chosen, missing: point}) == other


def test_a_secret_is_had_past_false_shares_and_not_of_too_few():
    secret = fresh()
    shares = deal(secret, 3, range(1, 7))
    false = {**shares, 2: 17}
    assert together(false, 3, lambda found: found == secret) == (secret, [2])
    assert together(dict(list(shares.items())[:2]), 3, lambda found: True) is None
    assert together(shares, 3, lambda found: False) is None


@given(st.binary(max_size=600))
def test_no_bytes_make_anything_but_a_form_or_a_refusal(text):
    for step in ("keys", "shares"):
        party = Party(0, 9, terms(3))
        if step == "shares":
            party.answer("keys", b"")
            with pytest.raises(Refused):
                party.answer(step, text)
    with pytest.raises(BadForm):
        Roster.unpack(terms(3), text)
    tally = Tally(terms(3), 1.0)
    if len(text) < 192 or (len(text) - 192) % 4:
        with pytest.raises(BadForm):
            tally.seated(0, text)
