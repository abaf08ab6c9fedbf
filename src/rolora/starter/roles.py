"""Which column is the text, the second text, the label and the site: guessed, and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rolora.core.errors import BadInput, nearest
from rolora.starter.columns import Profile

TEXTS = (
    "text", "sentence", "review", "note", "content", "body", "comment", "message", "document",
    "tweet", "post", "narrative", "abstract", "description", "utterance", "question", "query",
    "premise", "report", "article", "transcript",
)  # fmt: skip
PAIRS = (
    ("premise", "hypothesis"), ("question", "answer"), ("question", "passage"),
    ("question", "context"), ("question", "sentence"), ("query", "document"), ("query", "passage"),
    ("text", "text_pair"), ("claim", "evidence"),
)  # fmt: skip
CLASSES = (
    "label", "target", "class", "category", "sentiment", "diagnosis", "verdict", "outcome",
    "emotion", "topic", "intent", "tag", "stance", "polarity", "y",
)  # fmt: skip
SCORES = ("score", "rating", "star", "grade", "similarity", "toxicity", "severity")
SITES = (
    "hospital", "site", "client", "clinic", "center", "centre", "institution", "bank", "branch",
    "school", "department", "ward", "organization", "organisation", "company", "user", "author",
    "writer", "speaker", "device", "region", "country", "silo", "party", "node",
)  # fmt: skip
IDENTIFIERS = ("id", "index", "idx", "row", "uuid", "key", "unnamed")
FEWEST = 10
"""Rows of a site below which a column is not guessed to be that of the sites."""
MOST_SITES = 100


@dataclass(frozen=True)
class Guess:
    """A column, or another value, and in words why it is this one."""

    value: str
    why: str


@dataclass(frozen=True)
class Choice:
    """The columns and the task that a person named; None is guessed."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    field: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class Roles:
    """What each column is for; `others` are for nothing, each with what it holds."""

    text: Guess
    text_pair: Guess | None
    label: Guess
    field: Guess | None
    others: Mapping[str, str]


def guess_roles(columns: Mapping[str, Profile], choice: Choice, clients: int | None) -> Roles:
    """Guess what each column is for.

    Args:
        columns: by name.
        choice: what a person named is not guessed.
        clients: how many there must be, if that is known.

    Raises:
        BadInput: a column that was named is not there, or one that is needed cannot be guessed.
    """
    _check_named(columns, choice)
    free = {n: p for n, p in columns.items() if n not in (choice.label, choice.field)}
    text, pair = _texts(free, choice)
    taken = {text.value, *([pair.value] if pair else ())}
    free = {n: p for n, p in columns.items() if n not in {*taken, choice.field}}
    label = _label(free, choice, columns)
    free = {n: p for n, p in columns.items() if n not in {*taken, label.value}}
    field = _field(free, choice, clients)
    used = {*taken, label.value, *([field.value] if field else ())}
    others = {n: p.described() for n, p in columns.items() if n not in used}
    return Roles(text, pair, label, field, others)


def _check_named(columns: Mapping[str, Profile], choice: Choice) -> None:
    named: dict[str, str] = {}
    for role in ("text", "text_pair", "label", "field"):
        column, option = getattr(choice, role), f"--{role.replace('_', '-')}"
        if column is None:
            continue
        if column not in columns:
            raise BadInput(f"{option} {column!r}: no such column{nearest(column, columns)}")
        if column in named:
            raise BadInput(f"{option} {column!r}: is {named[column]} already; name another column")
        named[column] = option


# Texts -------------------------------------------------------------------------------------


def _texts(columns: Mapping[str, Profile], choice: Choice) -> tuple[Guess, Guess | None]:
    given = [Guess(name, "as you named it") for name in (choice.text, choice.text_pair) if name]
    if choice.text and choice.text_pair:
        return given[0], given[1]
    prose = {n: p for n, p in columns.items() if _may_be_text(p)}
    if not given:
        pair = _pair(prose)
        if pair is not None:
            return pair
    if choice.text:
        return given[0], None
    rest = {n: p for n, p in prose.items() if n != choice.text_pair}
    if not rest:
        raise BadInput(f"--text: no column looks like texts; name one{_listed(columns)}")
    named = [p for p in rest.values() if _named(p.name, TEXTS) is not None]
    best = max(named or rest.values(), key=lambda p: p.length)
    why = f"named as texts are, {_size(best)}" if named else f"the longest texts, {_size(best)}"
    return Guess(best.name, why), given[0] if given else None


def _may_be_text(profile: Profile) -> bool:
    if profile.kind == "words":
        return _named(profile.name, TEXTS) is not None
    return profile.kind == "text" and not profile.few and not profile.parts


def _pair(prose: Mapping[str, Profile]) -> tuple[Guess, Guess] | None:
    """Two columns of texts whose names say that they are a pair; the longest such pair."""
    found = [(a, b) for a in prose for b in prose if a != b and _are_pair(a, b)]
    if not found:
        return None
    first, second = max(found, key=lambda pair: sum(prose[name].length for name in pair))
    return Guess(first, f"with {second} a pair, by their names"), Guess(second, "the second text")


def _are_pair(first: str, second: str) -> bool:
    a, b = first.lower(), second.lower()
    if (a, b) in PAIRS:
        return True
    return len(a) > 1 and a[:-1] == b[:-1] and (a[-1], b[-1]) in (("1", "2"), ("a", "b"))


def _size(profile: Profile) -> str:
    if profile.words >= 2:
        return f"{profile.words:.0f} words on average"
    return f"{profile.length:.0f} characters on average"


# The label ---------------------------------------------------------------------------------


def _label(columns: Mapping[str, Profile], choice: Choice, every: Mapping[str, Profile]) -> Guess:
    if choice.label:
        return Guess(choice.label, "as you named it")
    fits = _FITS.get(choice.task or "", _fits_any)
    usable = [p for p in columns.values() if fits(p)]
    named = [(rank, p) for p in usable if (rank := _named(p.name, CLASSES + SCORES)) is not None]
    if named:
        return Guess(min(named, key=lambda pair: pair[0])[1].name, "named as labels are")
    plain = [p for p in usable if _named(p.name, SITES + IDENTIFIERS) is None and not p.numbered]
    for why, group in (
        ("the only column of classes", [p for p in plain if p.classes]),
        ("the only column of few values", [p for p in plain if p.few or p.parts]),
        ("the only column of numbers", [p for p in plain if p.kind == "numbers"]),
    ):
        if len(group) == 1:
            return Guess(group[0].name, why)
        if group:
            names = ", ".join(p.name for p in group)
            raise BadInput(f"--label: it could be any of {names}; name one{_listed(every)}")
    what = f" for task {choice.task}" if choice.task else ""
    raise BadInput(f"--label: no column looks like a label{what}; name one{_listed(every)}")


def _fits_any(profile: Profile) -> bool:
    if profile.kind in ("empty", "dates", "others"):
        return False
    return bool(profile.few or profile.parts or profile.numbers)


_FITS: Mapping[str, Callable[[Profile], bool]] = {
    "classification": lambda p: p.few and p.kind != "dates" and not p.parts,
    "regression": lambda p: bool(p.numbers) and not p.classes,
    "multilabel": lambda p: bool(p.parts) or (p.few and p.kind in ("words", "text")),
}


def guess_task(label: Profile) -> Guess:
    """The task that the label's cells are of."""
    if label.parts:
        return Guess("multilabel", f"several labels a cell: {_some(sorted(label.parts))}")
    distinct = len(label.counts)
    if not label.numbers or label.classes:
        labels = label.classes or sorted(label.counts)
        return Guess("classification", f"one label a cell: {_some(labels)}")
    score = _named(label.name, SCORES) is not None
    most = 10 if score else 200 if _named(label.name, CLASSES) is not None else 20
    if label.few and distinct <= most:
        advice = "; regression would take them as scores" if score else ""
        return Guess("classification", f"{distinct} different whole numbers{advice}")
    return Guess("regression", label.described())


def _some(names: Sequence[str]) -> str:
    """The first names, short, and how many more there are."""
    shown = ", ".join(name[:20] for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# The sites ---------------------------------------------------------------------------------


def _field(columns: Mapping[str, Profile], choice: Choice, clients: int | None) -> Guess | None:
    if choice.field:
        values = len(columns[choice.field].counts)
        if clients is not None and clients != values:
            raise BadInput(
                f"--clients {clients}: the column {choice.field!r} has {values} different values, "
                "and each is a client; leave --clients or --field out"
            )
        return Guess(choice.field, f"as you named it, {values} clients")
    fitting = [p for p in columns.values() if _may_be_sites(p, clients)]
    named = [(rank, p) for p in fitting if (rank := _named(p.name, SITES)) is not None]
    if not named:
        return None
    best = min(named, key=lambda pair: pair[0])[1]
    return Guess(best.name, f"named as sites are, {len(best.counts)} different")


def _may_be_sites(profile: Profile, clients: int | None) -> bool:
    sizes = profile.counts
    return (
        profile.few
        and profile.kind != "dates"
        and len(profile.filled) == len(profile.values)
        and len(sizes) <= MOST_SITES
        and min(sizes.values()) >= FEWEST
        and clients in (None, len(sizes))
    )


# Names -------------------------------------------------------------------------------------


def _named(name: str, known: Sequence[str]) -> tuple[bool, int] | None:
    """How well a name is one of the `known`: as a whole or by one of its words, and which."""
    whole = _singular(name.strip().lower())
    if whole in known:
        return False, known.index(whole)
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    found = [known.index(word) for word in map(_singular, _words(split)) if word in known]
    return (True, min(found)) if found else None


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())


def _singular(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and word[-2:-1] not in "sui" else word


def _listed(columns: Mapping[str, Profile]) -> str:
    return f" (columns: {listed({n: p.described() for n, p in columns.items()})})"


def listed(described: Mapping[str, str], most: int = 20) -> str:
    """Columns in one line, each with what it holds; the last of many are counted."""
    items = [f"{name}: {what}" for name, what in described.items()]
    more = [f"{len(items) - most} more"] if len(items) > most else []
    return "; ".join([*items[:most], *more])
