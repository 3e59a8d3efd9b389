"""Evaluate one checkpoint on every benchmark of a study."""

from typing import Any

from prefect import flow, unmapped
from prefect.client.schemas.objects import State
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

from flows.rank_variants import rank_variants
from softprompt.study import Study
from tasks.discovery import find_jobs
from tasks.evaluation import evaluate_benchmark
from tasks.interruption import interruptible
from tasks.outcome import Outcome, outcome
from tasks.publishing import is_ranking_due


@flow(name="evaluate-checkpoint", flow_run_name="{checkpoint}")
def evaluate_checkpoint(
    study: str, checkpoint: str, retry_failed: bool = True, wait_for_others: bool = True, rank: bool = True
) -> Outcome:
    """Tune and evaluate one checkpoint on the benchmarks that are not done yet; one's failure leaves the others.

    Args:
        study: path of the study's TOML file.
        checkpoint: path or URL of a checkpoint in the Hugging Face layout.
        retry_failed: try benchmarks again that failed for a reason that does not pass by itself.
        wait_for_others: wait for benchmarks that another run is evaluating, and take them over if it dies; otherwise
            leave them to it.
        rank: rank the variants afterwards, if anything has changed since they were ranked.
    """
    declared = Study.read(study)
    jobs = find_jobs(declared, checkpoint, retry_failed=retry_failed)
    how = {"retry_failed": retry_failed, "wait_for_others": wait_for_others}
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=len(declared.resources.slots))
    with runner, interruptible():
        futures = runner.map(evaluate_benchmark, {"study": unmapped(declared), "job": jobs, **how})
        wait(futures)
    states: dict[str, State[Any]] = {
        job.benchmark.name: future.state for job, future in zip(jobs, futures, strict=True)
    }
    if rank and is_ranking_due(declared):
        states["the ranking"] = rank_variants(study, return_state=True)
    return outcome(states)
