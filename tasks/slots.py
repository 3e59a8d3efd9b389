"""Slots of this host: which devices a job may use. Kept by file locks, which the kernel frees when a process dies."""

import fcntl
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from softprompt.errors import HomeUnavailable
from softprompt.fingerprints import fingerprint
from softprompt.protocol import Resources
from tasks.interruption import sleep

LOCKS_VARIABLE = "SOFTPROMPT_LOCKS"
"""Names a folder of the host's for its locks, where its processes have temporary folders of their own."""
SECONDS_BETWEEN_TRIES = 1.0


@contextmanager
def slot(home: str, resources: Resources, on_wait: Callable[[], None] = lambda: None) -> Iterator[tuple[str, ...]]:
    """Wait for a free slot and hold it. Yields its devices; none where the study names none.

    Args:
        home: of the study. Devices that are named are shared by all studies of this user on this host; without any, a
            study keeps to one job at a time on each host by itself.
        on_wait: called once if all slots are taken.

    Raises:
        HomeUnavailable: no lock can be made.
    """
    for num_tries in itertools.count():
        for devices in resources.slots:
            with ExitStack() as locks:
                try:
                    for name in devices or [fingerprint(home)]:
                        file = locks.enter_context(_open_lock(name))
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield devices
                return
        if not num_tries:
            on_wait()
        sleep(SECONDS_BETWEEN_TRIES)


def _open_lock(name: str) -> TextIO:
    folder = Path(os.environ.get(LOCKS_VARIABLE) or f"{tempfile.gettempdir()}/softprompt-{os.getuid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / f".slot-{name}").open("w")
    except OSError as error:
        raise HomeUnavailable(
            f"{folder}, where this host's slots are locked, cannot be used ({error.strerror}); make it a folder that "
            f"can be written, or name one in {LOCKS_VARIABLE}."
        ) from error
