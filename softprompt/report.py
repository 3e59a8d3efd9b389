"""The report: one HTML file for teams who compare variants while they train.

Figures are inline SVG and the page loads nothing, so that it can be mailed, archived and opened without a network.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from softprompt import controls, figures
from softprompt.arm import Arm, own_settings, side_by_side
from softprompt.cost import PHASES
from softprompt.figures import Found, Look, Truth
from softprompt.files import write_whole
from softprompt.metrics import FORMAT_FREE, average
from softprompt.ranking import Ranking
from softprompt.result import Result
from softprompt.statistics import kendall_tau

METRICS = (
    "accuracy",
    "format_following",
    "knowledge_accuracy",
    "lenient_accuracy",
    "format_gap",
    "choice_accuracy",
    "gold_bits_per_byte",
)

MAX_STEPS = 200
"""Of more training steps, figures show so many, evenly chosen: a page holds no more that can be told apart."""


def write_report(arms: Sequence[Arm], file: str | Path, *, title: str, truth: Truth | None = None) -> Path:
    """Write the report on one protocol, or on several side by side, to `file`, which is replaced at once: a reader
    never meets half a page.

    Args:
        truth: variant -> step -> known share, chance-centred as the scores are; known in the Knowledge World alone.

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
    environment.filters["with_code"] = lambda text: Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    looks = figures.looks_of({v for arm in arms for r in (arm.ranking, *arm.past) for v in (*r.scores, *r.incomplete)})
    pages = []
    with figures.in_style():
        for number, arm in enumerate(arms):
            prefix = f"arm-{number}-" if len(arms) > 1 else ""
            contents = _contents(arm, looks, truth or {})
            drawn = {name: svg and figures.prefixed(svg, prefix) for name, svg in contents["figures"].items()}
            page = environment.get_template("report_arm.html.jinja").render(
                **{**contents, "figures": drawn}, looks=looks, prefix=prefix
            )
            pages.append(Markup(page))
        page = environment.get_template("report.html.jinja").render(
            **(_side_by_side(arms, looks, truth or {}) if len(arms) > 1 else {}),
            arms=arms,
            pages=pages,
            looks=looks,
            has_truth=bool(truth),
            title=title,
            written=datetime.now(UTC),
        )
    return write_whole(Path(file), page)


def _side_by_side(arms: Sequence[Arm], looks: Mapping[str, Look], truth: Truth) -> dict[str, Any]:
    """What the page shows of several arms together."""
    rows = side_by_side(arms)
    placements = {placement for arm in arms for placement in arm.protocol.placements}
    drawn = {
        f"{row.arm}\n{row.condition.name}".strip(): row.ranking
        for row in rows
        if not row.condition.placement or row.condition.name in placements  # controls have their place in the table
    }
    return {
        "rows": rows,
        "taus": [_tau(row.ranking.scores, _known(row.ranking, truth)) for row in rows],
        "settings": [
            ", ".join(f"{n} = {json.dumps(value)}" for n, value in own_settings(arm, arms).items()) for arm in arms
        ],
        "figure": figures.conditions_figure(drawn, looks, joined=False),
    }


def _contents(arm: Arm, looks: Mapping[str, Look], truth: Truth) -> dict[str, Any]:
    """What the template shows of one arm, section by section."""
    results, latest, past, protocol = arm.latest, arm.ranking, arm.past, arm.protocol
    benchmarks = latest.benchmarks
    num_matched, num_ranked = len(past), max((len(ranking.standings) for ranking in past), default=0)
    if num_matched > MAX_STEPS:
        past = tuple(past[i * (num_matched - 1) // (MAX_STEPS - 1)] for i in range(MAX_STEPS))
    found = {(r.variant, r.benchmark): r for r in results}
    known = _known(latest, truth)
    measured_on = {metric: _measured_on(metric, found, benchmarks) for metric in METRICS}
    return {
        "ranking": latest,
        "protocol": protocol,
        "known": known,
        "by_condition": arm.by_condition,
        "taus": {condition: _tau(ranking.scores, known) for condition, ranking in arm.by_condition.items()},
        "measured_on": measured_on,
        "average": lambda condition, variant, metric: average(
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
        "diagnosis": arm.diagnosis,
        "learned_task": controls.summary(results),
        "format_free": FORMAT_FREE,
        "figures": {
            "conditions": figures.conditions_figure(arm.by_condition, looks) if latest.standings else None,
            "learning": figures.learning_figure(past, looks, truth) if past else None,
            "benchmarks": figures.benchmarks_figure(results, latest, past, looks),
            "settling": figures.settling_figure(arm.diagnosis) if len(arm.diagnosis.moments) > 2 else None,
            "ranks": figures.ranks_figure(past, looks) if len(past) > 1 and num_ranked > 1 else None,
            "tuning": figures.tuning_figure(found, latest, protocol.tunings, looks) if latest.standings else None,
        },
        "results": sorted(results, key=lambda r: (-r.step, r.variant, r.benchmark)),
        "by_benchmark": {b: [r for r in results if r.benchmark == b] for b in benchmarks},
        "environment": _environment(results),
        "phases": _phases(results),
    }


def _phases(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """What all jobs together spent in each phase."""
    found = {name: [r.cost.phases[name] for r in results if name in r.cost.phases] for name in PHASES}
    return {
        name: {"seconds": sum(phase.seconds for phase in its), "tokens": sum(phase.tokens for phase in its)}
        for name, its in found.items()
        if its
    }


def _known(ranking: Ranking, truth: Truth) -> dict[str, float]:
    """The known shares at its step."""
    return {variant: shares[ranking.step] for variant, shares in truth.items() if ranking.step in shares}


def _measured_on(metric: str, found: Found, benchmarks: Sequence[str]) -> list[str]:
    """The benchmarks that have a metric at all: `choice_accuracy` needs options."""
    have = {b for (_, b), result in found.items() if any(metric in m for m in result.metrics.values())}
    return [benchmark for benchmark in benchmarks if benchmark in have]


def _tau(scores: Mapping[str, float], known: Mapping[str, float]) -> float | None:
    """Kendall's tau of a ranking against the truth, if the truth of two variants is known."""
    truth = {variant: known[variant] for variant in scores if variant in known}
    return kendall_tau(dict(scores), truth) if len(truth) > 1 else None


def _lights(results: Sequence[Result], condition: str) -> list[tuple[str, str]]:
    """What a variant's tunings for one condition say of themselves: (light, sentence)."""
    lights = [("bad", diverged) for r in results if (diverged := r.divergence(condition))]
    lights += [("bad", loss) for r in results if (loss := r.loss_of_recall(condition))]
    for metric in ("format_following", "accuracy"):
        saturated = {r.benchmark: r.saturated(condition, metric) for r in results}
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
