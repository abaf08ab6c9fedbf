"""A language model's run after its end: answers side by side, talking to it, benchmarks, export."""

import io
import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import rolora
from rolora.core.errors import BadInput
from shell import rolora as shell


def rows(n):
    words = torch.randint(60, (n, 4), generator=torch.Generator().manual_seed(0)).tolist()
    return [
        {"instruction": " ".join(f"w{w}" for w in line), "input": "", "output": "w7 w8"}
        for line in words
    ]


def settings(llama, rounds=2, **evaluation):
    return {
        "rounds": rounds,
        "task": {"name": "causal_lm"},
        "model": {"name": llama, "device": "cpu"},
        "lora": {"r": 2, "target_modules": ["q_proj", "v_proj"]},
        "data": {"max_length": 60},
        "federation": {"clients": 2},
        "optimizer": {"lr": 0.05, "local_steps": 4, "batch_size": 4},
        "evaluation": {"generations": 2, **evaluation},
        "engine": {"workers": 1},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory, llama):
    out = tmp_path_factory.mktemp("speaking") / "run"
    return rolora.run(settings(llama), train=rows(60), out=out, show=False)


def test_answers_before_and_after_stand_on_the_report(run):
    found = run.files.generations.generations
    assert [item.reference for item in found] == ["w7 w8"] * 2
    assert all(item.base != item.adapter for item in found)
    assert [item.adapter for item in found] == run.generate([item.prompt for item in found], 128)
    page = (run.directory / "report.html").read_text()
    assert "Answers before and after" in page
    assert all(text in page for item in found for text in (item.base, item.adapter, item.prompt))


def test_no_answers_are_asked_for(tmp_path, llama):
    run = rolora.run(
        settings(llama, rounds=1, generations=0), train=rows(30), out=tmp_path / "r", show=False
    )
    assert not (run.directory / "generations.json").exists()
    assert "Answers before and after" not in run.report.read_text()


def test_a_run_that_goes_on_has_no_scores_of_before(tmp_path, llama):
    out = tmp_path / "r"
    first = rolora.run(settings(llama, rounds=1), train=rows(30), out=out, show=False)
    (out / "scores.json").write_text('{"schema": 2, "scores": []}')
    before = first.files.generations
    again = settings(llama, generations=2)
    run = rolora.run(again, train=rows(30), out=out, resume=True, show=False)
    assert run.files.scores is None
    assert run.files.generations != before


def test_what_fails_in_the_end_costs_no_run(tmp_path, llama, monkeypatch):
    def failing(_, notice):
        raise RuntimeError("no memory left")

    monkeypatch.setattr("rolora.library.scoring.generate_samples", failing)
    told = []
    callback = rolora.Callback()
    callback.notice = told.append
    run = rolora.run(
        settings(llama, rounds=1),
        train=rows(30),
        out=tmp_path / "r",
        show=False,
        callbacks=[callback],
    )
    assert run.summary.final.round == 1
    assert any("no sample generations (RuntimeError: no memory left)" in text for text in told)


def test_chat_reads_lines_and_starts_anew(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("w1 w2\nw3\n\n/reset\nw1 w2\n"))
    assert shell("chat", run.directory, "--max-new-tokens", 5) == 0
    first, second, anew = capsys.readouterr().out.splitlines()
    assert first.strip() == anew.strip() == run.generate(["w1 w2"], 5)[0]
    assert len(second.split()) <= 5


def test_what_is_too_long_is_said_and_the_chat_goes_on(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("w1 " * 90 + "\nw1 w2\n"))
    assert shell("chat", run.directory, "--max-new-tokens", 3) == 0
    out, err = capsys.readouterr()
    assert "more than the model takes" in err
    assert len(out.splitlines()) == 1


def test_ctrl_c_ends_a_chat(run, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert shell("chat", run.directory) == 0


def test_a_chat_template_is_used(run, monkeypatch):
    from rolora.data.dialogue import Turn
    from rolora.library.speaking import speaker

    model = speaker(run)
    plain = model.answer([Turn("user", "w1 w2")], 5)
    template = "{% for m in messages %}w50 {{ m.content }} {% endfor %}w51"
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    heard = []
    answer = model.answer([Turn("user", "w1 w2")], 5, heard.append)
    assert answer != plain
    assert answer == model.go_on("w50 w1 w2 w51", 5) == "".join(heard).strip()


def test_a_text_that_no_template_writes_out_is_gone_on_with(run):
    from rolora.library.speaking import speaker

    assert run.complete(["w1 w2"], 5) == [speaker(run).go_on("w1 w2", 5)]
    assert run.complete(["w1 w2"], 5) != run.generate(["w1 w2"], 5)
    with pytest.raises(BadInput, match="no tokens"):
        run.complete([""])


def test_the_merged_model_says_the_same(run, tmp_path):
    from rolora.library.speaking import Speaker

    assert shell("export", run.directory, "--merge", tmp_path / "merged") == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    item = run.files.generations.generations[0]
    from rolora.data.dialogue import Turn

    said = Speaker(model, tokenizer, "auto").answer([Turn("user", item.prompt)], 8)
    assert said == run.generate([item.prompt], 8)[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --data FILE, or --tasks NAMES"),
        (("--data", "x", "--limit", "3"), "--limit: goes with --tasks"),
        (("--data", "x", "--allow-code"), "--allow-code: goes with --tasks"),
        (("--tasks", "mmlu", "--split", "test"), "--split: a task of --tasks has its own"),
        (("--tasks", "mmlu", "--unconfined"), "give --allow-code as well"),
        (("--tasks", "mmlu", "--data", __file__), "is a directory of the tasks' data"),
        (("--tasks", " , "), "name at least one"),
        (("--tasks", "mmlu", "--limit", "0"), "limit = 0: must be at least 1"),
    ],
)
def test_evaluate_refuses(run, capsys, arguments, said):
    assert shell("evaluate", run.directory, *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_another_task_does_not_speak(tmp_path, bert, capsys):
    data = [{"text": f"w{i % 9} w{i % 7}", "label": i % 2} for i in range(40)]
    config = {"rounds": 1, "model": {"name": bert}, "federation": {"clients": 2}}
    config |= {"lora": {"target_modules": ["query"]}, "data": {"max_length": 16}}
    run = rolora.run(config, train=data, out=tmp_path / "r", show=False)
    with pytest.raises(BadInput, match="of task classification does not speak"):
        run.generate(["w1"])
    assert shell("chat", run.directory) == 2
    assert "rolora predict" in " ".join(capsys.readouterr().err.split())


def test_benchmarks_from_the_command_line(run, tmp_path, capsys):
    pytest.importorskip("lm_eval")
    (tmp_path / "quiz.yaml").write_text(
        "task: quiz\ndataset_path: makers/quiz\noutput_type: multiple_choice\ntest_split: test\n"
        "doc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: answer\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    place = tmp_path / "data/makers/quiz"
    place.mkdir(parents=True)
    docs = [
        {"question": f"w{i}", "choices": [f"w{i + 1}", f"w{i + 9}"], "answer": i % 2}
        for i in range(20)
    ]
    (place / "test.jsonl").write_text("\n".join(map(json.dumps, docs)))
    options = ("--tasks", tmp_path / "quiz.yaml", "--data", tmp_path / "data", "--limit", 12)
    assert shell("evaluate", run.directory, *options, "--out", tmp_path / "out.json") == 0
    assert "quiz" in capsys.readouterr().out
    (score,) = run.files.scores.scores
    assert (score.task, score.questions, score.limit) == ("quiz", 12, 12)
    assert json.loads((tmp_path / "out.json").read_text())[0]["adapter"] == score.adapter
    page = (run.directory / "report.html").read_text()
    assert "Benchmarks" in page
    assert "first 12 a task" in page
