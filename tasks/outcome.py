"""What a flow ends with: the states of what it ran and, where one has failed, what and why in its own state's message,
which is what a team is sent."""

import re
from collections.abc import Mapping
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Failed

from softprompt.errors import in_short
from tasks.ledger import by_error

MAX_CHARACTERS = 2000
_RAISED = re.compile(r"^(Task|Flow) run encountered an exception:? ")

Outcome = list[State[Any]] | State[list[State[Any]]]


def outcome(states: Mapping[str, State[Any]]) -> Outcome:
    """For a flow to return, of the states of what it ran by what each was for. Those that were cancelled are left for
    Prefect to sum up."""
    ends = list(states.values())
    failed = {name: state for name, state in states.items() if not (state.is_completed() or state.is_cancelled())}
    if not failed or any(state.is_cancelled() for state in ends):
        return ends
    errors = {name: _RAISED.sub("", state.message or state.name or "") for name, state in failed.items()}
    return Failed(message=in_short(by_error(errors), MAX_CHARACTERS), data=ends)
