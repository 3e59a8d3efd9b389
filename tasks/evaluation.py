"""One job: tune, evaluate, log."""

from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from softprompt.errors import BadBucket, SoftPromptError
from softprompt.result import RESULT_FILE, Job
from softprompt.study import Study
from tasks.retries import is_retryable
from tasks.tracking import Tracker, temporary_folder


@task(
    task_run_name="{job.benchmark.name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=is_retryable,
)
def evaluate_benchmark(study: Study, job: Job) -> str:
    """Evaluate a job and log it; returns its key. A result that was computed but not logged, because the process died
    or MLflow was away, is logged without being computed again."""
    tracker = Tracker(study)
    folder = tracker.results_folder / job.key
    if not (folder / RESULT_FILE).exists():
        try:
            compute(study, job, folder)
        except SoftPromptError as error:
            if not error.retryable and not isinstance(error, BadBucket):  # credentials are no fault of the checkpoint
                tracker.log_failure(job, error)
            raise
    tracker.log(job, folder)
    return job.key


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
        cache=study.cache,
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
