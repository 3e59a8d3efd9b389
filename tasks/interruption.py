"""A thread cannot be interrupted. What waits in one asks here whether its flow was cancelled, so that children are
killed and claims withdrawn at once, and not when Prefect's patience of 30 s ends and it kills the process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from softprompt.errors import JobCancelled

_interrupted = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """If the block is left by a signal (Prefect cancels the run, Ctrl-C), whatever waits in this process's threads ends
    with `JobCancelled`."""
    _interrupted.clear()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            _interrupted.set()
        raise


def check_interrupted() -> None:
    if _interrupted.is_set():
        raise JobCancelled("The job was ended because its flow was cancelled.")


def sleep(seconds: float) -> None:
    _interrupted.wait(seconds)
    check_interrupted()
