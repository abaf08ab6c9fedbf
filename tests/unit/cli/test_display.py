"""What a person sees in the terminal: scores in their own units."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from made_up import classification, make_run, multilabel, regression
from rolora.callbacks.terminal import Terminal, fitted, round_line
from rolora.cli.display import summary_table
from rolora.records.files import read_run
from rolora.records.schema import ClientRecord, FailureRecord


def words(shown, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(shown, highlight=False)
    return console.file.getvalue().replace("\u202f", " ")


@pytest.mark.parametrize(
    ("learned", "wanted"),
    [
        (classification(), "accuracy {:.1%}"),
        (multilabel(), "macro F1 {:.1%}"),
        (regression(), "Pearson correlation {:.4f}"),
    ],
)
def test_a_round_in_a_line(tmp_path, learned, wanted):
    run = read_run(make_run(tmp_path, learned, rounds=2))
    first, second = run.rounds
    assert learned.task.first.title not in words(round_line(first, run.task))
    score = second.validation[learned.task.first.name]
    line = words(round_line(second, run.task))
    assert wanted.format(score) in line.replace(" %", "%")
    assert line.startswith("round   2  A   loss ")


def test_a_round_of_an_accuracy_has_room_in_80_columns(tmp_path):
    run = read_run(make_run(tmp_path, rounds=2))
    assert words(round_line(run.rounds[1], run.task), width=80).count("\n") == 1


def troubled(run):
    """A round that has everything to say: both factors and the head, a score, failures."""
    failed = tuple(FailureRecord(client=i, reason="client_error") for i in range(12))
    return run.rounds[1].changed(phase="AB+head", failures=failed, bytes_down=999 * 2**20)


@pytest.mark.parametrize("learned", [classification(), multilabel(), regression()])
def test_a_round_fits_a_terminal_of_80_columns(tmp_path, learned):
    run = read_run(make_run(tmp_path, learned, rounds=2))
    for record in (run.rounds[1], troubled(run)):
        line = fitted(record, run.task, 80)
        assert words(line, width=80).count("\n") == 1
        assert learned.task.first.title in line
        assert fitted(record, run.task, None) == round_line(record, run.task)
    assert "12 failed" in line
    assert "up" not in line  # the bytes go first


def shown(width, tell, terminal=False):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal)
    tell(Terminal(console))
    return console.file.getvalue()


def test_off_a_terminal_a_round_is_one_line_whatever_the_width(tmp_path):
    run = read_run(make_run(tmp_path, rounds=2))
    record = troubled(run)
    line = shown(20, lambda terminal: terminal.round(record))
    assert line.count("\n") == 1
    assert len(line) > 100
    assert "\x1b" not in line
    wrapped = shown(60, lambda terminal: terminal.round(record), terminal=True)
    assert "up" not in wrapped


def test_a_notice_is_one_line_of_the_words_as_they_are():
    text = "round 4: the model predicts hardly anything but '[bold]no[/]'; it has collapsed"
    assert shown(20, lambda terminal: terminal.notice(text)) == text + "\n"


def test_failures_and_a_score_that_is_not_defined_are_named(tmp_path):
    run = read_run(make_run(tmp_path, regression(), rounds=2))
    record = run.rounds[1].changed(
        train_loss=None,
        validation={"pearson": None},
        failures=(FailureRecord(client=1, reason="[bold]nan"),),
    )
    line = words(round_line(record, run.task), width=120)
    assert "loss      –" in line
    assert "Pearson correlation –" in line
    assert "1 failed ([bold]nan)" in line


def test_the_summary_shows_every_score_of_the_task(tmp_path):
    learned = replace(regression(), constant={"mse": 2.31})
    summary = read_run(make_run(tmp_path, learned, rounds=4)).summary
    shown = words(summary_table(summary, Path("runs/a")))
    test = summary.final.test
    assert f"test Pearson correlation        {test['pearson']:.4f}" in shown
    assert f"{test['mse']:#.4g}  (a constant guess: 2.310)" in shown
    assert "accuracy" not in shown
    assert "validation Pearson correlation" in shown
    assert "after round 4" in shown
    assert "runs/a/report.html" in shown


def test_who_was_not_tested_is_named(tmp_path):
    summary = read_run(make_run(tmp_path, rounds=2)).summary
    summary = summary.model_copy(
        update={"test_failures": (FailureRecord(client=3, reason="absent"),)}
    )
    assert "client 3 (absent)" in words(summary_table(summary, Path("runs/a")))


def sites(*scored):
    return tuple(
        ClientRecord(client=i, examples=500, scores={"accuracy": score})
        for i, score in enumerate(scored)
    )


def test_a_round_and_a_summary_say_how_clients_lie_and_who_is_out_of_line(tmp_path):
    run = read_run(make_run(tmp_path, rounds=2))
    record = run.rounds[1].changed(sites=sites(0.5, 0.52, 1.0, 0.48), failures=())
    line = words(round_line(record, run.task), width=200)
    assert "by client mean 62.5 %, median 51.0 %  client 2 out of line" in line
    assert "by client" not in fitted(record, run.task, 80)
    assert "client 2 out of line" in fitted(record, run.task, 80)
    summary = run.summary.model_copy(update={"clients": record.sites})
    shown = words(summary_table(summary, Path("runs/a")), width=120)
    assert "0: 50.0 %, 1: 52.0 %, 2: 100.0 %, 3: 48.0 %" in shown
    assert "mean 62.5 %, median 51.0 %  client 2 out of line" in shown
