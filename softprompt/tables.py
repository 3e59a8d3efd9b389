"""Tables and sentences for the terminal. Names of a team's are shown as they are: to rich `[bf16]` would be markup."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from softprompt.arm import Arm, side_by_side
from softprompt.checks import Check
from softprompt.diagnosis import Diagnosis
from softprompt.ranking import Ranking
from softprompt.result import Result

screen, errors = Console(), Console(stderr=True)
WIDTH_IN_A_NOTEBOOK = 150
LIGHTS = {True: "[green]saturated[/]", False: "[yellow]still rising[/]", None: "[dim]measured once[/]"}
"""Of a tuning curve; see `Result.saturated`."""


def show_checks(checks: Sequence[Check]) -> None:
    """A row per benchmark: how many items it has, whether it is sound; below it, what is wrong with the others."""
    table = Table("name", "train", "test", "in both", "answer", "chance", "status", title="Benchmarks")
    table.columns[0].no_wrap = True
    for found in checks:
        counts = (found.num_train, found.num_test, found.num_contaminated)
        chance = "" if found.chance is None else f"{found.chance:.2f}"
        colour = {"ok": "green", "unread": "yellow", "broken": "red"}[found.status]
        status = Text(found.status, style=colour)
        table.add_row(found.name, *("" if n is None else str(n) for n in counts), found.answer, chance, status)
    table.caption = "in both: train items that also stand in the test split; they are left out and not counted in train"
    screen.print(table)
    for found in checks:
        if found.problem:
            sentence = found.problem.removeprefix(f"Benchmark {found.name!r}: ")
            screen.print(f"  {found.name}: {sentence}", highlight=False, markup=False, soft_wrap=True)


SHOWN = (
    "accuracy",
    "format_following",
    "knowledge_accuracy",
    "lenient_accuracy",
    "choice_accuracy",
    "gold_bits_per_byte",
)


def conditions_table(result: Result) -> Table:
    """A row per condition, a column per metric, with 95 % intervals."""
    table = Table("condition", *SHOWN, title=escape(f"{result.variant} at step {result.step} on {result.benchmark}"))
    for condition, metrics in result.metrics.items():
        cells = [
            f"{metrics[name].value:.3f} [dim]{metrics[name].low:.2f}-{metrics[name].high:.2f}[/]"
            if name in metrics
            else "[dim]undefined[/]"
            for name in SHOWN
        ]
        table.add_row(condition, *cells)
    accuracy = result.metrics[result.headline]["accuracy"]
    dropped = result.provenance["num_contaminated"]
    table.caption = (
        f"{accuracy.n} items, 95 % intervals, status {result.status}; "
        f"{dropped} train items also stood in the test split and were left out\n{result.cost}"
    )
    return table


def curve_table(result: Result) -> Table:
    """The tuning curve of every placement, with its lights."""
    table = Table("placement", "step", "loss", "format_following", "accuracy", "knowledge_accuracy", title="Tuning")
    for placement, points in result.curves.items():
        for point in points:
            cells = [
                f"{point.metrics[name].value:.3f}" if name in point.metrics else "[dim]undefined[/]"
                for name in ("format_following", "accuracy", "knowledge_accuracy")
            ]
            table.add_row(placement, str(point.step), f"{point.loss:.2f}", *cells)
        lights = [result.saturated(placement, name) for name in ("format_following", "accuracy")]
        table.add_row("", "", "", *(LIGHTS[light] for light in lights), "")
        table.add_section()
    return table


def as_html(result: Result) -> str:
    """The tables and sentences for a notebook, which scrolls where a terminal would cut off."""
    page = Console(record=True, file=io.StringIO(), width=WIDTH_IN_A_NOTEBOOK, force_jupyter=False)
    page.print(conditions_table(result), curve_table(result))
    for sentence in result.sentences():
        page.print(f"  {sentence}", highlight=False, markup=False)
    style = "font-family: monospace; line-height: normal; overflow-x: auto"
    return page.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')


def show_ranking(ranking: Ranking, diagnosis: Diagnosis) -> None:
    """The ranking as a terminal table and sentences."""
    table = Table("rank", "variant", "score", "95 % interval", *ranking.benchmarks)
    table.title = f"Step {ranking.step}, {ranking.condition}, chance-centred accuracy on {ranking.num_items} items"
    for s in ranking.standings:
        cells = [f"{s.accuracy[benchmark]:.3f}" for benchmark in ranking.benchmarks]
        table.add_row(str(s.rank), escape(s.variant), f"{s.score:.3f}", f"{s.low:.3f} to {s.high:.3f}", *cells)
    screen.print(table)
    for sentence in [*ranking.sentences(), *diagnosis.sentences()]:
        screen.print(f"  {sentence}", highlight=False, markup=False)


def arms_table(arms: Sequence[Arm]) -> Table:
    """Arms beside one another: each variant's score, the mean format-following, what a job took."""
    variants = sorted({variant for arm in arms for variant in arm.ranking.scores})
    table = Table(
        "arm", "condition", *map(escape, variants), "format_following", title="Chance-centred accuracy by arm"
    )
    for row in side_by_side(arms):
        cells = [f"{row.ranking.scores[v]:.3f}" if v in row.ranking.scores else "[dim]-[/]" for v in variants]
        table.add_row(
            escape(row.arm),
            row.condition.name,
            *cells,
            f"{row.format_following.value:.3f}" if row.format_following else "",
        )
    took = [f"{arm.name}: step {arm.ranking.step}, {arm.seconds_per_job:.1f} s a job" for arm in arms]
    table.caption = escape("; ".join(took))
    return table
