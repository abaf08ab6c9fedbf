"""The figures of a run report: inline SVG that takes its colours and font from the page.

matplotlib draws in the light theme's colours; each is then replaced by the CSS variable of the
same name, so that one picture serves light, dark and print.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from rolora.records.files import ClientRecord, RoundRecord, RunFiles
from rolora.report.statistics import wilson_interval
from rolora.report.units import byte_size, byte_unit, count, percent

# CSS name: light, dark. The hues are Okabe and Ito's, which colour-blind readers tell apart.
THEME: dict[str, tuple[str, str]] = {
    "ink": ("#1b2025", "#e8eaed"),
    "muted": ("#5b646d", "#9ea7b0"),
    "grid": ("#e2e5e8", "#31373e"),
    "shade": ("#eef1f5", "#242b33"),
    "blue": ("#0072b2", "#58aee8"),
    "orange": ("#d55e00", "#f08c46"),
    "green": ("#009e73", "#33c497"),
    "label-0": ("#0173b2", "#3f97d3"),
    "label-1": ("#e69f00", "#e0a325"),
    "label-2": ("#019e74", "#22a884"),
    "label-3": ("#cc79a7", "#cf86af"),
    "label-4": ("#56b4e9", "#7cc6ee"),
    "label-5": ("#d65f01", "#d96b22"),
    "label-6": ("#8b929a", "#7d858d"),
    "label-7": ("#b8ad00", "#cfc43a"),
}
LABEL_COLOURS = 8
MANY_ROUNDS = 60
MANY_CLIENTS = 60
MOST_LABELS = 100
LEAST_SPAN = 0.1  # of an accuracy axis, so that noise does not fill it
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 440, 48, 12, 10, 40

Array = NDArray[np.float64]


def colour(name: str) -> str:
    """The colour in which matplotlib draws what the page shows in ``var(--name)``."""
    return THEME[name][0]


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a mark (``line``, ``dash``, ``dot``, ``area``), its colour, words."""

    mark: str
    colour: str
    words: str


@dataclass(frozen=True)
class Panel:
    """A figure with what a reader needs to understand it."""

    title: str
    svg: Markup
    caption: str
    keys: tuple[Key, ...] = ()


def learning(run: RunFiles) -> Iterator[Panel]:
    """Accuracy and loss, over rounds and over bytes sent."""
    if not run.rounds:
        return
    rounds = np.array([r.round for r in run.rounds], float)
    sent = np.cumsum([r.bytes_up + r.bytes_down for r in run.rounds]).astype(float)
    unit, divisor = byte_unit(sent[-1])
    for title, axis, label, start in (
        ("over rounds", rounds, "round", rounds - 0.5),
        ("over bytes sent", sent / divisor, f"{unit} sent, up and down", _before(sent) / divisor),
    ):
        spans = list(zip(start, axis + 0.5 if label == "round" else axis, strict=True))
        yield _accuracy(run, title, axis, label, spans)
        yield _loss(run, title, axis, label, spans)


def _accuracy(run: RunFiles, title: str, x: Array, label: str, spans: list[Any]) -> Panel:
    seen = _column(run.rounds, "eval_accuracy")
    evaluated = ~np.isnan(seen)
    majority, final = run.summary.majority_accuracy, run.summary.final

    def paint(axes: Axes) -> None:
        _shade(axes, run.rounds, spans)
        _limit(axes, spans)
        if majority is not None:
            axes.axhline(majority, color=colour("muted"), lw=1, dashes=(4, 3), zorder=1.5)
        _line(axes, x[evaluated], seen[evaluated], "blue")
        if final.test_accuracy is not None:
            axes.plot(x[-1:], [final.test_accuracy], "D", ms=6, color=colour("orange"), zorder=4)
        low, high = axes.get_ylim()
        room = max(0.0, LEAST_SPAN - (high - low)) / 2
        axes.set_ylim(low - room, high + room)
        axes.yaxis.set_major_formatter(_PERCENT)
        _finish(axes, label)

    keys = [Key("line", "blue", "validation")] if evaluated.any() else []
    if final.test_accuracy is not None:
        keys.append(Key("diamond", "orange", "test, once at the end"))
    if majority is not None:
        keys.append(Key("dash", "muted", "constant guess"))
    caption = f"Share of held-out examples that {_whose(run)} right."
    if not evaluated.any():
        caption += " No evaluation has been made yet."
    return Panel(
        f"Accuracy {title}",
        _svg(f"accuracy-{title}", paint),
        caption + _phase_note(run.rounds),
        tuple(keys),
    )


def _loss(run: RunFiles, title: str, x: Array, label: str, spans: list[Any]) -> Panel:
    train, held_out = _column(run.rounds, "train_loss"), _column(run.rounds, "eval_loss")
    evaluated = ~np.isnan(held_out)
    values = np.concatenate([train, held_out])
    values = values[~np.isnan(values)]
    wide = bool(values.size) and values.min() > 0 and values.max() > 30 * values.min()

    def paint(axes: Axes) -> None:
        _shade(axes, run.rounds, spans)
        _limit(axes, spans)
        _line(axes, x, train, "orange")
        _line(axes, x[evaluated], held_out[evaluated], "blue")
        if wide:
            axes.set_yscale("log")
        _finish(axes, label)

    caption = "Mean cross-entropy, in nats: of the clients' training batches in the round, and of "
    caption += "the validation examples after it." + _phase_note(run.rounds)
    lost = int(np.isnan(train).sum())
    if lost:
        caption += f" {lost} of {len(train)} rounds have no finite training loss."
    return Panel(
        f"Loss {title}",
        _svg(f"loss-{title}", paint),
        caption + (" Logarithmic scale." if wide else ""),
        (Key("line", "orange", "training"), Key("line", "blue", "validation")),
    )


def clients(run: RunFiles) -> Iterator[Panel]:
    """Accuracy by client, and the labels and examples that each client holds."""
    known = [c for c in run.summary.client_accuracy if c.accuracy is not None and c.examples]
    if known:
        few = len(known) <= MANY_CLIENTS
        yield (_client_dots if few else _client_histogram)(run, known)
    table = np.array(run.summary.label_table, float)
    if table.ndim == 2 and table.sum() > 0:
        names = label_names(run, table.shape[1])
        yield _label_bars(table, names) if _drawn_as_bars(table) else _label_cells(table, names)
        if len(table) > MANY_CLIENTS:
            yield _sizes(table)


def _client_dots(run: RunFiles, known: Sequence[ClientRecord]) -> Panel:
    ids = [c.client for c in known]
    accuracy = np.array([c.accuracy for c in known], float)
    ranges = np.array([wilson_interval(c.accuracy or 0.0, c.examples) for c in known])
    overall = run.client_accuracy

    def paint(axes: Axes) -> None:
        axes.axhline(float(overall or 0.0), color=colour("muted"), lw=1, dashes=(4, 3), zorder=1.5)
        axes.vlines(ids, ranges[:, 0], ranges[:, 1], color=colour("blue"), lw=1.5, alpha=0.45)
        axes.plot(ids, accuracy, "o", ms=6 if len(ids) <= 30 else 4.5, color=colour("blue"))
        axes.yaxis.set_major_formatter(_PERCENT)
        axes.set_xlim(min(ids) - 0.7, max(ids) + 0.7)
        _finish(axes, "client")

    return Panel(
        "Accuracy by client",
        _svg("client-dots", paint),
        f"Share of each client's own test examples that {_its(run)} model gets right. Lines are "
        "95 % intervals (Wilson): a client with few examples is measured coarsely.",
        (
            Key("dot", "blue", "client"),
            Key("dash", "muted", f"all clients' examples, {percent(overall)}"),
        ),
    )


def _client_histogram(run: RunFiles, known: Sequence[ClientRecord]) -> Panel:
    accuracy = np.array([c.accuracy for c in known], float)
    low, middle, high = np.quantile(accuracy, [0.05, 0.5, 0.95])

    def paint(axes: Axes) -> None:
        heights, edges = np.histogram(accuracy, bins=25, range=(0, 1))
        axes.stairs(heights, edges, fill=True, color=colour("blue"), alpha=0.75)
        axes.axvline(middle, color=colour("ink"), lw=1.5)
        for edge in (low, high):
            axes.axvline(edge, color=colour("muted"), lw=1, dashes=(4, 3))
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.yaxis.set_major_formatter(_COUNT)
        _finish(axes, "accuracy on the client's own test examples", "clients")

    return Panel(
        "Accuracy across clients",
        _svg("client-histogram", paint),
        f"How many of {count(len(known))} clients reach which accuracy on their own test "
        f"examples with {_its(run)} model. Small clients pile up at round fractions.",
        (
            Key("line", "ink", f"median {percent(float(middle))}"),
            Key("dash", "muted", f"5 % and 95 %: {percent(float(low))}, {percent(float(high))}"),
        ),
    )


def _drawn_as_bars(table: Array) -> bool:
    return table.shape[1] <= LABEL_COLOURS


def _label_bars(table: Array, names: Sequence[str]) -> Panel:
    many = len(table) > MANY_CLIENTS
    drawn = table / np.maximum(table.sum(1, keepdims=True), 1) if many else table
    order = thinned(by_labels(drawn), 400) if many else np.arange(len(table))
    tops = np.cumsum(drawn[order], axis=1)
    edges = np.arange(len(order) + 1) - (0 if many else 0.5)

    def paint(axes: Axes) -> None:
        for label in range(table.shape[1]):
            base = tops[:, label - 1] if label else np.zeros(len(order))
            hue = colour(f"label-{label}")
            if many:
                axes.stairs(tops[:, label], edges, baseline=base, fill=True, color=hue, lw=0)
            else:
                axes.bar(edges[:-1] + 0.5, tops[:, label] - base, 0.82, base, color=hue, lw=0)
        axes.margins(x=0.0 if many else 0.02, y=0 if many else 0.05)
        axes.yaxis.set_major_formatter(_PERCENT if many else _COUNT)
        if many:
            axes.xaxis.set_major_formatter(
                FuncFormatter(lambda at, _: f"{100 * at / len(order):.0f} %")
            )
            axes.set_xticks(np.linspace(0, len(order), 5))
        _finish(axes, "clients, sorted by label shares" if many else "client", grid=not many)

    if many:
        thin = "" if len(order) == len(table) else f", of which {len(order)} are drawn"
        title = "Label shares across clients"
        caption = (
            f"One column a client: the share of each label among its training examples. The "
            f"{count(len(table))} clients are sorted by their most frequent label and its "
            f"share{thin}."
        )
    else:
        title, caption = "Labels by client", "Training examples that each client holds, by label."
    keys = tuple(Key("area", f"label-{i}", name) for i, name in enumerate(names))
    return Panel(title, _svg("label-bars", paint), caption, keys)


def _label_cells(table: Array, names: Sequence[str]) -> Panel:
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    many = len(table) > MANY_CLIENTS
    columns = thinned(by_labels(shares), MANY_CLIENTS) if many else np.arange(len(table))
    frequent = np.sort(np.argsort(-table.sum(0), kind="stable")[:MOST_LABELS])
    cells = shares[np.ix_(columns, frequent)]
    levels = np.ceil(cells / cells.max() * 10)
    step = -(-len(frequent) // 26)

    def paint(axes: Axes) -> None:
        for level in range(1, 11):
            found = np.argwhere(levels == level)
            if len(found):
                boxes = [_box(x - 0.5, y - 0.5) for x, y in found]
                outline = Outline.make_compound_path(*boxes)
                axes.add_patch(PathPatch(outline, fc=colour("blue"), alpha=level / 10, lw=0))
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(frequent) - 0.5, -0.5)
        axes.set_yticks(
            range(0, len(frequent), step), [_short(names[i]) for i in frequent[::step]], fontsize=9
        )
        if many:
            axes.set_xticks([])
        _finish(axes, "clients, sorted by label shares" if many else "client", grid=False)

    caption = (
        "Share of each label among a client's training examples: the stronger the colour, the "
        f"larger; the strongest is {percent(float(cells.max()), 0)}."
    )
    if many:
        caption += f" {len(columns)} of {count(len(table))} clients are drawn, evenly spaced."
    if len(frequent) < table.shape[1]:
        caption += f" The {len(frequent)} most frequent of {table.shape[1]} labels are drawn."
    elif step > 1:
        caption += f" Every {_ordinal(step)} of {table.shape[1]} labels is named."
    height = int(np.clip(60 + 12 * len(frequent), 220, 400))
    return Panel("Labels by client", _svg("label-cells", paint, height, left=110), caption)


def _sizes(table: Array) -> Panel:
    sizes = table.sum(1)

    def paint(axes: Axes) -> None:
        heights, edges = np.histogram(sizes, bins=_size_bins(sizes))
        axes.stairs(heights, edges, fill=True, color=colour("blue"), alpha=0.75)
        axes.yaxis.set_major_formatter(_COUNT)
        axes.xaxis.set_major_formatter(_COUNT)
        _finish(axes, "training examples", "clients")

    caption = f"How many of {count(len(table))} clients hold how many training examples."
    return Panel("Examples across clients", _svg("sizes", paint), caption)


def _size_bins(sizes: Array) -> Array:
    low, high = sizes.min(), sizes.max()
    width = max(1, int(np.ceil((high - low + 1) / 40)))
    return np.arange(low, high + width + 1, width) - 0.5


def traffic(run: RunFiles) -> Iterator[Panel]:
    """Bytes a round, up above the axis and down below it."""
    if not run.rounds:
        return
    up, down = _column(run.rounds, "bytes_up"), _column(run.rounds, "bytes_down")
    unit, divisor = byte_unit(max(up.max(), down.max()))
    first = run.rounds[0].round
    edges = np.arange(first, first + len(run.rounds) + 1) - 0.5

    def paint(axes: Axes) -> None:
        for heights, hue in ((up / divisor, "green"), (-down / divisor, "blue")):
            if len(up) <= MANY_ROUNDS:
                axes.bar(edges[:-1] + 0.5, heights, 0.7, color=colour(hue), lw=0)
            else:
                axes.stairs(heights, edges, fill=True, color=colour(hue), lw=0)
        axes.axhline(0, color=colour("muted"), lw=1)
        axes.set_xlim(edges[0], edges[-1])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{abs(at):g}"))
        _finish(axes, "round", unit)

    yield Panel(
        "Bytes by round",
        _svg("traffic", paint),
        "Serialised payload over all clients of the round: what they sent, above the axis, and "
        "what they received, below it.",
        (
            Key("area", "green", f"up, {byte_size(run.bytes_up)} in all"),
            Key("area", "blue", f"down, {byte_size(run.bytes_down)} in all"),
        ),
    )


def label_names(run: RunFiles, labels: int) -> list[str]:
    """A name for each of `labels` labels: its number where the data give none."""
    names = run.summary.data.label_names
    return [names[i] if i < len(names) else str(i) for i in range(labels)]


def by_labels(shares: Array) -> NDArray[np.intp]:
    """The order of clients by most frequent label, within it by that label's share."""
    most = shares.argmax(1)
    share = shares.max(1)
    # Alternate the direction, so that the picture has one step fewer between two labels.
    return np.lexsort((np.where(most % 2, share, -share), most))


def thinned(items: Any, most: int) -> Any:
    """At most `most` of `items`, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return items
    return items[np.linspace(0, len(items) - 1, most).round().astype(int)]


def _whose(run: RunFiles) -> str:
    return "the clients' personal models get" if run.personal else "the global model gets"


def _its(run: RunFiles) -> str:
    return "its personal" if run.personal else "the global"


def _column(rounds: Sequence[RoundRecord], name: str) -> Array:
    return np.array([getattr(r, name) for r in rounds], float)


def _before(cumulative: Array) -> Array:
    return np.concatenate([[0.0], cumulative[:-1]])


def _short(name: str, most: int = 16) -> str:
    name = " ".join(name.split())
    return name if len(name) <= most else name[: most - 1] + "…"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third", 4: "fourth"}.get(number, f"{number}th")


def _box(x: float, y: float) -> Outline:
    corners = [(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1), (x, y)]
    return Outline(corners, closed=True)


def alternates(rounds: Sequence[RoundRecord]) -> bool:
    """Whether some rounds train B alone and others do not."""
    alone = {_trains_b(r) for r in rounds}
    return len(alone) == 2


def _trains_b(record: RoundRecord) -> bool:
    return record.phase.split("+")[0] == "B"


def _shade(axes: Axes, rounds: Sequence[RoundRecord], spans: Sequence[tuple[float, float]]) -> None:
    if not alternates(rounds) or len(rounds) > MANY_ROUNDS:
        return
    for record, (start, end) in zip(rounds, spans, strict=True):
        if _trains_b(record):
            axes.axvspan(start, end, color=colour("shade"), lw=0, zorder=0)


def _phase_note(rounds: Sequence[RoundRecord]) -> str:
    if not alternates(rounds) or len(rounds) > MANY_ROUNDS:
        return ""
    return " Shaded rounds train B, the others A."


def _limit(axes: Axes, spans: Sequence[tuple[float, float]]) -> None:
    start, end = spans[0][0], spans[-1][1]
    axes.set_xlim(start, end + 0.02 * (end - start))


def _line(axes: Axes, x: Array, y: Array, name: str) -> None:
    marker = "o" if len(x) <= MANY_ROUNDS else ""
    axes.plot(x, y, color=colour(name), lw=1.8, zorder=3, marker=marker, ms=4)


def _finish(axes: Axes, x_label: str, y_label: str = "", grid: bool = True) -> None:
    axes.set_xlabel(x_label)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y")
    if y_label:
        axes.set_ylabel(y_label)
    if x_label in ("round", "client"):
        whole = MaxNLocator(11, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
        axes.xaxis.set_major_locator(whole)


_PERCENT = FuncFormatter(lambda at, _: f"{100 * at:.4g} %")
_COUNT = FuncFormatter(lambda at, _: f"{at:,.0f}" if at == round(at) else "")

_STYLE = {
    "svg.fonttype": "none",
    "text.usetex": False,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.size": 11.5,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "text.color": colour("ink"),
    "axes.labelcolor": colour("muted"),
    "axes.labelsize": 11,
    "axes.edgecolor": colour("muted"),
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.facecolor": "none",
    "xtick.color": colour("muted"),
    "ytick.color": colour("muted"),
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "grid.color": colour("grid"),
    "grid.linewidth": 0.8,
}


def _svg(name: str, paint: Callable[[Axes], None], height: int = 220, left: int = LEFT) -> Markup:
    """`paint` on axes of a panel's size, as SVG whose ids are unique to `name`."""
    style = _STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A label in a script that matplotlib's own font lacks is drawn by the reader's browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        box = (left, BOTTOM, WIDTH - left - RIGHT, height - TOP - BOTTOM)
        axes = figure.add_axes((box[0] / WIDTH, box[1] / height, box[2] / WIDTH, box[3] / height))
        paint(axes)
        out = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    return Markup(_themed(out.getvalue()))


def _themed(svg: str) -> str:
    """Leave colours, font and size to the page; ids that nothing refers to are dropped."""
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg[svg.index("<svg") :], flags=re.S)
    # Only inside tags: the text between them may be a label's name, which stays as it is.
    return re.sub(r"<[^>]*>", lambda tag: _themed_tag(tag.group()), svg)


def _themed_tag(tag: str) -> str:
    for name, (light, _) in THEME.items():
        tag = tag.replace(light, f"var(--{name})")
    tag = re.sub(r' id="[\w.]+_\d+"| xmlns(?::xlink)?="[^"]*"|font-family: [^;"]*;', "", tag)
    if tag.startswith("<svg"):
        tag = re.sub(r' (?:width|height|version)="[^"]*"', "", tag)
    return " ".join(tag.split())
