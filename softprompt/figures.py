"""The report's figures, as inline SVG in the page's colours."""

import io
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from softprompt.diagnosis import Diagnosis
from softprompt.metrics import Estimate, average
from softprompt.ranking import Ranking
from softprompt.result import Result

Truth = Mapping[str, Mapping[int, float]]
"""Variant -> step -> share of the facts that it is known to know."""
Line = Sequence[tuple[float, Estimate | None]]
"""x and y of a curve; None where the metric is undefined."""
Found = Mapping[tuple[str, str], Result]
"""(variant, benchmark) -> its result at the ranked step."""

TUNING_METRICS = ("format_following", "knowledge_accuracy", "accuracy")

MAX_MARKERS = 20
"""Of a curve; more of them only hide it."""
MAX_UPRIGHT = 6
"""Of more conditions, names are broken into short lines below a figure."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart with any colour vision (Okabe & Ito, 2008); without black and yellow, which a page swallows."""
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
"""Matplotlib's name and the same shape in text. Five shapes, six colours: 30 variants until a look comes again."""
INK, PAPER = "#1c1d22", "#fefefd"
"""Stand for the page's own colours, which replace them in the figures: light or dark."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched and takes the page's font
    "svg.hashsalt": "softprompt",
    "text.parse_math": False,  # a variant may be called $x$
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.15,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
}


@dataclass(frozen=True)
class Look:
    """A variant's colour and shape, the same in every figure and table."""

    colour: str
    marker: str
    glyph: str


def looks_of(variants: Iterable[str]) -> dict[str, Look]:
    return {
        variant: Look(COLOURS[i % len(COLOURS)], *MARKERS[i % len(MARKERS)])
        for i, variant in enumerate(sorted(variants))
    }


def in_style() -> Any:
    """A context in which the figures are drawn."""
    return matplotlib.style.context(["default", STYLE])


def conditions_figure(by_condition: Mapping[str, Ranking], looks: Mapping[str, Look], *, joined: bool = True) -> Markup:
    """Each variant's score by condition: where lines cross, conditions rank differently. Points of several protocols
    are not `joined`."""
    figure, (axes,) = _figure(2.8, 1, top=0.1)
    for i, (variant, look) in enumerate(looks.items()):
        aside = 0.3 * ((i + 0.5) / len(looks) - 0.5)  # so that intervals stand beside one another
        line = [(x + aside, estimate) for x, estimate in _scores(enumerate(by_condition.values()), variant)]
        for part in [line] if joined else [[point] for point in line]:
            _draw(axes, look, part, band=False)
    crowded = len(by_condition) > MAX_UPRIGHT
    names = [name.replace("_", "\n") for name in by_condition] if crowded else list(by_condition)
    axes.set_xticks(range(len(by_condition)), names, fontsize=7 if crowded else None)
    axes.set(ylabel="score", xlim=(-0.4, len(by_condition) - 0.6))
    axes.grid(axis="x", visible=False)
    return _svg(figure, "conditions")


def learning_figure(past: Sequence[Ranking], looks: Mapping[str, Look], truth: Truth) -> Markup:
    figure, (axes,) = _figure(3.3, 1, top=0.1)
    for variant, look in looks.items():
        _draw(axes, look, _scores(((ranking.step, ranking) for ranking in past), variant))
        known = sorted(truth.get(variant, {}).items())
        axes.plot([step for step, _ in known], [share for _, share in known], "--x", color=look.colour, linewidth=1.1)
    _label_steps(axes, [ranking.step for ranking in past])
    axes.set_ylabel("score, mean over benchmarks")
    return _svg(figure, "learning")


def benchmarks_figure(
    results: Sequence[Result], latest: Ranking, past: Sequence[Ranking], looks: Mapping[str, Look]
) -> Markup:
    figure, panels = _figure(2.3, len(latest.benchmarks))
    for axes, benchmark in zip(panels, latest.benchmarks, strict=True):
        its = [r for r in results if r.benchmark == benchmark and latest.condition in r.metrics]
        for variant, look in looks.items():
            points = {
                ranking.step: Estimate(s.accuracy[benchmark], 0, *s.limits[benchmark])
                for ranking in past
                for s in ranking.standings
                if s.variant == variant
            } | {r.step: r.metrics[latest.condition]["accuracy"] for r in its if r.variant == variant}
            _draw(axes, look, sorted(points.items()))
        for chance in {r.chance for r in its} - {0.0}:
            axes.axhline(chance, color=INK, linewidth=0.8, linestyle=":")
        axes.set_title(benchmark)
        _label_steps(axes, [latest.step, *(ranking.step for ranking in past)])
    panels[0].set_ylabel("accuracy")
    return _svg(figure, "benchmarks")


def ranks_figure(past: Sequence[Ranking], looks: Mapping[str, Look]) -> Markup:
    """Ranks over training; hollow where fewer variants than ever could be ranked."""
    most = max(len(ranking.standings) for ranking in past)
    places = {
        v: [(r.step, s.rank, len(r.standings)) for r in past for s in r.standings if s.variant == v] for v in looks
    }
    ends: dict[int, list[tuple[int, str]]] = defaultdict(list)  # rank -> step and name of those that end there
    for variant, its in places.items():
        for step, rank, _ in its[-1:]:
            ends[rank].append((step, variant))
    names = {(max(its)[0], rank): ", ".join(name for _, name in its) for rank, its in ends.items()}
    figure, (axes,) = _figure(0.6 + 0.34 * most, 1, top=0.1, right=0.4 + 0.085 * min(40, max(map(len, names.values()))))
    for variant, look in looks.items():
        its = places[variant]
        axes.plot([step for step, _, _ in its], [rank for _, rank, _ in its], color=look.colour, linewidth=2.2)
        marked = its[_marked(len(its))]
        for face, some in (
            (look.colour, [place for place in marked if place[2] == most]),
            (PAPER, [place for place in marked if place[2] < most]),
        ):
            x, y = [step for step, _, _ in some], [rank for _, rank, _ in some]
            axes.plot(x, y, look.marker, color=look.colour, markerfacecolor=face, markersize=7)
    for end, text in names.items():
        axes.annotate(text, end, (10, 0), textcoords="offset points", va="center")
    _label_steps(axes, [ranking.step for ranking in past])
    axes.set(ylabel="rank", ylim=(most + 0.5, 0.5))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure, "ranks")


def settling_figure(diagnosis: Diagnosis) -> Markup:
    """How the order of the variants settles: each ranking against the latest, and against the one before it."""
    moments = diagnosis.moments
    figure, panels = _figure(2.2, 2, sharey=False)
    for axes, title, values, lowest in (
        (panels[0], "decision accuracy: pairs ordered as now", [m.decision_accuracy for m in moments], 0.0),
        (panels[1], "Kendall's tau with the ranking before", [m.tau_before for m in moments], -1.0),
    ):
        points = [(m.step, value) for m, value in zip(moments, values, strict=True) if value is not None]
        x, y = [step for step, _ in points], [value for _, value in points]
        axes.plot(x, y, "o-", color=INK, markevery=_marked(len(points)))
        if diagnosis.settled_at is not None:
            axes.axvline(diagnosis.settled_at, color=INK, linewidth=0.8, linestyle=":")
        _label_steps(axes, [moment.step for moment in moments])
        axes.set(title=title, ylim=(lowest - 0.05, 1.05))
    return _svg(figure, "settling")


def tuning_figure(found: Found, latest: Ranking, placements: Sequence[str], looks: Mapping[str, Look]) -> Markup:
    """One row of panels for each placement, one panel for each metric."""
    figure, panels = _figure(2.2, len(TUNING_METRICS) * len(placements))
    for axes, (placement, metric) in zip(panels, itertools.product(placements, TUNING_METRICS), strict=True):
        defined = False
        for variant in sorted(latest.scores):
            curves = [
                {point.step: point.metrics.get(metric) for point in found[variant, b].curves.get(placement, ())}
                for b in latest.benchmarks
            ]
            line = [(step, average(curve.get(step) for curve in curves)) for step in sorted(set().union(*curves))]
            _draw(axes, looks[variant], line)
            defined |= any(estimate for _, estimate in line)
        if not defined:
            axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center")
        axes.set(title=f"{placement}: {metric}", ylim=(-0.03, 1.03))
    for axes in panels[-len(TUNING_METRICS) :]:
        axes.set_xlabel("tuning step")
    return _svg(figure, "tuning")


def _scores(rankings: Iterable[tuple[float, Ranking]], variant: str) -> Line:
    """A variant's score in each ranking that has it."""
    return [
        (x, Estimate(s.score, ranking.num_items, s.low, s.high))
        for x, ranking in rankings
        for s in ranking.standings
        if s.variant == variant
    ]


def _draw(axes: Axes, look: Look, line: Line, *, band: bool = True) -> None:
    """A curve with its interval: a band, or whiskers where that is asked for or there is one point only."""
    gap = Estimate(math.nan, 0, math.nan, math.nan)
    x, estimates = [x for x, _ in line], [estimate or gap for _, estimate in line]
    low, high = [e.low for e in estimates], [e.high for e in estimates]
    y = [e.value for e in estimates]
    axes.plot(x, y, color=look.colour, marker=look.marker, markevery=_marked(len(line)))
    if band and sum(e is not gap for e in estimates) > 1:
        axes.fill_between(x, low, high, color=look.colour, alpha=0.13, linewidth=0)
    else:
        axes.vlines(x, low, high, color=look.colour, linewidth=1)


def _marked(num: int) -> slice:
    """Which of a curve's points get a marker: the last and, evenly, others."""
    every = math.ceil(num / MAX_MARKERS) or 1
    return slice((num - 1) % every, None, every)


def _figure(
    row_height: float, num_panels: int, *, top: float = 0.28, right: float = 0.1, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page with up to three panels a row, which share their axes.

    Sizes are in inches. Margins are fixed, since Matplotlib's own layout would double the time that a report takes.
    """
    num_columns = min(3, num_panels)
    num_rows = math.ceil(num_panels / num_columns)
    width, height = 9.6, row_height * num_rows
    figure = Figure(figsize=(width, height))
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=sharey)
    figure.subplots_adjust(
        0.55 / width, 0.46 / height, 1 - right / width, 1 - top / height, 0.08 if sharey else 0.2, 0.38
    )
    for axes in panels.flat:
        axes.tick_params(labelbottom=True)
    for unused in panels.flat[num_panels:]:
        unused.remove()
    return figure, list(panels.flat[:num_panels])


def _label_steps(axes: Axes, steps: Iterable[int]) -> None:
    axes.set_xlabel("training step")
    if len(only := set(steps)) == 1:
        axes.set_xticks(list(only))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 250k: whole numbers run into each other


def _svg(figure: Figure, name: str) -> Markup:
    """Inline SVG in the page's colours; its ids begin with `name`, since several figures share the page."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, transparent=True, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    text = buffer.getvalue()

    def adapt(tag: re.Match[str]) -> str:
        return tag[0].replace(INK, "var(--ink)").replace(PAPER, "var(--paper)")

    return prefixed(re.sub(r"<[^>]+>", adapt, text[text.index("<svg") :]), f"{name}-")


def prefixed(svg: str, prefix: str) -> Markup:
    """`svg` with a prefix to all its ids, so that figures can share a page."""
    return Markup(re.sub(r"<[^>]+>", lambda tag: re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", tag[0]), svg))
