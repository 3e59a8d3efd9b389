"""Jobs that nobody computed, logged to a study's MLflow, and what it then holds."""

from typing import Any

from studies import recorded_result

from softprompt.checkpoints import Checkpoint
from softprompt.fingerprints import fingerprint
from softprompt.result import Job
from softprompt.study import Study
from tasks.rankings import PastRankings
from tasks.store import Store
from tasks.tracking import Tracker


def job(study: Study, variant: str = "A", step: int = 100, weights: str = "first", benchmark: str = "sums") -> Job:
    checkpoint = Checkpoint(
        uri=f"{study.bucket}/{variant}/step-{step}",
        variant=variant,
        step=step,
        fingerprint=fingerprint([variant, step, weights]),
        modified_ms={"first": 1_000_000, "second": 2_000_000}[weights],
    )
    return Job(checkpoint, study.benchmark(benchmark), study.protocol)


def log(study: Study, *jobs: Job) -> None:
    tracker = Tracker(study)
    for each in jobs:
        tracker.log(each, recorded_result(each).save(tracker.results_folder / each.key))


def log_rankings(study: Study) -> PastRankings:
    tracker = Tracker(study)
    past = PastRankings(tracker, tracker.ledger.to_rank())
    tracker.log_rankings(past.new, tracker.ledger.to_rank())
    tracker.log_ranking_files([past.save()])
    return past


def points(study: Study, variant: str, metric: str) -> list[Any]:
    store = Store(study)
    return store.client.get_metric_history(store.run_id(variant), metric)
