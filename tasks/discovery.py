"""Which work is there: what exists, minus what is finished. How a poll stays cheap: docs/decisions/003-discovery.md."""

import shlex
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prefect import get_run_logger, task
from prefect.runtime import flow_run

from softprompt.bucket import Bucket
from softprompt.checkpoints import Checkpoint, Folder, describe_each, list_folders
from softprompt.errors import SoftPromptError
from softprompt.layout import Layout
from softprompt.result import Job
from softprompt.study import Study
from tasks.ledger import Finished, Place, by_error, newest, of_study
from tasks.retries import RETRIED
from tasks.second_looks import SecondLook
from tasks.tracking import Tracker

NUM_NEWEST = 3
"""Steps of each variant that every second look includes."""
NUM_FAILED = 50
"""Newest checkpoints with failed jobs that every look describes, since they may have been repaired: a benchmark that
fails on each of thousands must not make each look describe them all."""
NUM_SAID = 20
"""Most lines of a kind that one look says."""
ANEW = "; its results are of other weights, another protocol, other benchmarks or another version of them"
_said: set[tuple[str | None, str]] = set()
"""Flow runs with what they have warned of: one run looks many times."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A checkpoint, as it lies there now, with jobs that failed for good."""

    checkpoint: Checkpoint
    errors: dict[str, str]
    """By benchmark."""

    def __str__(self) -> str:
        uri = shlex.quote(self.checkpoint.uri)
        return (
            f"{self.checkpoint.name}, {self.checkpoint.uri}, failed before on {by_error(self.errors)}. It is tried "
            f"again once its files change, and at once by `softprompt watch STUDY --checkpoint {uri}`, or as a "
            f"deployment by `prefect deployment run evaluate-checkpoint/by-hand -p checkpoint={uri}`."
        )

    def to_dict(self) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint.uri, "errors": self.errors}


@dataclass
class Look:
    """What one look at a bucket has found."""

    bucket: str
    num_folders: int
    rejected: list[SoftPromptError]
    num_described: int = 0
    """A look that wants one checkpoint ends at the first."""
    pending: list[Checkpoint] = field(default_factory=list)
    """Newest step first."""
    anew: set[str] = field(default_factory=set)
    """URIs of those of them that have results which do not count."""
    failed: list[Failure] = field(default_factory=list)
    basis: str = ""
    """Of a ranking, see `Ledger.basis`; not of a look that finds something to evaluate."""

    def __str__(self) -> str:
        if not self.num_folders and not self.rejected:
            return f"Nothing lies in {self.bucket} (yet); correct `bucket` in the study if checkpoints should be there."
        return (
            f"{self.num_folders} checkpoints in {self.bucket}, {self.num_described} of them looked into: "
            f"{len(self.pending)} to evaluate, {len(self.failed)} failed before, {len(self.rejected)} passed over"
        )

    def to_evaluate(self) -> list[str]:
        return some(
            [f"To evaluate: {each.name}, {each.uri}{ANEW if each.uri in self.anew else ''}" for each in self.pending]
        )

    def warnings(self) -> list[str]:
        return [*some([f"Passed over: {error}" for error in self.rejected]), *some([str(each) for each in self.failed])]

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_folders": self.num_folders,
            "failed": [each.to_dict() for each in self.failed],
            "passed_over": [str(error) for error in self.rejected],
        }


@task(**RETRIED)
def find_pending(
    study: Study, tried: frozenset[str] = frozenset(), most: int | None = None, *, retry_failed: bool = False
) -> Look:
    """Look for complete checkpoints with unfinished jobs and, if asked for, failed ones, newest step first, at most
    `most` of them; those whose URI is in `tried` are left out, and not looked at again."""
    found = look(study, tried, most, retry_failed=retry_failed)
    report(found)
    return found


@task(**RETRIED)
def find_jobs(study: Study, uri: str, *, retry_failed: bool = False) -> list[Job]:
    """The unfinished jobs of the checkpoint at `uri`, and, if asked for, those that failed before."""
    logger = get_run_logger()
    checkpoint = study.locate(uri)
    if checkpoint.variant in study.leave_out:
        logger.info("%s: the study leaves %s out", checkpoint.name, checkpoint.variant)
        return []
    ledger = Tracker(study).ledger
    finished = ledger.finished_of(checkpoint)
    ledger.check_copy(finished)
    skip = {key for key, job in finished.items() if job.status == "done" or not retry_failed}
    jobs = jobs_of(study, checkpoint)
    pending = [job for job in jobs if job.key not in skip]
    logger.info("%s: %d of %d benchmarks to do", checkpoint.name, len(pending), len(jobs))
    return pending


def look(
    study: Study, tried: frozenset[str] = frozenset(), most: int | None = None, *, retry_failed: bool = False
) -> Look:
    """One look at a study's bucket and at its ledger; see `find_pending`."""
    bucket, ledger = Bucket(study.bucket), Tracker(study).ledger
    finished = ledger.finished()
    listing = list_folders(bucket, Layout(study.layout))
    again = SecondLook(study, time.time())
    folders = [folder for folder in listing.folders if folder.variant not in study.leave_out]
    untried = [folder for folder in folders if folder.uri not in tried]
    failures = {job.place for job in newest(study, finished.values()) if job.status == "failed"}
    done = settled(study, finished.values()) - (failures if retry_failed else set())
    looked_into = worth_a_look(untried, done, failures, again)
    others = {job.place for job in finished.values() if job.status == "done"}
    found = Look(study.bucket, len(folders), list(listing.rejected.values()))
    how = {"marker": study.marker, "settle_s": study.settle_s, "with_tokenizer": not study.tokenizer}
    for _, each in describe_each(bucket, looked_into, **how):
        found.num_described += 1
        if isinstance(each, SoftPromptError):
            found.rejected.append(each)
            continue
        ends = {job.benchmark.name: finished.get(job.key) for job in jobs_of(study, each)}
        errors = {name: end.error for name, end in ends.items() if end and end.status == "failed"}
        if errors and not retry_failed:
            found.failed.append(Failure(checkpoint=each, errors=errors))
        if None in ends.values() or (errors and retry_failed):
            found.pending.append(each)
            if not any(ends.values()) and (each.variant, each.step) in others:
                found.anew.add(each.uri)
            if len(found.pending) == most:
                break
    if not found.pending:
        again.done()
        found.basis = ledger.basis(finished.values())
    return found


def settled(study: Study, finished: Iterable[Finished]) -> set[Place]:
    """What is finished on every benchmark, as it is now, under the study's protocol, by the ledger alone."""
    benchmarks: dict[Place, set[str]] = defaultdict(set)
    for job in of_study(study, finished):
        benchmarks[job.place].add(job.benchmark)
    return {place for place, found in benchmarks.items() if len(found) == len(study.benchmarks)}


def worth_a_look(folders: Iterable[Folder], settled: set[Place], failed: set[Place], again: SecondLook) -> list[Folder]:
    """Folders that must be described, newest step first: what is not settled, the newest with `failed` jobs and, if a
    second look is due, each variant's newest steps and those whose turn it is."""
    num_newer: dict[str, int] = defaultdict(int)
    found, num_failed = [], 0
    for folder in sorted(folders, key=lambda folder: (-folder.step, folder.variant)):
        place = folder.variant, folder.step
        is_new = again.is_due() and num_newer[folder.variant] < NUM_NEWEST
        may_be_repaired = place in failed and num_failed < NUM_FAILED
        num_newer[folder.variant] += 1
        num_failed += place in failed
        if is_new or may_be_repaired or again.has_its_turn(folder) or place not in settled:
            found.append(folder)
    return found


def report(found: Look) -> None:
    """Log it; what was warned of in the same flow run is not warned of again."""
    logger = get_run_logger()
    for sentence in found.warnings():
        if (flow_run.id, sentence) not in _said:
            logger.warning("%s", sentence)
            _said.add((flow_run.id, sentence))
    for sentence in [str(found), *found.to_evaluate()]:
        logger.info("%s", sentence)


def some(sentences: list[str]) -> list[str]:
    """The first of them, and how many more there are."""
    more = len(sentences) - NUM_SAID
    return sentences if more <= 0 else [*sentences[:NUM_SAID], f"... and {more} more"]


def jobs_of(study: Study, checkpoint: Checkpoint) -> list[Job]:
    return [Job(checkpoint, study.benchmark(name), study.protocol) for name in study.benchmarks]
