"""One job: claim, tune, evaluate, log."""

import math
import shutil
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from softprompt.errors import SoftPromptError
from softprompt.result import RESULT_FILE, Job
from softprompt.study import Study
from tasks.claims import claimed
from tasks.files import temporary_folder
from tasks.retries import is_retryable
from tasks.tracking import Tracker


@task(
    task_run_name="{job.benchmark.name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=is_retryable,
)
def evaluate_benchmark(study: Study, job: Job, retry_failed: bool = True, wait_for_others: bool = True) -> State[Any]:
    """Evaluate a job and log it, unless another process does, or did meanwhile. A job that another is at work on is
    left to it, or waited for: until its result is there, or its claim has ended and this process takes
    over."""
    tracker = Tracker(study)
    with claimed(tracker.store, job.key, patience_s=math.inf if wait_for_others else 0) as is_mine:
        if not is_mine:
            return Completed(name="Left", message=f"Another process evaluates {job.checkpoint.name}.")
        if is_finished(tracker, job, retry_failed):
            return Completed(name="Done before", message=f"Another process evaluated {job.checkpoint.name}.")
        evaluate_and_log(tracker, job)
    return Completed(name="Done")


def evaluate_and_log(tracker: Tracker, job: Job) -> None:
    """A result that was computed but not logged, because the process died or MLflow was away, is logged without being
    computed again. If another process was faster, because this one lost its claim meanwhile, its result stands."""
    folder = tracker.results_folder / job.key
    if not (folder / RESULT_FILE).exists():
        try:
            compute(tracker.study, job, folder)
        except SoftPromptError as error:
            if not error.retryable:
                tracker.log_failure(job, error)
            raise
    if is_finished(tracker, job, retry_failed=True):
        shutil.rmtree(folder)
    else:
        tracker.log(job, folder)


def is_finished(tracker: Tracker, job: Job, retry_failed: bool) -> bool:
    found = tracker.ledger.finished_of(job.checkpoint).get(job.key)
    return found is not None and (found.status == "done" or not retry_failed)


def compute(study: Study, job: Job, folder: Path) -> None:
    """Evaluate `job` and save its result as `folder`, whole or not at all."""
    from softprompt.evaluation import evaluate

    logger = get_run_logger()
    result = evaluate(
        job.checkpoint,
        job.benchmark,
        job.protocol,
        resources=study.resources,
        mirror=study.mirror,
        tokenizer=study.tokenizer,
        progress=lambda what, share: logger.debug("%s: %s, %.0f %%", job.benchmark.name, what, 100 * share),
    )
    with temporary_folder(folder) as half:
        result.save(half)
    headline = result.metrics[result.headline]
    logger.info(
        "%s on %s: %s accuracy %.3f, format-following %.3f (%.0f s)",
        job.checkpoint.name,
        job.benchmark.name,
        result.headline,
        headline["accuracy"].value,
        headline["format_following"].value,
        sum(result.seconds.values()),
    )
