"""Which work is there: what exists, minus what is finished."""

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from softprompt.checkpoints import Checkpoint, Layout, discover, open_checkpoint
from softprompt.result import Job
from softprompt.study import Study
from tasks.retries import is_retryable
from tasks.tracking import Tracker


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[5, 30], retry_condition_fn=is_retryable)
def find_pending(study: Study, tried: frozenset[str] = frozenset()) -> list[Checkpoint]:
    """Complete checkpoints with unfinished jobs, newest step first; those whose fingerprint is in `tried` left out."""
    logger = get_run_logger()
    found = discover(study.bucket, study.layout)
    for error in found.rejected.values():
        logger.warning("Passed over: %s", error)
    finished = Tracker(study).ledger.finished()
    pending = [c for c in found.checkpoints if any(job.key not in finished for job in jobs_of(study, c))]
    logger.info(
        "%d checkpoints in %s, %d with work to do, %d passed over",
        len(found.checkpoints),
        study.bucket,
        len(pending),
        len(found.rejected),
    )
    return sorted((c for c in pending if c.fingerprint not in tried), key=lambda c: (-c.step, c.variant))


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[5, 30], retry_condition_fn=is_retryable)
def find_jobs(study: Study, uri: str, *, retry_failed: bool = False) -> list[Job]:
    """The unfinished jobs of the checkpoint at `uri`, and, if asked for, those that failed before."""
    logger = get_run_logger()
    checkpoint = locate(study, uri)
    finished = Tracker(study).ledger.finished_of(checkpoint)
    skip = {key for key, job in finished.items() if job.status == "done" or not retry_failed}
    jobs = jobs_of(study, checkpoint)
    pending = [job for job in jobs if job.key not in skip]
    logger.info("%s: %d of %d benchmarks to do", checkpoint.name, len(pending), len(jobs))
    return pending


def jobs_of(study: Study, checkpoint: Checkpoint) -> list[Job]:
    return [Job(checkpoint, study.benchmark(name), study.protocol) for name in study.benchmarks]


def locate(study: Study, uri: str) -> Checkpoint:
    """A checkpoint by its URI; variant and step come from the layout if it lies in the study's bucket."""
    place = Layout(study.layout).match(uri.rstrip("/").removeprefix(study.bucket.rstrip("/") + "/"))
    return open_checkpoint(uri, place)
