"""One job: claim, tune, evaluate, log."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.states import Completed

from softprompt.errors import (
    BadBucket,
    BadStudy,
    HostUnusable,
    JobCancelled,
    RowsUnavailable,
    SoftPromptError,
    TrackingRefused,
)
from softprompt.files import remove_whole, temporary_folder, usable
from softprompt.request import Request
from softprompt.result import Job, Result, is_saved
from softprompt.study import Study
from tasks.children import run_worker
from tasks.claims import claimed
from tasks.retries import RETRIED, PrefectUnavailable
from tasks.slots import slot
from tasks.tracking import Tracker

MENDED_ELSEWHERE = (BadBucket, BadStudy, HostUnusable, JobCancelled, RowsUnavailable, TrackingRefused)
"""Errors that go away while checkpoint, benchmark and protocol stay as they are: no end of the job."""


@task(task_run_name="{job.benchmark.name}", **{**RETRIED, "retry_delay_seconds": [10, 60]})
def evaluate_benchmark(study: Study, job: Job, retry_failed: bool = True, wait_for_others: bool = True) -> State[Any]:
    """Evaluate a job and log it, unless another process does, or did meanwhile. A job that another is at work on is
    left to it, or waited for: until its result is there, or its claim has ended and this process takes over."""
    tracker = Tracker(study)
    patience_s = math.inf if wait_for_others else 0
    with room_for_a_job(study) as devices, claimed(tracker.store, job.key, patience_s=patience_s) as is_mine:
        if not is_mine:
            return Completed(name="Left", message=f"Another process evaluates {job.checkpoint.name}.")
        if is_finished(tracker, job, retry_failed):
            return Completed(name="Done before", message=f"Another process evaluated {job.checkpoint.name}.")
        evaluate_and_log(tracker, job, devices)
    return Completed(name="Done")


@contextmanager
def room_for_a_job(study: Study) -> Iterator[tuple[str, ...]]:
    """Wait for a slot of this host and, where the study names a limit, of the cluster; yields the slot's devices."""
    resources, logger = study.resources, get_run_logger()
    limit = resources.concurrency_limit
    with slot(study.home, resources, on_wait=lambda: logger.info("All slots of this host are taken; waiting.")) as own:
        try:
            with concurrency(
                [limit] if limit else [],
                occupy=resources.devices_per_job,
                strict=True,
                raise_on_lease_renewal_failure=False,  # or a restart of Prefect's server would end all running jobs
            ):
                yield own
        except ConcurrencySlotAcquisitionError as error:
            if error.__cause__:  # only a limit that is not there has none
                reason = f"{error}: {type(error.__cause__).__name__}"
                raise PrefectUnavailable(
                    f"Prefect has not granted its limit {limit!r} ({reason}); start Prefect, or correct the limit."
                ) from error
            raise BadStudy(
                f"Prefect has no concurrency limit {limit!r}, which the study names; make it with "
                f"`prefect gcl create {limit} --limit NUMBER_OF_GPUS`."
            ) from error


def evaluate_and_log(tracker: Tracker, job: Job, devices: tuple[str, ...] = ()) -> None:
    """A result that was computed but not logged, because the process died or MLflow was away, is logged without being
    computed again. If another process was faster, because this one lost its claim meanwhile, its result stands."""
    folder, home = tracker.results_folder / job.key, tracker.study.home
    if not is_saved(folder):
        with usable(home):  # found out before anything is computed
            remove_whole(folder)
        try:
            compute(tracker.study, job, folder, devices)
        except SoftPromptError as error:
            is_final = not error.retryable and not isinstance(error, MENDED_ELSEWHERE)
            if is_final and not is_finished(tracker, job, retry_failed=True):
                tracker.log_failure(job, error)
            raise
    if is_finished(tracker, job, retry_failed=True):
        with usable(home):
            remove_whole(folder)
    else:
        tracker.log(job, folder)


def is_finished(tracker: Tracker, job: Job, retry_failed: bool) -> bool:
    found = tracker.ledger.finished_of(job.checkpoint).get(job.key)
    return found is not None and (found.status == "done" or not retry_failed)


def compute(study: Study, job: Job, folder: Path, devices: tuple[str, ...]) -> None:
    """Evaluate `job` and save its result as `folder`, whole or not at all."""
    logger, request = get_run_logger(), Request.of(study, job)
    if study.resources.in_child:
        with usable(study.home), temporary_folder(folder) as half:
            run_worker(request, half, devices=devices, on_line=lambda line: logger.info("%s", line))
    else:
        found = request.run(lambda what, share: logger.debug("%s, %.0f %%", what, 100 * share))
        with usable(study.home), temporary_folder(folder) as half:
            found.save(half)
    result = Result.load(folder, with_items=False)
    headline = result.metrics[result.headline]
    logger.info(
        "%s on %s: %s accuracy %.3f, format-following %.3f; %s",
        job.checkpoint.name,
        job.benchmark.name,
        result.headline,
        headline["accuracy"].value,
        headline["format_following"].value,
        result.cost,
    )
