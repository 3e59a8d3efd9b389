"""Tasks that are tried again, and which failures a later try may mend."""

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from softprompt.errors import SoftPromptError


class PrefectUnavailable(SoftPromptError):
    """Prefect does not answer, or not as it should."""

    retryable = True


def is_retryable(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Retry what the library calls retryable, and nothing else: a bug does not go away by waiting."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, SoftPromptError) and error.retryable


RETRIED: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 2,
    "retry_delay_seconds": [5, 30],
    "retry_condition_fn": is_retryable,
}
"""Settings of a task whose failures are retried where that may help."""
