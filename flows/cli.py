"""The command `softprompt`: the library's commands, and those that need Prefect and MLflow."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from softprompt.cli import AsJson, app, run_app
from softprompt.result import to_json
from softprompt.study import Study
from softprompt.tables import say, screen, show_ranking, uncut

if TYPE_CHECKING:
    from softprompt.ranking import Ranking
    from tasks.planning import Plan

StudyFile = Annotated[str, typer.Argument(help="The study's TOML file, e.g. demo/study.toml.")]


@app.command()
def rank(
    study: StudyFile,
    condition: Annotated[str | None, typer.Option(help="Rank by this condition; default: the headline.")] = None,
    step: Annotated[int | None, typer.Option(help="Rank at this step; default: see above.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank a study's variants from the results in MLflow; nothing is evaluated.

    They are ranked at the step at which the most of them have every benchmark, the last one if there are several: a
    variant that comes late holds the ranking back, and is named.
    """
    from softprompt.diagnosis import diagnose
    from tasks.rankings import PastRankings, rank_at
    from tasks.tracking import Tracker

    tracker = Tracker(Study.read(study))
    jobs, failed = tracker.ledger.done_and_failed()
    found, _ = rank_at(tracker, jobs, failed, condition=condition, step=step)
    past: list[Ranking] = []
    if found.condition == tracker.study.protocol.headline:
        others = PastRankings(tracker, jobs)
        found, past = replace(found, notes=(*found.notes, *others.notes)), others.rankings
    diagnosis = diagnose(found, past)
    if as_json:
        print(to_json({**found.to_dict(), "diagnosis": diagnosis.to_dict()}))
    else:
        show_ranking(found, diagnosis)


@app.command()
def plan(study: StudyFile, as_json: AsJson = False) -> None:
    """Say what `watch` would evaluate and what it would cost, by what past jobs of the study took; what failed before,
    what is passed over, and why. Nothing is spent.
    """
    quiet_prefect()
    from tasks.discovery import look
    from tasks.planning import plan_checkpoints

    declared = Study.read(study)
    found = look(declared)
    planned = plan_checkpoints(declared, found.pending)
    if as_json:
        print(to_json({**planned.to_dict(), **found.to_dict()}))
    else:
        say([str(found), *found.warnings(), *found.to_evaluate()])
        show_plan(planned)


@app.command()
def watch(
    study: StudyFile,
    checkpoint: Annotated[
        str | None, typer.Option(help="Path or URL: evaluate this one alone, and what failed on it before again.")
    ] = None,
) -> None:
    """Evaluate what is new in a study's bucket, newest first, and rank; then stop. A deployment schedules it."""
    if checkpoint == "":
        raise typer.BadParameter("--checkpoint is empty; name one, or leave it out to look at the whole bucket.")
    Study.read(study)  # or a mistake in it would be found only when Prefect has started
    quiet_prefect()
    from flows.evaluate_checkpoint import evaluate_checkpoint
    from flows.watch_checkpoints import watch_checkpoints

    if checkpoint:
        state = evaluate_checkpoint(study, checkpoint, return_state=True)
    else:
        state = watch_checkpoints(study, return_state=True)
    sys.exit(not state.is_completed())  # what went wrong stands in the log, in one sentence


@app.command()
def announce(
    checkpoint: Annotated[str, typer.Argument(help="Path or URL of a checkpoint that is complete.")],
) -> None:
    """Tell Prefect that a checkpoint is ready, from a trainer's shell; a deployment evaluates it at once."""
    quiet_prefect()
    from tasks.announcing import announce_checkpoint

    screen.print(f"Announced: {announce_checkpoint(checkpoint)}", markup=False, soft_wrap=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo keeps everything.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the Knowledge World.")] = 0,
) -> None:
    """Pre-train three tiny variants whose knowledge is known and rank them while they train.

    Run again, it trains and evaluates nothing that is done.
    """
    quiet_prefect()
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(folder.absolute() / "prefect"))  # a server of its own
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))  # a core for the pre-training
    from flows.demo import run_demo

    run_demo(folder, seed)


def show_plan(plan: "Plan") -> None:
    """The plan as a terminal table and a sentence."""
    from tasks.planning import in_words

    table = uncut("benchmark", "jobs", "each", "measured on", "in all", title="To be evaluated")
    for cost in plan.costs:
        if cost.seconds is None or cost.seconds_per_job is None:
            cells = ["no measurement yet", "", ""]
        else:
            cells = [in_words(cost.seconds_per_job), f"{cost.num_measured} jobs", in_words(cost.seconds)]
        table.add_row(cost.benchmark, str(cost.num_jobs), *cells)
    if plan.costs:
        screen.print(table)
    screen.print(plan.sentence(), highlight=False, soft_wrap=True)


def quiet_prefect() -> None:
    """Prefect without a server's chatter, set before it is imported; what the user has set stays."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "ERROR")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    # Prefect's SQLite waits up to 60 s for a lock (busy_timeout in prefect/server/database/configurations.py) and its
    # client as long for an answer: it gives up a moment before the server says that it is to try again.
    os.environ.setdefault("PREFECT_API_REQUEST_TIMEOUT", "180")
    os.environ.setdefault("DO_NOT_TRACK", "true")


main = run_app
"""Entry point of the console script."""


if __name__ == "__main__":
    main()
