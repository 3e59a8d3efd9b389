"""The library's commands. `flows.cli` adds those that need Prefect and MLflow."""

import os
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import track

from softprompt import benchmarks as registry
from softprompt import suites
from softprompt.checkpoints import open_checkpoint
from softprompt.checks import check, require_sound
from softprompt.errors import BadStudy, SoftPromptError
from softprompt.files import usable
from softprompt.protocol import Protocol, Resources
from softprompt.result import Result, to_json
from softprompt.rows import MIRROR_VARIABLE, load_rows, mirror_folder
from softprompt.study import Study
from softprompt.tables import (
    arms_tables,
    conditions_tables,
    curve_table,
    error_screen,
    say,
    screen,
    show_checks,
    show_ranking,
    uncut,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Rank pre-training checkpoints by what they know, not by how well they follow an output format.",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Mirror = Annotated[
    str | None, typer.Option(help=f"Folder laid out like the hub, to read rows from. Default: {MIRROR_VARIABLE}.")
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
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder, URL or hub name of the tokenizer, if not there.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the protocol, e.g. --set num_train=100."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    micro_batch: Annotated[
        int | None, typer.Option(help="Most rows in one forward pass; by default as many as fit into free memory.")
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code that comes with the checkpoint.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(help="Folder to save results in: result.json, items.parquet and vectors in SAVE/BENCHMARK/."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tune soft prompts for one checkpoint and evaluate it under every condition.

    A benchmark that fails does not stop the others; the exit status is 1 then.

    Example: softprompt evaluate runs/A/step-800 --benchmark arc_easy_words --benchmark svamp
    """
    from softprompt.evaluation import evaluate as run

    protocol = Protocol.from_dict(dict(parse_setting(setting) for setting in set_ or []))
    resources = Resources(device=device, micro_batch=micro_batch, trust_remote_code=trust_remote_code)
    declared = [registry.get(name, benchmark_folder) for name in suites.expand(benchmark)]
    opened = open_checkpoint(checkpoint, with_tokenizer=not tokenizer)
    folders = {each.name: save / each.name for each in declared} if save else {}
    for folder in folders.values():
        try_to_write(folder)
    results, failed = [], defaultdict[str, list[str]](list)
    for number, each in enumerate(declared, start=1):
        where = f"{number} of {len(declared)}: {each.name}"
        try:
            result = run(opened, each, protocol, resources=resources, mirror=mirror, tokenizer=tokenizer)
        except SoftPromptError as error:
            failed[str(error)].append(each.name)
            note(f"{where}: failed")
            continue
        if folders:
            result.save(folders[each.name])
        note(f"{where}: done")
        if as_json:
            results.append(result.to_dict())
        else:
            show_result(result)
    if as_json:
        print(to_json(results))
    for reason, names in failed.items():
        show_failure(f"{', '.join(names)}: {reason}")
    sys.exit(bool(failed))


@app.command()
def study(
    study: Annotated[
        Path, typer.Argument(help=escape("The study's TOML file; its [arms.NAME] tables change the protocol."))
    ],
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="Path or URL; may be given several times. Default: the whole bucket.")
    ] = None,
    step: Annotated[list[int] | None, typer.Option(help="Only checkpoints at these steps.")] = None,
    report: Annotated[Path | None, typer.Option(help="Where to write the report; default: study.html at home.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold protocols against one another: every arm on every checkpoint and benchmark, without Prefect and MLflow.

    What is done is not done again, so that a run may be stopped and started at any time. Ends with one report.
    """
    from softprompt.experiment import Experiment, checkpoints_of
    from softprompt.report import write_report

    declared = Study.read(study)
    if report and not report.absolute().parent.is_dir():
        raise BadStudy(f"There is no folder {report.absolute().parent} for the report; make it, or name another.")
    failures: list[str] = []
    arms = Experiment.of(declared).run(
        checkpoints_of(declared, checkpoint or (), step or ()),
        on_failure=lambda job, error: failures.append(f"{job.checkpoint.name} on {job.benchmark.name}: {error}"),
        on_end=note,
    )
    for failure in failures:
        show_failure(failure)
    if not arms:
        why = "every job failed, see above" if failures else f"{declared.bucket} holds no checkpoints yet"
        raise BadStudy(f"There is nothing to report: {why}.")
    with usable(declared.home):
        file = write_report(arms, report or Path(declared.home) / "study.html", title=declared.name)
    if as_json:
        found = {"study": declared.name, "failures": failures, "arms": {arm.name: arm.to_dict() for arm in arms}}
        print(to_json(found))
    else:
        if len(arms) > 1:
            screen.print(*arms_tables(arms))
            say(f"{arm.name}: {caution}" for arm in arms for caution in arm.ranking.cautions())
        else:
            show_ranking(arms[0].ranking, arms[0].diagnosis)
        screen.print(f"Written: {file}", markup=False, soft_wrap=True)
    sys.exit(bool(failures))


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
        print(one_prompt(show, mirror, benchmark_folder))
        return
    names = registry.names(benchmark_folder)
    if check_rows:
        mirror_folder(mirror)  # or without one that is named, every benchmark would be unread
        checks = [
            check(name, mirror, benchmark_folder)
            for name in track(names, "Reading", console=error_screen, transient=True)
        ]
        if as_json:
            print(to_json([found.to_dict() for found in checks]))
        else:
            show_checks(checks)
        sys.exit(any(found.status == "broken" for found in checks))
    declared = [registry.get(name, benchmark_folder) for name in names]
    if as_json:
        print(to_json([{"name": b.name, "path": b.path, "config": b.config, "chance": b.chance} for b in declared]))
        return
    table = uncut("name", "dataset", "answer", "chance", title="Benchmarks")
    for b in declared:
        table.add_row(b.name, b.dataset, type(b.grammar).__name__, f"{b.chance:.2f}")
    collections = uncut("suite", "for", "benchmarks", title="Suites")
    for name, suite in suites.SUITES.items():
        collections.add_row(suites.PREFIX + name, suite.purpose, ", ".join(suite.names))
    screen.print(table, collections)


def one_prompt(name: str, mirror: str | None, folder: str | None) -> str:
    """The first test item of a benchmark as a model gets it, the answer in guillemets."""
    benchmark = registry.get(name, folder)
    rows = load_rows(benchmark, mirror)
    require_sound(benchmark, rows)
    return f"{benchmark.prompt(rows.test[0])} «{rows.test[0].answer}»"


def show_result(result: Result) -> None:
    """A result as terminal tables and sentences."""
    screen.print(*conditions_tables(result), curve_table(result))
    say(result.sentences())


def try_to_write(folder: Path) -> None:
    """Make a folder for a result, or raise `BadStudy`: to learn it from the finished result would cost the result."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise BadStudy(f"No result can be saved in {folder} ({error.strerror}); name another folder.") from error


def note(what: str) -> None:
    """A line on an error stream that is no terminal: a log, where no bar says how far the work is."""
    if not sys.stderr.isatty():
        print(what, file=sys.stderr, flush=True)


def show_failure(what: str) -> None:
    error_screen.print(f"[red]Failed[/]: {escape(what)}", highlight=False, soft_wrap=True)


def parse_setting(text: str) -> tuple[str, object]:
    """`num_train=100` -> ('num_train', 100); values are written as in TOML."""
    name, _, value = text.partition("=")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(
            f"{text!r} is not NAME=VALUE with a value as in TOML: strings stand in quotes, lists in brackets, true and "
            "false in lower case, e.g. --set 'placements=[\"cue\"]' or --set chat=true; leave a setting out "
            "for its default."
        ) from error


def run_app() -> None:
    """Run the command line; an error that a user can act on is one sentence, not a traceback."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except SoftPromptError as error:
        error_screen.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    run_app()
