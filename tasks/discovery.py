"""Which work is there: what exists, minus what is finished. How a poll stays cheap: docs/decisions/003-discovery.md."""

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from prefect import get_run_logger, task

from softprompt.bucket import Bucket
from softprompt.checkpoints import Checkpoint, Folder, describe_each, list_folders
from softprompt.errors import SoftPromptError
from softprompt.layout import Layout
from softprompt.result import Job
from softprompt.study import Study
from tasks.ledger import Finished
from tasks.retries import RETRIED
from tasks.second_looks import SecondLook
from tasks.tracking import Tracker

NUM_NEWEST = 3
"""Steps of each variant that every second look includes."""
NUM_SAID = 20
"""Most lines of a kind that one poll logs."""


@dataclass(frozen=True)
class Look:
    """What one look at a bucket has found."""

    num_folders: int
    pending: list[Checkpoint]
    """Newest step first."""
    rejected: list[SoftPromptError]


@task(**RETRIED)
def find_pending(study: Study, tried: frozenset[str] = frozenset(), most: int | None = None) -> list[Checkpoint]:
    """Complete checkpoints with unfinished jobs, newest step first, no more than `most`; those whose URI is in `tried`
    left out, and not looked at again."""
    found = look(study, tried, most)
    report(study, found)
    return found.pending


@task(**RETRIED)
def find_jobs(study: Study, uri: str, *, retry_failed: bool = False) -> list[Job]:
    """The unfinished jobs of the checkpoint at `uri`, and, if asked for, those that failed before."""
    logger = get_run_logger()
    checkpoint = study.locate(uri)
    ledger = Tracker(study).ledger
    finished = ledger.finished_of(checkpoint)
    ledger.check_copy(finished)
    skip = {key for key, job in finished.items() if job.status == "done" or not retry_failed}
    jobs = jobs_of(study, checkpoint)
    pending = [job for job in jobs if job.key not in skip]
    logger.info("%s: %d of %d benchmarks to do", checkpoint.name, len(pending), len(jobs))
    return pending


def look(study: Study, tried: frozenset[str] = frozenset(), most: int | None = None) -> Look:
    """One look at a study's bucket and at its ledger; see `find_pending`."""
    bucket, finished = Bucket(study.bucket), Tracker(study).ledger.finished()
    listing = list_folders(bucket, Layout(study.layout))
    again = SecondLook(study, time.time())
    untried = [folder for folder in listing.folders if folder.uri not in tried]
    folders = worth_a_look(untried, settled(study, finished.values()), again)
    found = Look(len(listing.folders), [], list(listing.rejected.values()))
    how = {"marker": study.marker, "settle_s": study.settle_s, "with_tokenizer": not study.tokenizer}
    for _, each in describe_each(bucket, folders, **how):
        if isinstance(each, SoftPromptError):
            found.rejected.append(each)
        elif any(job.key not in finished for job in jobs_of(study, each)):
            found.pending.append(each)
            if len(found.pending) == most:
                break
    if not found.pending:
        again.done()
    return found


def settled(study: Study, finished: Iterable[Finished]) -> set[tuple[str, int]]:
    """(variant, step) of what is finished on every benchmark, as it is now, under the study's protocol, by the ledger
    alone."""
    protocol, versions = study.protocol.fingerprint, {study.benchmark(name).fingerprint for name in study.benchmarks}
    done: dict[tuple[str, int], set[str]] = defaultdict(set)
    for job in finished:
        if job.protocol == protocol:
            done[job.variant, job.step].add(job.benchmark_fingerprint)
    return {place for place, found in done.items() if versions <= found}


def worth_a_look(folders: Iterable[Folder], settled: set[tuple[str, int]], again: SecondLook) -> list[Folder]:
    """Folders that must be described, newest step first: what is not settled and, if a second look is due, each
    variant's newest steps and those whose turn it is."""
    num_newer: dict[str, int] = defaultdict(int)
    found = []
    for folder in sorted(folders, key=lambda folder: (-folder.step, folder.variant)):
        is_new = again.is_due() and num_newer[folder.variant] < NUM_NEWEST
        num_newer[folder.variant] += 1
        if is_new or again.has_its_turn(folder) or (folder.variant, folder.step) not in settled:
            found.append(folder)
    return found


def report(study: Study, found: Look) -> None:
    """Log it."""
    logger, pending, rejected = get_run_logger(), found.pending, found.rejected
    for error in rejected[:NUM_SAID]:
        logger.warning("Passed over: %s", error)
    if rejected[NUM_SAID:]:
        logger.warning("Passed over %d more", len(rejected) - NUM_SAID)
    logger.info("%d checkpoints in %s, %d passed over", found.num_folders, study.bucket, len(rejected))
    for checkpoint in pending[:NUM_SAID]:
        logger.info("To evaluate: %s, %s", checkpoint.name, checkpoint.uri)
    if pending[NUM_SAID:]:
        logger.info("To evaluate: %d more", len(pending) - NUM_SAID)


def jobs_of(study: Study, checkpoint: Checkpoint) -> list[Job]:
    return [Job(checkpoint, study.benchmark(name), study.protocol) for name in study.benchmarks]
