"""How figures tell lines apart: by colour, by dashes after that, and never not at all."""

import pytest
from test_glue_report import outcome

from experiments.drawing import HUES, palette, spread
from experiments.glue import config as glue_config
from experiments.glue import figure as glue_figure
from experiments.glue.presets import MIXED
from experiments.mnist import figure as mnist_figure
from experiments.mnist.runs import CENTRALISED, VARIANTS, Variant
from rolora.methods import METHODS, Options
from rolora.methods.fedit import FedIT


class Eighth(FedIT):
    """A method that is not there yet."""

    title = "Eighth"


@pytest.fixture
def eighth(monkeypatch):
    monkeypatch.setitem(METHODS.own, "eighth", Eighth)
    return "eighth"


def test_no_two_strokes_are_the_same_however_many():
    keys = [str(i) for i in range(5 * len(HUES))]
    strokes = palette(keys)
    assert list(strokes) == keys
    assert len(set(strokes.values())) == len(keys)
    assert [strokes[key].hue for key in keys] == list(HUES) * 5
    assert {strokes[key].dashes for key in keys[: len(HUES)]} == {"solid"}


def test_a_key_that_comes_twice_has_one_stroke():
    assert palette("aba") == palette("ab")


def test_every_method_has_a_stroke_in_the_glue_figures():
    assert glue_figure.STROKES.keys() == {*METHODS, MIXED}


def test_an_eighth_method_is_drawn(eighth, monkeypatch):
    """Nothing but METHODS has to know of it: neither the settings, nor the tables, nor a figure."""
    monkeypatch.setattr(glue_figure, "STROKES", palette((*METHODS, MIXED)))
    monkeypatch.setattr(glue_config, "PAPER_METHODS", ())
    found = outcome("mixing", lambda column, line: 0.5, methods="all")
    assert eighth in found.lines
    assert found.lines[eighth].label == "Eighth"
    figure = glue_figure.over_settings(found)
    (axes,) = figure.axes
    lines = {bars.get_label(): bars[0] for bars in axes.containers}
    assert len(lines) == len(METHODS) + 1
    drawn = {(line.get_color(), str(line.get_linestyle())) for line in lines.values()}
    assert len({line.get_color() for line in lines.values()}) == len(HUES)
    assert len(drawn) == len(METHODS) + 1
    # Figures are written to the end with it.
    figure.canvas.draw()
    glue_figure.curves(found, found.tasks[0]).canvas.draw()


def test_an_eighth_method_is_drawn_on_mnist(eighth):
    more = (*VARIANTS, Variant("eighth", "Eighth", Options(name=eighth)))
    strokes = mnist_figure.strokes(more)
    assert strokes.keys() == {variant.key for variant in more}
    assert len(set(strokes.values())) == len(more)


def test_a_method_keeps_its_hue_beside_others_and_the_pooled_run_is_grey():
    hues = {key: stroke.hue for key, stroke in mnist_figure.STROKES.items()}
    for key, method in (("rolora", "rolora"), ("lora", "fedit"), ("ffa_lora", "ffa_lora")):
        assert hues[key] == glue_figure.STROKES[method].hue
    assert hues[CENTRALISED.key] not in HUES


def test_spread():
    assert spread([0.5]) == 0.0
    assert spread([0.5, 0.7]) == pytest.approx(0.1414, abs=1e-4)
