"""Which failures a later try may mend."""

from typing import Any

from prefect.client.schemas.objects import State

from softprompt.errors import SoftPromptError


def is_retryable(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Retry what the library calls retryable, and nothing else: a bug does not go away by waiting."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, SoftPromptError) and error.retryable
