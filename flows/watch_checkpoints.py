"""Look into a study's bucket, evaluate what is new, rank."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.evaluate_checkpoint import evaluate_checkpoint
from flows.rank_variants import rank_variants
from softprompt.study import Study
from tasks.discovery import find_pending
from tasks.outcome import Outcome, outcome
from tasks.publishing import is_ranking_due
from tasks.run_names import by_study


@flow(name="watch-checkpoints", flow_run_name=by_study)
def watch_checkpoints(study: str, wait_for_others: bool = False) -> Outcome:
    """Evaluate every complete checkpoint that has unfinished benchmarks, the newest first, and rank the variants if
    anything has changed since they were ranked.

    The bucket is looked at again after each checkpoint, so that one that appears meanwhile is next. A schedule makes
    this a watcher: every run starts from what the bucket and MLflow say, and keeps nothing between runs.

    Args:
        study: path of the study's TOML file.
        wait_for_others: wait for what another run is evaluating, instead of leaving it to that run.
    """
    declared = Study.read(study)
    states: dict[str, State[Any]] = {}
    tried: set[str] = set()
    while (found := find_pending(declared, frozenset(tried), most=1)).pending:
        newest = found.pending[0]
        states[newest.name] = evaluate_checkpoint(
            study, newest.uri, retry_failed=False, wait_for_others=wait_for_others, rank=False, return_state=True
        )
        tried.add(newest.uri)
    if is_ranking_due(declared, found.basis):
        states["the ranking"] = rank_variants(study, return_state=True)
    return outcome(states)
