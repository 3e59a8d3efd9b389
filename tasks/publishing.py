"""Rank the results and put the ranking where people look: MLflow, Prefect, a report."""

import re
from dataclasses import replace
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from softprompt.arm import Arm
from softprompt.diagnosis import Diagnosis
from softprompt.files import usable, write_whole
from softprompt.ranking import Ranking
from softprompt.result import to_json
from softprompt.scores import SCORE_IN_WORDS
from softprompt.study import Study, plain
from tasks.rankings import PastRankings, rank_at
from tasks.retries import RETRIED
from tasks.tracking import ORDER_TAG, RANKED_TAG, Tracker

CHANGED = "ranking.changed"
"""The event that another order of the variants can be told; see `Ranking.order`."""
RESOURCE = "softprompt.study."


@task(**RETRIED)
def publish_ranking(study: Study) -> Ranking:
    """The ranking at the best matched step, published at home, in MLflow, as a Prefect artifact, and as an event if
    another order of the variants can be told."""
    ranking, diagnosis, basis = publish(study)
    tracker, logger = Tracker(study), get_run_logger()
    key = "ranking-" + re.sub("[^a-z0-9]+", "-", plain(study.name).lower())  # Prefect allows no other characters
    markdown, charts = as_markdown(ranking, diagnosis), tracker.charts
    if charts:
        markdown += f"\n[The variants side by side in MLflow]({charts})\n"
        logger.info("The variants side by side in MLflow: %s", charts)
    create_markdown_artifact(key=key, markdown=markdown, description=f"Ranking of {study.name}")
    sentences = [*ranking.sentences(), *diagnosis.sentences()]
    for sentence in sentences:
        logger.info("%s", sentence)
    if ranking.order != (before := tracker.ranking_tag(ORDER_TAG)):
        resource = {"prefect.resource.id": RESOURCE + plain(study.name), "prefect.resource.name": study.name}
        now = {"study": study.name, "step": ranking.step, "order": ranking.order}
        emit_event(CHANGED, resource, payload={**now, "before": before, "sentences": sentences, "charts": charts})
        tracker.tag_ranking(ORDER_TAG, ranking.order)
    tracker.tag_ranking(RANKED_TAG, basis)
    return ranking


@task(**RETRIED)
def is_ranking_due(study: Study, basis: str | None = None) -> bool:
    """Whether the published ranking, if there is one, rests on other results than there are. `basis` is that of a look
    that was taken just now, or is asked for."""
    tracker = Tracker(study)
    if basis is None:
        basis = tracker.ledger.basis(tracker.ledger.finished().values())
    if not basis:
        get_run_logger().info("There are no results to rank yet.")
    return bool(basis) and tracker.ranking_tag(RANKED_TAG) != basis


def publish(study: Study) -> tuple[Ranking, Diagnosis, str]:
    """Write `latest-ranking.json`, `rankings.json` (all steps) and `report.html` into the study's home and MLflow. Also
    what the ranking rests on, see `Ledger.basis`."""
    from softprompt.report import write_report

    tracker, home = Tracker(study), Path(study.home)
    finished = tracker.ledger.finished().values()
    jobs, failed = tracker.ledger.done_and_failed(finished)
    ranking, results = rank_at(tracker, jobs, failed)
    past = PastRankings(tracker, jobs)
    ranking = replace(ranking, notes=(*ranking.notes, *past.notes))
    arm = Arm(name=study.name, results=tuple(results), ranking=ranking, past=tuple(past.rankings))
    values = {**ranking.to_dict(), "diagnosis": arm.diagnosis.to_dict()}
    with usable(home):
        report = write_report([arm], home / "report.html", title=study.name)
        latest = write_whole(home / "latest-ranking.json", to_json(values))
    tracker.log_rankings(past.new, jobs)
    tracker.log_ranking_files([report, latest, past.save()])
    return ranking, arm.diagnosis, tracker.ledger.basis(finished)


def as_markdown(ranking: Ranking, diagnosis: Diagnosis) -> str:
    """The ranking as a table and sentences."""
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in ranking.table()]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])
    sentences = "\n".join(f"- {sentence}" for sentence in [*ranking.sentences(), *diagnosis.sentences()])
    return f"## Step {ranking.step}, {ranking.condition}\n\n{table}\n\n{SCORE_IN_WORDS}\n\n{sentences}\n"
