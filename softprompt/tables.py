"""Tables and sentences for the terminal. Names of a team's are shown as they are: to rich `[bf16]` would be markup.
Nothing is cut off, however narrow the terminal: a table that is too wide goes on as another one."""

import io
import math
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from softprompt.arm import Arm, side_by_side
from softprompt.checks import Check
from softprompt.diagnosis import Diagnosis
from softprompt.metrics import Estimate
from softprompt.ranking import Ranking
from softprompt.result import Result
from softprompt.scores import SCORE_IN_WORDS

screen, error_screen = Console(), Console(stderr=True)
WIDTH_IN_A_NOTEBOOK = 150
LIGHTS = {True: "[green]saturated[/]", False: "[yellow]still rising[/]", None: "[dim]measured once[/]"}
"""Of a tuning curve; see `Result.saturated`."""


def say(sentences: Iterable[str]) -> None:
    """Each on one line, however long: a path in it can be copied."""
    for sentence in sentences:
        screen.print(f"  {sentence}", highlight=False, markup=False, soft_wrap=True)


def uncut(*head: str, title: str | None = None) -> Table:
    """A table that breaks what is too long for its column; rich would cut it off."""
    return Table(*(Column(name, overflow="fold") for name in head), title=title)


def folded(head: Sequence[str], rows: Sequence[Sequence[str]], *, num_keys: int, width: int) -> list[Table]:
    """One table, or as many as it takes for none to be wider than `width`: each begins with the first `num_keys`
    columns, which say what a row is of, and holds its share of the others."""
    widths = [max(Text.from_markup(cell).cell_len for cell in column) + 3 for column in zip(head, *rows, strict=True)]
    keys, others = range(num_keys), range(num_keys, len(head))
    room = width - min(1 + sum(widths[:num_keys]), width // 2)  # longer names are broken
    groups: list[range] = []
    for num_tables in range(1, len(others) + 1):
        size = math.ceil(len(others) / num_tables)
        groups = [others[start : start + size] for start in range(0, len(others), size)]
        if all(sum(widths[column] for column in group) <= room for group in groups):
            break
    tables = []
    for group in groups:
        columns = [*keys, *group]
        tables.append(uncut(*(head[column] for column in columns)))
        for row in rows:
            tables[-1].add_row(*(row[column] for column in columns))
    return tables


def show_checks(checks: Sequence[Check]) -> None:
    """A row per benchmark: how many items it has, whether it is sound; below it, what is wrong with the others."""
    table = uncut("name", "train", "test", "in both", "answer", "chance", "status", title="Benchmarks")
    table.columns[0].no_wrap = True
    for found in checks:
        counts = (found.num_train, found.num_test, found.num_contaminated)
        chance = "" if found.chance is None else f"{found.chance:.2f}"
        colour = {"ok": "green", "unread": "yellow", "broken": "red"}[found.status]
        status = Text(found.status, style=colour)
        table.add_row(found.name, *("" if n is None else str(n) for n in counts), found.answer, chance, status)
    table.caption = "in both: train items that also stand in the test split; they are left out and not counted in train"
    screen.print(table)
    broken = [found for found in checks if found.problem]
    say(f"{found.name}: {found.problem.removeprefix(f'Benchmark {found.name!r}: ')}" for found in broken)


SHOWN = (
    "accuracy",
    "format_following",
    "knowledge_accuracy",
    "lenient_accuracy",
    "choice_accuracy",
    "gold_bits_per_byte",
)


def conditions_tables(result: Result, width: int | None = None) -> list[Table]:
    """A row per condition, a column per metric, with 95 % intervals."""
    rows = [
        [condition, *(_with_interval(metrics[name]) if name in metrics else "[dim]undefined[/]" for name in SHOWN)]
        for condition, metrics in result.metrics.items()
    ]
    tables = folded(["condition", *SHOWN], rows, num_keys=1, width=width or screen.width)
    at_step = f" at step {result.step}" if result.step else ""  # of a folder that names none, it is 0
    tables[0].title = escape(f"{result.variant}{at_step} on {result.benchmark}")
    accuracy = result.metrics[result.headline]["accuracy"]
    dropped = result.provenance["num_contaminated"]
    tables[-1].caption = (
        f"{accuracy.n} items, 95 % intervals, status {result.status}; "
        f"{dropped} train items also stood in the test split and were left out\n{result.cost}"
    )
    return tables


def _with_interval(found: Estimate) -> str:
    return f"{found.value:.3f} [dim]{found.low:.2f}-{found.high:.2f}[/]"


def curve_table(result: Result) -> Table:
    """The tuning curve of every condition that vectors are tuned for, with its lights."""
    metrics = ("format_\nfollowing", "accuracy", "knowledge_\naccuracy")  # so that it fits into 80 columns
    table = uncut("condition", "step", "loss", *metrics, title="Tuning")
    for condition, points in result.curves.items():
        for point in points:
            cells = [
                f"{point.metrics[name].value:.3f}" if name in point.metrics else "[dim]undefined[/]"
                for name in ("format_following", "accuracy", "knowledge_accuracy")
            ]
            table.add_row(condition, str(point.step), f"{point.loss:.2f}", *cells)
        lights = [result.saturated(condition, name) for name in ("format_following", "accuracy")]
        table.add_row("", "", "", *(LIGHTS[light] for light in lights), "")
        table.add_section()
    return table


def as_html(result: Result) -> str:
    """The tables and sentences for a notebook, which scrolls where a terminal would cut off."""
    page = Console(record=True, file=io.StringIO(), width=WIDTH_IN_A_NOTEBOOK, force_jupyter=False)
    page.print(*conditions_tables(result, WIDTH_IN_A_NOTEBOOK), curve_table(result))
    for sentence in result.sentences():
        page.print(f"  {sentence}", highlight=False, markup=False)
    style = "font-family: monospace; line-height: normal; overflow-x: auto"
    return page.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')


def show_ranking(ranking: Ranking, diagnosis: Diagnosis) -> None:
    """The ranking as a terminal table and sentences."""
    head, *rows = [[escape(cell) for cell in row] for row in ranking.table()]
    tables = folded(head, rows, num_keys=2, width=screen.width)
    tables[0].title = f"Step {ranking.step}, {ranking.condition}, {ranking.num_items} items"
    tables[-1].caption = SCORE_IN_WORDS
    screen.print(*tables)
    for sentence in [*ranking.sentences(), *diagnosis.sentences()]:
        screen.print(f"  {sentence}", highlight=False, markup=False)


def arms_tables(arms: Sequence[Arm]) -> list[Table]:
    """Arms beside one another: each variant's score, the mean format-following, what a job took."""
    variants = sorted({variant for arm in arms for variant in arm.ranking.scores})
    rows = [
        [
            escape(row.arm),
            row.condition.name,
            *(f"{row.ranking.scores[v]:.3f}" if v in row.ranking.scores else "[dim]-[/]" for v in variants),
            f"{row.format_following.value:.3f}" if row.format_following else "",
        ]
        for row in side_by_side(arms)
    ]
    head = ["arm", "condition", *map(escape, variants), "format_following"]
    tables = folded(head, rows, num_keys=2, width=screen.width)
    tables[0].title = "Chance-centred accuracy by arm"
    took = [f"{arm.name}: step {arm.ranking.step}, {arm.seconds_per_job:.1f} s a job" for arm in arms]
    tables[-1].caption = escape("; ".join(took))
    return tables
