"""The report: one HTML file for teams who compare variants while they train.

Figures are inline SVG and the page loads nothing, so that it can be mailed, archived and opened without a network.
"""

import io
import itertools
import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from softprompt.metrics import Estimate
from softprompt.ranking import Ranking, kendall_tau, rank
from softprompt.result import Result

Truth = Mapping[str, Mapping[int, float]]
"""Variant -> step -> share of the facts that it is known to know."""
Line = Sequence[tuple[float, Estimate | None]]
"""x and y of a curve; None where the metric is undefined."""
Found = Mapping[tuple[str, str], Result]
"""(variant, benchmark) -> its result at the ranked step."""

METRICS = (
    "accuracy",
    "format_following",
    "knowledge_accuracy",
    "lenient_accuracy",
    "format_gap",
    "choice_accuracy",
    "gold_bits_per_byte",
)
TUNING_METRICS = ("format_following", "knowledge_accuracy", "accuracy")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart with any colour vision (Okabe & Ito, 2008); without black and yellow, which a page swallows."""
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
"""Matplotlib's name and the same shape in text. Five shapes, six colours: 30 variants until a look comes again."""
MAX_STEPS = 200
"""Of more training steps, figures show so many, evenly chosen: a page holds no more that can be told apart."""
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


def write_report(
    results: Sequence[Result],
    ranking: Ranking,
    past: Sequence[Ranking],
    file: str | Path,
    *,
    title: str,
    truth: Truth | None = None,
) -> Path:
    """Write the report on `ranking` to `file`, which is replaced at once: a reader never meets half a page.

    Args:
        results: those at the ranked step, per-item outcomes included; others are left aside.
        past: rankings at all steps, in the order of training; see `history`.
        truth: variant -> step -> known share, where that is known: in the Knowledge World.

    Raises:
        BadStudy: `rank` cannot compare the results.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value, digits=2: f"{value:,.{digits}f}".replace("-", "−")
    with matplotlib.style.context(["default", STYLE]):
        page = environment.get_template("report.html.jinja").render(
            **_contents([r for r in results if r.step == ranking.step], ranking, past, truth or {}),
            title=title,
            written=datetime.now(UTC),
        )
    file = Path(file)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def _contents(results: Sequence[Result], latest: Ranking, past: Sequence[Ranking], truth: Truth) -> dict[str, Any]:
    """What the template shows, section by section."""
    benchmarks = latest.benchmarks
    num_matched, num_ranked = len(past), max((len(ranking.standings) for ranking in past), default=0)
    past = (
        [past[i * (num_matched - 1) // (MAX_STEPS - 1)] for i in range(MAX_STEPS)] if num_matched > MAX_STEPS else past
    )
    variants = {v for ranking in [latest, *past] for v in (*ranking.scores, *ranking.incomplete)}
    protocol = results[0].protocol
    looks = {
        variant: Look(COLOURS[i % len(COLOURS)], *MARKERS[i % len(MARKERS)])
        for i, variant in enumerate(sorted(variants))
    }
    found = {(r.variant, r.benchmark): r for r in results}
    by_condition = {
        c: latest if c == latest.condition else rank(results, benchmarks, condition=c, step=latest.step)
        for c in protocol.conditions
    }
    known = {variant: shares[latest.step] for variant, shares in truth.items() if latest.step in shares}
    measured_on = {metric: _measured_on(metric, found, benchmarks) for metric in METRICS}
    return {
        "ranking": latest,
        "protocol": protocol,
        "looks": looks,
        "known": known,
        "by_condition": by_condition,
        "taus": {condition: _tau(ranking.scores, known) for condition, ranking in by_condition.items()},
        "measured_on": measured_on,
        "average": lambda condition, variant, metric: _average(
            found[variant, b].metrics[condition].get(metric) for b in measured_on[metric]
        ),
        "num_matched": num_matched,
        "num_ranked": num_ranked,
        "has_truth": bool(truth),
        "lights": {
            variant: {
                placement: _lights([found[variant, b] for b in benchmarks if (variant, b) in found], placement)
                for placement in protocol.placements
            }
            for variant in looks
        },
        "figures": {
            "conditions": _conditions_figure(by_condition, looks) if latest.standings else None,
            "learning": _learning_figure(past, looks, truth) if past else None,
            "benchmarks": _benchmarks_figure(results, latest, past, looks),
            "ranks": _ranks_figure(past, looks) if len(past) > 1 and num_ranked > 1 else None,
            "tuning": _tuning_figure(found, latest, protocol.placements, looks) if latest.standings else None,
        },
        "results": sorted(results, key=lambda r: (-r.step, r.variant, r.benchmark)),
        "by_benchmark": {b: [r for r in results if r.benchmark == b] for b in benchmarks},
        "environment": _environment(results),
        "phases": sorted({phase for result in results for phase in result.seconds}),
    }


def _measured_on(metric: str, found: Found, benchmarks: Sequence[str]) -> list[str]:
    """The benchmarks that have a metric at all: `choice_accuracy` needs options."""
    have = {b for (_, b), result in found.items() if any(metric in m for m in result.metrics.values())}
    return [benchmark for benchmark in benchmarks if benchmark in have]


def _average(estimates: Iterable[Estimate | None]) -> Estimate | None:
    """Mean over benchmarks. None if it is undefined on one: a mean over fewer would compare unlike things.

    The distances to the limits add up as independent errors do (Zou & Donner, 2008), so that the interval stays
    as lopsided near 0 and 1 as its parts are.
    """
    parts = list(estimates)
    defined = [part for part in parts if part is not None]
    if not parts or len(defined) < len(parts):
        return None
    mean = sum(e.value for e in defined) / len(defined)
    low = mean - math.hypot(*(e.value - e.low for e in defined)) / len(defined)
    high = mean + math.hypot(*(e.high - e.value for e in defined)) / len(defined)
    return Estimate(mean, sum(e.n for e in defined), low, high)


def _tau(scores: Mapping[str, float], known: Mapping[str, float]) -> float | None:
    """Kendall's tau of a ranking against the truth, if the truth of two variants is known."""
    truth = {variant: known[variant] for variant in scores if variant in known}
    return kendall_tau(dict(scores), truth) if len(truth) > 1 else None


def _lights(results: Sequence[Result], placement: str) -> list[tuple[str, str]]:
    """What a variant's tunings of one placement say of themselves: (light, sentence)."""
    lights = [
        ("bad", f"tuning diverged on {r.benchmark} (seeds {', '.join(map(str, r.diverged[placement]))})")
        for r in results
        if r.diverged.get(placement)
    ]
    for metric in ("format_following", "accuracy"):
        saturated = {r.benchmark: r.saturated(placement, metric) for r in results}
        rising = [benchmark for benchmark, light in saturated.items() if light is False]
        if rising:
            lights.append(("warn", f"{metric} not saturated on {', '.join(rising)}"))
        elif any(saturated.values()):
            lights.append(("good", f"{metric} saturated"))
    return lights


def _environment(results: Sequence[Result]) -> dict[str, str]:
    """Versions, devices and what else the results' provenance names, each with all values that occur."""
    values: dict[str, set[str]] = {}
    for name, value in (pair for result in results for pair in result.provenance.items()):
        if name != "checkpoint" and not name.startswith("num_") and not name.endswith("_fingerprint"):
            values.setdefault(name, set()).add(str(value))
    return {name: ", ".join(sorted(values[name])) for name in sorted(values)}


def _conditions_figure(by_condition: Mapping[str, Ranking], looks: Mapping[str, Look]) -> Markup:
    """Each variant's score by condition: where lines cross, conditions rank differently."""
    figure, (axes,) = _figure(2.8, 1, top=0.1)
    for i, (variant, look) in enumerate(looks.items()):
        aside = 0.3 * ((i + 0.5) / len(looks) - 0.5)  # so that intervals stand beside one another
        line = [(x + aside, estimate) for x, estimate in _scores(enumerate(by_condition.values()), variant)]
        _draw(axes, look, line, band=False)
    axes.set_xticks(range(len(by_condition)), list(by_condition))
    axes.set(ylabel="score", xlim=(-0.4, len(by_condition) - 0.6))
    axes.grid(axis="x", visible=False)
    return _svg(figure, "conditions")


def _learning_figure(past: Sequence[Ranking], looks: Mapping[str, Look], truth: Truth) -> Markup:
    figure, (axes,) = _figure(3.3, 1, top=0.1)
    for variant, look in looks.items():
        _draw(axes, look, _scores(((ranking.step, ranking) for ranking in past), variant))
        known = sorted(truth.get(variant, {}).items())
        axes.plot([step for step, _ in known], [share for _, share in known], "--x", color=look.colour, linewidth=1.1)
    _label_steps(axes, [ranking.step for ranking in past])
    axes.set_ylabel("score, mean over benchmarks")
    return _svg(figure, "learning")


def _benchmarks_figure(
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


def _ranks_figure(past: Sequence[Ranking], looks: Mapping[str, Look]) -> Markup:
    """Ranks over training; hollow where fewer variants than ever could be ranked."""
    most = max(len(ranking.standings) for ranking in past)
    figure, (axes,) = _figure(0.6 + 0.34 * most, 1, top=0.1, right=0.4 + 0.085 * min(40, max(map(len, looks))))
    for variant, look in looks.items():
        places = [(r.step, s.rank, len(r.standings)) for r in past for s in r.standings if s.variant == variant]
        axes.plot([step for step, _, _ in places], [place for _, place, _ in places], color=look.colour, linewidth=2.2)
        for face, some in (
            (look.colour, [place for place in places if place[2] == most]),
            (PAPER, [place for place in places if place[2] < most]),
        ):
            x, y = [step for step, _, _ in some], [place for _, place, _ in some]
            axes.plot(x, y, look.marker, color=look.colour, markerfacecolor=face, markersize=7)
        for step, place, _ in places[-1:]:
            axes.annotate(variant, (step, place), (10, 0), textcoords="offset points", va="center")
    axes.set(xlabel="training step", ylabel="rank", ylim=(most + 0.5, 0.5))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure, "ranks")


def _tuning_figure(found: Found, latest: Ranking, placements: Sequence[str], looks: Mapping[str, Look]) -> Markup:
    """One row of panels for each placement, one panel for each metric."""
    figure, panels = _figure(2.2, len(TUNING_METRICS) * len(placements))
    for axes, (placement, metric) in zip(panels, itertools.product(placements, TUNING_METRICS), strict=True):
        defined = False
        for variant in sorted(latest.scores):
            curves = [
                {point.step: point.metrics.get(metric) for point in found[variant, b].curves.get(placement, ())}
                for b in latest.benchmarks
            ]
            line = [(step, _average(curve.get(step) for curve in curves)) for step in sorted(set().union(*curves))]
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
    axes.plot(x, [e.value for e in estimates], color=look.colour, marker=look.marker)
    if band and sum(e is not gap for e in estimates) > 1:
        axes.fill_between(x, low, high, color=look.colour, alpha=0.13, linewidth=0)
    else:
        axes.vlines(x, low, high, color=look.colour, linewidth=1)


def _figure(row_height: float, num_panels: int, *, top: float = 0.28, right: float = 0.1) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page with up to three panels a row, which share their axes.

    Sizes are in inches. Margins are fixed, since Matplotlib's own layout would double the time that a report takes.
    """
    num_columns = min(3, num_panels)
    num_rows = math.ceil(num_panels / num_columns)
    width, height = 9.6, row_height * num_rows
    figure = Figure(figsize=(width, height))
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(0.55 / width, 0.46 / height, 1 - right / width, 1 - top / height, 0.08, 0.38)
    for axes in panels.flat:
        axes.tick_params(labelbottom=True)
    for unused in panels.flat[num_panels:]:
        unused.remove()
    return figure, list(panels.flat[:num_panels])


def _label_steps(axes: Axes, steps: Iterable[int]) -> None:
    axes.set_xlabel("training step")
    if len(only := set(steps)) == 1:
        axes.set_xticks(list(only))


def _svg(figure: Figure, name: str) -> Markup:
    """Inline SVG in the page's colours; its ids begin with `name`, since several figures share the page."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, transparent=True, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    text = buffer.getvalue()

    def adapt(tag: re.Match[str]) -> str:
        coloured = tag[0].replace(INK, "var(--ink)").replace(PAPER, "var(--paper)")
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", coloured)

    return Markup(re.sub(r"<[^>]+>", adapt, text[text.index("<svg") :]))
