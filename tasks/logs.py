"""Prefect logs an exception with its traceback. For an error that a user can act on, its sentence is enough."""

import logging

from softprompt.errors import SoftPromptError


def without_traceback(record: logging.LogRecord) -> bool:
    """For tasks: a `SoftPromptError` loses its traceback, a bug keeps it."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, SoftPromptError):
        record.msg = record.getMessage().replace(repr(error), f"{type(error).__name__}: {error}")
        record.args, record.exc_info, record.exc_text = (), None, None
    return True


def unless_the_state_says_it(record: logging.LogRecord) -> bool:
    """For flows: the line of the final state, which follows, says a `SoftPromptError` in full."""
    return not (record.exc_info and isinstance(record.exc_info[1], SoftPromptError))


def say_errors_in_sentences() -> None:
    logging.getLogger("prefect.task_runs").addFilter(without_traceback)
    logging.getLogger("prefect.flow_runs").addFilter(unless_the_state_says_it)
