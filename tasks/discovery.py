"""Which work is there: what exists, minus what is finished. How a poll stays cheap: docs/decisions/003-discovery.md."""

import time
import zlib
from collections import defaultdict
from collections.abc import Iterable

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from softprompt.bucket import Bucket
from softprompt.checkpoints import Checkpoint, Folder, describe_each, list_folders, open_checkpoint
from softprompt.errors import SoftPromptError
from softprompt.layout import Layout
from softprompt.result import Job
from softprompt.study import Study
from tasks.retries import is_retryable
from tasks.tracking import Finished, Tracker

NUM_NEWEST = 3
"""Steps of each variant that every poll looks into, finished or not."""
SLOT_S, NUM_SLOTS = 300, 287
"""A finished checkpoint is looked into again in one of so many slots of time. Their number is a prime, so that polls
at any interval meet them all; at the usual five minutes, once a day."""
NUM_SAID = 20
"""Most reasons for passing something over that one poll logs."""


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[5, 30], retry_condition_fn=is_retryable)
def find_pending(study: Study, tried: frozenset[str] = frozenset(), most: int | None = None) -> list[Checkpoint]:
    """Complete checkpoints with unfinished jobs, newest step first, no more than `most`; those whose fingerprint is in
    `tried` left out."""
    bucket, finished = Bucket(study.bucket), Tracker(study).finished()
    listing = list_folders(bucket, Layout(study.layout))
    folders = worth_a_look(study, listing.folders, finished.values(), time.time())
    rejected, pending = list(listing.rejected.values()), []
    for _, found in describe_each(bucket, folders, marker=study.marker, settle_s=study.settle_s):
        if isinstance(found, SoftPromptError):
            rejected.append(found)
        elif found.fingerprint not in tried and any(job.key not in finished for job in jobs_of(study, found)):
            pending.append(found)
            if len(pending) == most:
                break
    report(study, len(listing.folders), pending, rejected)
    return pending


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[5, 30], retry_condition_fn=is_retryable)
def find_jobs(study: Study, uri: str, *, retry_failed: bool = False) -> list[Job]:
    """The unfinished jobs of the checkpoint at `uri`, and, if asked for, those that failed before."""
    logger = get_run_logger()
    checkpoint = locate(study, uri)
    finished = Tracker(study).finished()
    skip = {key for key, job in finished.items() if job.status == "done" or not retry_failed}
    jobs = jobs_of(study, checkpoint)
    pending = [job for job in jobs if job.key not in skip]
    logger.info("%s: %d of %d benchmarks to do", checkpoint.name, len(pending), len(jobs))
    return pending


def worth_a_look(study: Study, folders: Iterable[Folder], finished: Iterable[Finished], now_s: float) -> list[Folder]:
    """Folders that must be described, newest step first: where a benchmark is unfinished, and where finished weights
    may have been overwritten, which are each variant's newest steps and those whose slot it is."""
    done = {(job.variant, job.step, job.benchmark) for job in finished if job.protocol == study.protocol.fingerprint}
    slot = int(now_s // SLOT_S) % NUM_SLOTS
    by_variant: dict[str, list[Folder]] = defaultdict(list)
    for folder in folders:
        by_variant[folder.variant].append(folder)
    found = []
    for siblings in by_variant.values():
        siblings.sort(key=lambda folder: -folder.step)
        for age, folder in enumerate(siblings):
            is_done = all((folder.variant, folder.step, name) in done for name in study.benchmarks)
            if not is_done or age < NUM_NEWEST or zlib.crc32(folder.uri.encode()) % NUM_SLOTS == slot:
                found.append(folder)
    return sorted(found, key=lambda folder: (-folder.step, folder.variant))


def report(study: Study, num_folders: int, pending: list[Checkpoint], rejected: list[SoftPromptError]) -> None:
    """Say what a look at the bucket has found."""
    logger = get_run_logger()
    for error in rejected[:NUM_SAID]:
        logger.warning("Passed over: %s", error)
    if rejected[NUM_SAID:]:
        logger.warning("Passed over %d more", len(rejected) - NUM_SAID)
    sentence = "%d checkpoints in %s, %d of those looked into have work to do, %d passed over"
    logger.info(sentence, num_folders, study.bucket, len(pending), len(rejected))


def jobs_of(study: Study, checkpoint: Checkpoint) -> list[Job]:
    return [Job(checkpoint, study.benchmark(name), study.protocol) for name in study.benchmarks]


def locate(study: Study, uri: str) -> Checkpoint:
    """A checkpoint by its URI; variant and step come from the layout if it lies in the study's bucket."""
    root = study.bucket.rstrip("/") + "/"
    place = Layout(study.layout).match(uri.rstrip("/").removeprefix(root)) if uri.startswith(root) else None
    return open_checkpoint(uri, place)
