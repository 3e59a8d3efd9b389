"""The library's commands. `flows.cli` adds those that need Prefect and MLflow."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, track
from rich.table import Table
from rich.text import Text

from softprompt import benchmarks as registry
from softprompt import controls, suites
from softprompt.checks import Check, check, require_sound
from softprompt.errors import SoftPromptError
from softprompt.protocol import Protocol, Resources
from softprompt.result import Result

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Rank pre-training checkpoints by what they know, not by how well they follow an output format.",
)
screen, errors = Console(), Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Mirror = Annotated[
    str | None, typer.Option(help="Folder laid out like the hub, to read datasets from.", envvar="SOFTPROMPT_MIRROR")
]
Folder = Annotated[str | None, typer.Option(help="Folder with benchmark files of your own.")]


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Folder or URL in the Hugging Face layout, safetensors only.")],
    benchmark: Annotated[
        list[str], typer.Option(help="Name of a benchmark or suite:NAME; may be given several times.")
    ],
    mirror: Mirror = None,
    benchmark_folder: Folder = None,
    tokenizer: Annotated[str | None, typer.Option(help="Where to read the tokenizer, if not there.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the protocol, e.g. --set num_train=100."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    micro_batch: Annotated[
        int | None, typer.Option(help="Most rows in one forward pass; by default as many as fit into free memory.")
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code that comes with the checkpoint.")] = False,
    save: Annotated[Path | None, typer.Option(help="Folder for result.json, items.parquet, vectors.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tune soft prompts for one checkpoint and evaluate it under every condition.

    Example: softprompt evaluate runs/A/step-800 --benchmark arc_easy_words --benchmark svamp
    """
    from softprompt.evaluation import evaluate as run

    protocol = Protocol.from_dict(dict(parse_setting(setting) for setting in set_ or []))
    resources = Resources(device=device, micro_batch=micro_batch, trust_remote_code=trust_remote_code)
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bars:
        for name in suites.expand(benchmark):
            bar = bars.add_task(name, total=1.0)
            result = run(
                checkpoint,
                registry.get(name, benchmark_folder),
                protocol,
                resources=resources,
                mirror=mirror,
                tokenizer=tokenizer,
                progress=lambda what, share, bar=bar, name=name: bars.update(  # type: ignore[misc]
                    bar, completed=share, description=f"{name}: {what}"
                ),
            )
            results.append(result)
            if save:
                result.save(save / name)
    if as_json:
        print(json.dumps([result.to_dict() for result in results], indent=1))
        return
    for result in results:
        screen.print(conditions_table(result), curve_table(result))
        for placement, excess in result.learned_task.items():
            screen.print(f"  {placement}: {controls.in_words(excess)}", highlight=False, soft_wrap=True)


@app.command()
def benchmarks(
    mirror: Mirror = None,
    benchmark_folder: Folder = None,
    check_rows: Annotated[
        bool, typer.Option("--check", help="Read every benchmark's rows and put perfect outputs through its grammar.")
    ] = False,
    show: Annotated[str | None, typer.Option(metavar="NAME", help="Print one prompt of it with its answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the benchmarks and suites that can be named; check them; look at one.

    Example: softprompt benchmarks --check --mirror /datasets
    """
    if show:
        print(shown(show, mirror, benchmark_folder))
        return
    names = registry.names(benchmark_folder)
    if check_rows:
        checks = [
            check(name, mirror, benchmark_folder) for name in track(names, "Reading", console=errors, transient=True)
        ]
        if as_json:
            print(json.dumps([found.to_dict() for found in checks], indent=1))
        else:
            screen.print(checks_table(checks))
        sys.exit(any(found.status == "broken" for found in checks))
    declared = [registry.get(name, benchmark_folder) for name in names]
    if as_json:
        print(json.dumps([{"name": b.name, "path": b.path, "config": b.config, "chance": b.chance} for b in declared]))
        return
    table = Table("name", "dataset", "answer", "chance", title="Benchmarks")
    for b in declared:
        table.add_row(b.name, b.dataset, type(b.grammar).__name__, f"{b.chance:.2f}")
    collections = Table("suite", "for", "benchmarks", title="Suites")
    for name, suite in suites.SUITES.items():
        collections.add_row(suites.PREFIX + name, suite.purpose, ", ".join(suite.names))
    screen.print(table, collections)


def shown(name: str, mirror: str | None, folder: str | None) -> str:
    """The first test item of a benchmark as a model gets it, the answer in guillemets."""
    benchmark = registry.get(name, folder)
    rows = registry.load(benchmark, mirror)
    require_sound(benchmark, rows)
    return f"{benchmark.prompt(rows.test[0])} «{rows.test[0].answer}»"


def checks_table(checks: Sequence[Check]) -> Table:
    """A row per benchmark: how many items it has, or what is wrong with it."""
    table = Table("name", "train", "test", "in both", "answer", "chance", "status", title="Benchmarks")
    for found in checks:
        counts = (found.num_train, found.num_test, found.num_contaminated)
        chance = "" if found.chance is None else f"{found.chance:.2f}"
        colour = {"ok": "green", "unread": "yellow", "broken": "red"}[found.status]
        sentence = found.problem.removeprefix(f"Benchmark {found.name!r}: ")
        status = Text(sentence or found.status, style=colour)
        table.add_row(found.name, *("" if n is None else str(n) for n in counts), found.answer, chance, status)
    table.caption = "in both: train items that also stand in the test split; they are left out and not counted in train"
    return table


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
    table = Table("condition", *SHOWN, title=f"{result.variant} at step {result.step} on {result.benchmark}")
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
        lights = {name: result.saturated(placement, name) for name in ("format_following", "accuracy")}
        table.add_row(
            "",
            "",
            "",
            *("[green]saturated[/]" if light else "[yellow]still rising[/]" for light in lights.values()),
            "",
        )
        table.add_section()
    return table


def parse_setting(text: str) -> tuple[str, object]:
    """`num_train=100` -> ('num_train', 100); values are written as in TOML."""
    import tomllib

    name, _, value = text.partition("=")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE with a value as in TOML ({error}).") from error


def run_app() -> None:
    """Run the command line; an error that a user can act on is one sentence, not a traceback."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except SoftPromptError as error:
        errors.print(f"[red]{type(error).__name__}[/]: {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    run_app()
