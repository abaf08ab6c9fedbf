"""What is made of columns: a table of files as people have them, and whatever else there may be."""

import datetime

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rolora.core.errors import BadInput
from rolora.starter.columns import Profile, profiles
from rolora.starter.roles import Choice, guess_roles, guess_task

N = 60
WORDS = [f"word{i}" for i in range(16)]


def prose(words=12, start=0):
    """Texts, each another."""
    return [" ".join(WORDS[(i + j + start) % 16] for j in range(words)) + f" {i}" for i in range(N)]


def turns(*values):
    """One value after the other."""
    return [values[i % len(values)] for i in range(N)]


NUMBERED = [str(i) for i in range(N)]
CODES = [f"P-{i:05}" for i in range(N)]
DAYS = [f"2024-{i % 12 + 1:02}-{i % 28 + 1:02}" for i in range(N)]
FRACTIONS = [f"{(i * 7 % 50) / 10}" for i in range(N)]
LINKS = [f"https://example.org/a/very/long/address/of/a/page/{i}.html" for i in range(N)]
LABELS = turns("gout", "sprain", "fracture")
EMPTY = [None] * N

# columns; text, second text, label, field, task
FILES = {
    "notes of hospitals": (
        {"patient_id": CODES, "date": DAYS, "hospital": turns("a", "b"), "age": NUMBERED,
         "note": prose(), "diagnosis": LABELS, "remarks": EMPTY},
        ("note", None, "diagnosis", "hospital", "classification"),
    ),
    "numbers for labels and words beside them": (
        {"label": turns("0", "1"), "text": prose(), "label_text": turns("no", "yes")},
        ("text", None, "label", None, "classification"),
    ),
    "inference": (
        {"idx": NUMBERED, "premise": prose(), "hypothesis": prose(5), "label": turns(0, 1, 2)},
        ("premise", "hypothesis", "label", None, "classification"),
    ),
    "a numbered pair with a score": (
        {"sentence1": prose(8), "sentence2": prose(8, 3), "score": FRACTIONS, "genre": LABELS},
        ("sentence1", "sentence2", "score", None, "regression"),
    ),
    "questions in two columns": (
        {"Question A": prose(6), "Question B": prose(7), "duplicate": turns("true", "false")},
        ("Question A", "Question B", "duplicate", None, "classification"),
    ),
    "several labels in a cell": (
        {"text": prose(), "tags": turns("red|blue", "red", None, "green;blue")},
        ("text", None, "tags", None, "multilabel"),
    ),
    "lists": (
        {"abstract": prose(), "topics": turns(["a", "b"], [], ["c"])},
        ("abstract", None, "topics", None, "multilabel"),
    ),
    "no telling name": (
        {"a": NUMBERED, "b": prose(), "c": turns(True, False), "d": DAYS},
        ("b", None, "c", None, "classification"),
    ),
    "a number to be learned": (
        {"Unnamed: 0": NUMBERED, "report": prose(), "bleeding_ml": FRACTIONS},
        ("report", None, "bleeding_ml", None, "regression"),
    ),
    "the named texts are shorter than the others": (
        {"explanation": prose(40), "text": prose(6), "sentiment": turns("+", "-")},
        ("text", None, "sentiment", None, "classification"),
    ),
    "the longest of no telling names": (
        {"x": prose(4), "z": prose(14), "w": LINKS, "kind": LABELS},
        ("z", None, "kind", None, "classification"),
    ),
    "no spaces between words": (
        {"id": CODES, "内容": [f"今天天气很好{i}" for i in range(N)], "类": turns("a", "b")},
        ("内容", None, "类", None, "classification"),
    ),
    "single words": (
        {"text": [f"Smith{i}" for i in range(N)], "label": turns("en", "de")},
        ("text", None, "label", None, "classification"),
    ),
    "semicolons in prose are no labels": (
        {"note": [text.replace(" with", "; with") for text in prose()], "class": turns("a", "b")},
        ("note", None, "class", None, "classification"),
    ),
    "many numbered classes": (
        {"text": prose(), "intent": turns(*map(str, range(20)))},
        ("text", None, "intent", None, "classification"),
    ),
    "stars": (
        {"review": prose(), "star_rating": turns("1", "2", "3", "4", "5"), "userId": turns(7, 8)},
        ("review", None, "star_rating", "userId", "classification"),
    ),
    "scores that are whole numbers": (
        {"essay": prose(30), "score": turns(*range(18)), "school": turns("n", "s")},
        ("essay", None, "score", "school", "regression"),
    ),
    "a site with few rows is no field": (
        {"text": prose(), "label": turns("a", "b"), "site": ["x"] * 57 + ["y"] * 3},
        ("text", None, "label", None, "classification"),
    ),
    "a site that is not always known is no field": (
        {"text": prose(), "label": turns("a", "b"), "site": turns("x", "y", "z", None)},
        ("text", None, "label", None, "classification"),
    ),
    "every row another user": (
        {"user": CODES, "comment": prose(), "toxicity": FRACTIONS},
        ("comment", None, "toxicity", None, "regression"),
    ),
    "real dates": (
        {"seen": [datetime.date(2024, 1, i % 28 + 1) for i in range(N)], "text": prose(),
         "verdict": turns("no", "yes")},
        ("text", None, "verdict", None, "classification"),
    ),
}  # fmt: skip


def guessed(columns, clients=None, classes=None, **choice):
    found = profiles(columns, classes or {})
    roles = guess_roles(found, Choice(**choice), clients)
    names = [roles.text, roles.text_pair, roles.label, roles.field]
    task = guess_task(found[roles.label.value]).value
    return (*(guess and guess.value for guess in names), task), roles


@pytest.mark.parametrize("name", FILES)
def test_what_each_column_is_for_is_guessed(name):
    columns, wanted = FILES[name]
    found, roles = guessed(columns)
    assert found == wanted
    assert set(roles.others) == set(columns) - set(wanted[:4])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": prose()}, ["--label", "no column looks like a label", "text: text of 13 words"]),
        ({"id": CODES, "label": LABELS}, ["--text", "id: words, 60 different; label: words, 3"]),
        (
            {"text": prose(), "a": LABELS, "b": turns("x", "y")},
            ["--label: it could be any of a, b; name one"],
        ),
        ({"text": prose(), "label": ["same"] * N}, ["--label: no column looks like a label"]),
        ({"text": prose(), "day": turns("2024-01-01", "2024-01-02")}, ["dates, 2 different"]),
        ({"text": prose(), "site": turns("x", "y")}, ["--label", "site: words, 2 different"]),
        ({"text": prose(), "nothing": EMPTY, "n": NUMBERED}, ["nothing: empty", "n: row numbers"]),
        ({str(i): NUMBERED for i in range(30)}, ["--text", "10 more)"]),
    ],
    ids=str,
)
def test_what_cannot_be_guessed_is_refused_with_the_columns(columns, words):
    with pytest.raises(BadInput) as error:
        guessed(columns)
    for word in words:
        assert word in str(error.value)


def test_two_rows_are_enough_to_see_which_is_the_text():
    columns = {"comment": ["all well", "hello there"], "id": ["1", "2"]}
    with pytest.raises(BadInput, match="--label"):
        guessed(columns)


def test_what_a_person_named_is_taken_and_the_rest_guessed():
    columns = FILES["notes of hospitals"][0] | {"history": prose(30)}
    assert guessed(columns, text="history")[0][0] == "history"
    assert guessed(columns, text_pair="history")[0][:2] == ("note", "history")
    assert guessed(columns, text="history", text_pair="note")[0][:2] == ("history", "note")
    assert guessed(columns, label="hospital")[0][2:4] == ("hospital", None)
    assert guessed(columns, label="hospital", field="diagnosis")[0][3] == "diagnosis"
    assert guessed(columns, label="age", task="regression")[0][2] == "age"
    found, roles = guessed(columns, label="age")
    assert found[4] == "regression"
    assert roles.label.why == "as you named it"


def test_the_task_narrows_what_may_be_the_label():
    columns = {"text": prose(), "tags": turns("a|b", "c", "b|c"), "grade": FRACTIONS, "x": LABELS}
    assert guessed(columns, task="regression")[0][2] == "grade"
    assert guessed(columns, task="multilabel")[0][2] == "tags"
    assert guessed(columns, task="classification")[0][2] == "x"


def test_a_number_of_clients_decides_whether_there_is_a_field():
    columns = FILES["notes of hospitals"][0]
    assert guessed(columns, clients=2)[0][3] == "hospital"
    assert guessed(columns, clients=5)[0][3] is None
    with pytest.raises(BadInput, match=r"--clients 5: the column 'hospital' has 2 different"):
        guessed(columns, clients=5, field="hospital")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"label": "diagnossis"}, "--label 'diagnossis': no such column.*did you mean diagnosis"),
        ({"text": "note", "label": "note"}, "--label 'note': is --text already"),
        ({"text_pair": "x"}, "--text-pair 'x': no such column"),
    ],
)
def test_a_column_that_is_not_there_or_named_twice_is_refused(choice, words):
    with pytest.raises(BadInput, match=words):
        guessed(FILES["notes of hospitals"][0], **choice)


def test_classes_that_the_data_bring_decide():
    columns = {"text": prose(), "a": turns(0, 1), "b": turns(0, 1, 2)}
    assert guessed(columns, classes={"b": ("x", "y", "z")})[0][2] == "b"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([], "empty"),
        ([None, float("nan"), ""], "empty"),
        (["1", " 2.5", "-3e4"], "numbers"),
        (["1_000", "2"], "words"),
        (["1", "nan"], "words"),
        (["1e999", "2"], "words"),
        ([True, False], "words"),
        (["2024-01-02", "2024-01-03T10:00:00"], "dates"),
        (["3.4.2024", "12/31/99"], "dates"),
        (["a b", "c"], "text"),
        ([["a"], []], "lists"),
        ([{"a": 1}], "others"),
        ([b"bytes"], "others"),
        ([10**400], "words"),
    ],
    ids=str,
)
def test_kinds_of_cells(values, kind):
    profile = Profile("a", values)
    assert profile.kind == kind
    assert profile.described()


cells = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.dates(),
    st.binary(max_size=2), st.lists(st.text(max_size=3), max_size=3),
    st.sampled_from(["a b c d", "a|b", "1", "0.5", "2024-01-01", "x"]),
)  # fmt: skip
names = st.text(max_size=8) | st.sampled_from(["text", "label", "site", "score", "text_pair", "id"])


@hypothesis_settings(max_examples=200)
@given(st.dictionaries(names, st.lists(cells, min_size=8, max_size=8), max_size=6))
def test_any_table_is_guessed_or_refused(columns):
    try:
        found, roles = guessed(columns)
    except BadInput as error:
        assert str(error).startswith("--")  # noqa: PT017
    else:
        used = [name for name in found[:4] if name is not None]
        assert len(used) == len(set(used))
        assert {*used, *roles.others} == set(columns)
