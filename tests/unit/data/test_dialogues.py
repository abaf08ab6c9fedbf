"""Records of every kind as dialogues, and dialogues as tokens of which some are learned."""

import json

import datasets
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import small
from rolora.config import DataConfig, PartitionConfig, TaskConfig
from rolora.core.errors import BadInput
from rolora.data.choices import CHOICES
from rolora.data.completions import tokenize_dialogues
from rolora.data.dialogue import DialogueSplit, Turn
from rolora.data.formats import format_of
from rolora.data.readers import Table
from rolora.data.sources import Source, table_of
from rolora.data.templates import asked, pieces, template_of
from rolora.tasks import make_task

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<s> system\nbe kind</s>\n{% endif %}"
    "{% for m in messages %}<s> {{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s> assistant\n{% endif %}"
)
QUESTION, ANSWER = Turn("user", "w1 w2"), Turn("assistant", "w3 w4")


def byte_tokenizer(merges=(), chat_template=None, **specials):
    """A token a character, and one for each of `merges`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "<s>", "</s>"]
    vocabulary = {t: i for i, t in enumerate([*names, *letters, *("".join(m) for m in merges)])}
    inner = Tokenizer(models.BPE(vocabulary, list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", **specials
    )
    made.chat_template = chat_template
    return made


def learned_of(dialogues, tokenizer, max_length=10_000, template="auto"):
    """What is learned of each dialogue, and what is not, as text; and the examples."""
    strata = torch.zeros(len(dialogues), dtype=torch.int64).numpy()
    split = DialogueSplit(list(dialogues), strata, (), "records")
    examples = tokenize_dialogues(split, tokenizer, max_length, template)
    found = []
    for i in range(len(examples)):
        batch = examples.batch(torch.tensor([i]))
        ids, learned = batch["input_ids"][0], batch["learned"][0].bool()
        found.append((tokenizer.decode(ids[~learned]), tokenizer.decode(ids[learned])))
    return found, examples


def read(rows, **options):
    """The format's title and the dialogues of records."""
    table = table_of(rows, "data")
    kind = format_of(table, Source(**options))
    return kind.title, kind.read(table)


# Formats ----------------------------------------------------------------------------------


def test_alpaca_records_have_an_instruction_perhaps_an_input_and_an_output():
    rows = [
        {"instruction": "Add.", "input": "1 and 2", "output": "3", "topic": "sums"},
        {"instruction": "Greet.", "input": None, "output": "Hello", "topic": "talk"},
    ]
    title, found = read(rows)
    assert title == "instructions (instruction, input, output)"
    assert found == [
        (Turn("user", "Add.", "1 and 2"), Turn("assistant", "3")),
        (Turn("user", "Greet."), Turn("assistant", "Hello")),
    ]
    assert read([{"instruction": "a", "response": "b"}])[1][0][1] == Turn("assistant", "b")


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"prompt": "a", "completion": "b"}, {}),
        ({"question": "a", "answer": "b"}, {"text": "question", "label": "answer"}),
        ({"instruction": "a", "output": "b"}, {"text": "instruction", "label": "output"}),
    ],
)
def test_a_prompt_and_its_completion_stand_as_they_are(row, options):
    assert read([row], **options)[1] == [(Turn("prompt", "a"), Turn("completion", "b"))]


def test_messages_may_be_in_the_words_of_openai_or_of_sharegpt():
    one = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    other = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    wanted = (Turn("user", "a"), Turn("assistant", "b"))
    for row, options in (
        ({"messages": one}, {}),
        ({"conversations": other}, {}),
        ({"talk": one}, {"text": "talk"}),
    ):
        assert read([row], **options)[1] == [wanted]
    # From datasets too, which hold messages as structs.
    table = table_of(datasets.Dataset.from_list([{"messages": one, "user": "u"}]), "data")
    assert format_of(table, Source()).read(table) == [wanted]


def test_plain_text_is_learned_whole():
    title, found = read([{"text": "all of it", "label": 1}])
    assert title == "plain text (text)"
    assert found == [(Turn("completion", "all of it"),)]


ROWS = {
    "boolq": {"question": "is it so", "passage": "It is.", "answer": False},
    "piqa": {"goal": "open it", "sol1": "pull", "sol2": "push", "label": 1},
    "siqa": {
        "context": "Al fell.",
        "question": "Why?",
        "answerA": "ice",
        "answerB": "sun",
        "answerC": "fun",
        "label": "2",
    },
    "hellaswag": {
        "ind": 4,
        "activity_label": "Run",
        "ctx_a": "It is early.",
        "ctx_b": "a man",
        "ctx": "It is early. a man",
        "endings": ["sits", "runs", "eats", "is"],
        "source_id": "activitynet~v_0",
        "split": "train",
        "split_type": "indomain",
        "label": "1",
    },
    "winogrande": {"sentence": "The _ is big.", "option1": "cup", "option2": "car", "answer": "2"},
    "arc_easy": {
        "id": "M",
        "question": "What falls?",
        "choices": {"text": ["air", "rain", "sky"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "openbookqa": {
        "id": "7",
        "question_stem": "The sun",
        "choices": {"text": ["is cold", "is hot"], "label": ["A", "B"]},
        "answerKey": "B",
    },
}
ROWS["arc_challenge"] = ROWS["arc_easy"]


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("kind", ["records", "parquet"])
def test_a_question_of_each_multiple_choice_set_is_answered_by_its_letter(name, kind, tmp_path):
    data = [ROWS[name]]
    if kind == "parquet":
        datasets.Dataset.from_list(data).to_parquet(tmp_path / "d.parquet")
        data = datasets.Dataset.from_parquet(str(tmp_path / "d.parquet"), cache_dir=str(tmp_path))
    table = table_of(data, "data")
    for wanted in ("auto", name):
        found = format_of(table, Source(), wanted)
        ((question, answer),) = found.read(table)
        assert answer == Turn("assistant", "B")
        assert found.title.startswith(CHOICES[name].title)
    assert "\nA. " in question.content
    assert "\nB. " in question.content
    assert "\nD. " in question.content or name != "hellaswag"


def test_a_hidden_answer_is_no_answer():
    hidden = {"boolq": None, "piqa": -1, "hellaswag": "", "winogrande": "", "arc_easy": ""}
    task = make_task(TaskConfig(name="causal_lm"))
    for name, value in hidden.items():
        row = ROWS[name] | {CHOICES[name].answer: value}
        assert not task.answered(table_of([row], "data"), Source())
        with pytest.raises(BadInput, match="row 1 of data is no record of the kind"):
            read([row])
        assert task.answered(table_of([ROWS[name]], "data"), Source())


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"a": "b"}], "has the columns 'a'"),
        ([{"instruction": "a", "output": 3}], "output is 3, not text"),
        ([{"prompt": "a", "completion": None}], "completion is missing"),
        ([{"messages": "a"}], "must be a list of messages"),
        ([{"messages": [{"role": "tool", "content": "a"}]}], "the role 'tool'"),
        ([{"messages": [{"role": "user", "content": "a"}]}], "no message of the assistant"),
        ([ROWS["piqa"] | {"label": 2}], "the answer 3 of 2"),
        ([{"text": "\ud83d"}], "half a character"),
    ],
)
def test_what_is_no_record_is_refused_by_its_row(rows, words):
    with pytest.raises(BadInput, match=words):
        read(rows)


# Templates and tokens ---------------------------------------------------------------------


def test_the_plain_template_is_alpacas():
    tokenizer = byte_tokenizer()
    ((asked_for, said),), _ = learned_of(
        [(Turn("user", "Add.", "1, 2"), Turn("assistant", "3"))], tokenizer
    )
    assert asked_for == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
        "Add.\n\n### Input:\n1, 2\n\n### Response:\n"
    )
    assert said == "3</s>"


def test_of_a_chat_all_answers_are_learned_with_the_end_of_their_turns():
    chat = (
        Turn("system", "be wise"),
        QUESTION,
        ANSWER,
        Turn("user", "w5"),
        Turn("assistant", "w6"),
    )
    tokenizer = byte_tokenizer(chat_template=CHATML)
    ((others, said),), _ = learned_of([chat], tokenizer)
    assert said == "w3 w4</s>w6</s>"
    assert others == (
        "<s> system\nbe wise</s>\n<s> user\nw1 w2</s>\n<s> assistant\n"
        "\n<s> user\nw5</s>\n<s> assistant\n"
    )
    ((others, said),), _ = learned_of([chat], tokenizer, template="plain")
    assert said == "w3 w4</s>w6</s>"
    assert others.startswith("be wise\n\n### Instruction:\nw1 w2\n\n### Response:\n\n\n###")


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_model_is_asked_as_it_was_taught(template):
    tokenizer = byte_tokenizer(chat_template=CHATML)
    first = pieces((QUESTION, ANSWER), tokenizer, template)[0]
    assert asked((QUESTION,), tokenizer, template) == first.text
    assert not first.learned


def test_a_template_that_rewrites_earlier_turns_is_refused():
    shrinking = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
    tokenizer = byte_tokenizer(chat_template=shrinking)
    with pytest.raises(BadInput, match="one turn after the other"):
        learned_of([(QUESTION, ANSWER)], tokenizer)
    assert learned_of([(QUESTION, ANSWER)], tokenizer, template="plain")[0]
    with pytest.raises(BadInput, match="has no chat template; use plain"):
        template_of(byte_tokenizer(), "chat")


def test_a_prompts_tokens_are_those_it_has_by_itself_whatever_merges_across_its_end():
    tokenizer = byte_tokenizer(merges=[("b", "c"), ("c", "d")])
    prompt, completion = Turn("prompt", "ab"), Turn("completion", "cd")
    assert tokenizer.tokenize("abcd") == ["a", "bc", "d"]  # which the prompt's end is not in
    (pair,), examples = learned_of([(prompt, completion)], tokenizer)
    assert pair == ("ab", "cd</s>")
    ids = examples.batch(torch.tensor([0]))["input_ids"][0].tolist()
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "b", "cd", "</s>"]
    assert examples.targets.tolist() == [2]


def test_where_nothing_merges_across_the_tokens_are_those_of_the_whole_text():
    tokenizer = byte_tokenizer(merges=[("b", "c"), ("c", "d")])
    _, examples = learned_of([(Turn("prompt", "cd"), Turn("completion", "bcd"))], tokenizer)
    ids = examples.batch(torch.tensor([0]))["input_ids"][0].tolist()
    assert ids[:-1] == tokenizer("cdbcd", add_special_tokens=False)["input_ids"]


def test_text_is_learned_from_its_second_token_on_and_ends():
    tokenizer = small.word_tokenizer()
    _, examples = learned_of([(Turn("completion", "w1 w2 w3"),)], tokenizer)
    assert examples.tokens["input_ids"].tolist() == [5, 6, 7, 3, 0]
    assert examples.targets.tolist() == [3]


def test_what_is_cut_is_counted_and_an_answer_that_is_cut_off_whole_is_dropped():
    tokenizer = small.word_tokenizer()
    dialogues = [
        (Turn("prompt", "w1 " * length), Turn("completion", "w2 w3")) for length in (2, 3, 4, 9)
    ]
    _, examples = learned_of(dialogues, tokenizer, max_length=5)
    assert examples.targets.tolist() == [3, 2, 1]
    assert examples.lengths.tolist() == [5, 5, 5]
    assert (examples.cut, examples.dropped) == (3, 1)
    with pytest.raises(BadInput, match=r"data\.max_length = 2: no example of records"):
        learned_of(dialogues, tokenizer, max_length=2)


def test_the_beginning_of_text_is_set_where_the_tokenizer_sets_it():
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer(chat_template=CHATML)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    (plain,), _ = learned_of([(Turn("prompt", "a"), Turn("completion", "b"))], tokenizer)
    assert plain == ("<s>a", "b</s>")
    (chat,), _ = learned_of([(Turn("system", "x"), QUESTION, ANSWER)], tokenizer)
    assert chat[0].startswith("<s> system")  # once, as the template has it


# Through the task -------------------------------------------------------------------------


def written(tmp_path, rows):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return DataConfig(path=path)


def test_one_question_stays_on_one_side_whatever_its_answers(tmp_path):
    rows = [
        {"prompt": f"question {i % 20}", "completion": f"answer {i}", "party": f"p{i % 3}"}
        for i in range(120)
    ]
    task = make_task(TaskConfig(name="causal_lm", strata="party"))
    raw = task.load(written(tmp_path, rows), seed=0)
    sides = [
        {d[0].content for d in part.dialogues} for part in (raw.train, raw.validation, raw.test)
    ]
    assert sum(map(len, sides)) == 20 == len(set.union(*sides))
    assert sum(map(len, (raw.train, raw.validation, raw.test))) == 120
    assert raw.train.names == ("p0", "p1", "p2")


def test_a_column_may_name_the_party_and_another_the_strata(tmp_path):
    rows = [
        {"instruction": f"do {i}", "output": "done", "topic": "ab"[i % 2], "party": f"p{i % 3}"}
        for i in range(90)
    ]
    task = make_task(TaskConfig(name="causal_lm", strata="topic"))
    by = PartitionConfig(name="field", field="party")
    raw = task.load(written(tmp_path, rows), seed=0, partition=by)
    examples = task.tokens(raw.train, byte_tokenizer(), 2000)
    assert set(examples.values("party")) == {"p0", "p1", "p2"}
    topics = [task.strata_names(examples.names)[i] for i in examples.strata]
    assert topics == list(examples.fields["topic"])
    with pytest.raises(BadInput, match=r"task\.strata = 'topics': .*did you mean topic\b"):
        make_task(TaskConfig(name="causal_lm", strata="topics")).load(written(tmp_path, rows), 0)


def test_length_classes_are_those_of_the_learned_tokens(tmp_path):
    rows = [{"prompt": f"w{i % 60} w{i}", "completion": "w2 " * (i % 30)} for i in range(60)]
    task = make_task(TaskConfig(name="causal_lm"))
    raw = task.load(written(tmp_path, rows), seed=0)
    examples = task.tokens(raw.train, small.word_tokenizer(), 64)
    names = task.strata_names(examples.names)
    for learned, stratum in zip(examples.targets.tolist(), examples.strata.tolist(), strict=True):
        low, _, high = names[stratum].removesuffix(" tokens").partition(" to ")
        assert int(low) <= learned <= int(high)


def test_a_split_whose_answers_are_hidden_does_not_test(tmp_path):
    rows = [ROWS["piqa"] | {"goal": f"goal {i}"} for i in range(60)]
    for name, part in (("train", rows), ("test", [row | {"label": -1} for row in rows[:9]])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    task = make_task(TaskConfig(name="causal_lm"))
    raw = task.load(DataConfig(path=tmp_path), seed=0)
    assert raw.test_from == "10% of train"


def test_an_unknown_format_or_a_wrong_one_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"task: format.*did you mean alpaca"):
        make_task(TaskConfig(name="causal_lm", format="alpacca"))
    table = Table("data", {"text": ["a"]})
    with pytest.raises(BadInput, match=r"task\.format = 'alpaca': data has the columns 'text'"):
        format_of(table, Source(), "alpaca")
