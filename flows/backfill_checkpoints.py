"""Evaluate a range of training steps, by hand."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.evaluate_checkpoint import evaluate_checkpoint
from flows.rank_variants import rank_variants
from softprompt.study import Study
from tasks.discovery import find_pending
from tasks.outcome import Outcome, outcome
from tasks.planning import say_plan
from tasks.publishing import is_ranking_due
from tasks.run_names import by_study_and_steps


@flow(name="backfill-checkpoints", flow_run_name=by_study_and_steps)
def backfill_checkpoints(
    study: str,
    first_step: int,
    last_step: int,
    variants: list[str] | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Evaluate what is unfinished from `first_step` to `last_step`, the newest first, and rank the variants.

    Args:
        study: path of the study's TOML file.
        first_step: the first training step to evaluate.
        last_step: the last one, itself included.
        variants: their names; all if left out.
        retry_failed: try again, too, what failed for a reason that does not pass by itself.
        dry_run: only say what would be evaluated and what it would cost.
    """
    declared = Study.read(study)
    chosen = [
        checkpoint
        for checkpoint in find_pending(declared, retry_failed=retry_failed).pending
        if first_step <= checkpoint.step <= last_step and (variants is None or checkpoint.variant in variants)
    ]
    say_plan(declared, chosen, retry_failed=retry_failed)
    if dry_run or not chosen:
        return []
    how = {"retry_failed": retry_failed, "wait_for_others": False, "rank": False}
    states: dict[str, State[Any]] = {
        checkpoint.name: evaluate_checkpoint(study, checkpoint.uri, **how, return_state=True) for checkpoint in chosen
    }
    if is_ranking_due(declared):
        states["the ranking"] = rank_variants(study, return_state=True)
    return outcome(states)
