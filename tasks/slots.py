"""Slots of this host: which devices a job may use. Kept by file locks, which the kernel frees when a process dies."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from softprompt.protocol import Resources

SECONDS_BETWEEN_TRIES = 1.0


@contextmanager
def slot(folder: Path, resources: Resources, on_wait: Callable[[], None] = lambda: None) -> Iterator[tuple[str, ...]]:
    """Wait for a free slot and hold it. Yields its devices; none where the study names none.

    Args:
        folder: shared by everything on this host that uses the same devices.
        on_wait: called once if all slots are taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        for number, devices in enumerate(resources.slots):
            with (folder / f"slot-{number}").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield devices
                return
        on_wait()
        on_wait = _nothing
        time.sleep(SECONDS_BETWEEN_TRIES)


def _nothing() -> None:
    pass
