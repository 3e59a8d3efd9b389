"""Claims: which process is at work on what, written where all of them look. See docs/decisions/004-claims.md.

A claim is a tag of the experiment, `claim.<key>.<owner>`, that holds until when (seconds since 1970)
and by whom (host and process).
"""

import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from softprompt.errors import HomeUnavailable, TrackingUnavailable
from tasks.interruption import sleep

if TYPE_CHECKING:
    from tasks.store import Store

SECONDS_BETWEEN_TRIES = 2.0
SECONDS_TO_GIVE_WAY = 0.2
TIMES_TO_GIVE_WAY = 10

AWAY = (TrackingUnavailable, HomeUnavailable)
"""How it is said that the store does not answer, on a server or in the study's home."""

_given_up: set[str] = set()
"""Claims that this process has ended and MLflow, being away, still holds: to its next try they are nobody's."""


@contextmanager
def claimed(store: "Store", key: str, *, patience_s: float) -> Iterator[bool]:
    """Hold the claim on `key` inside the block. It yields False, and nothing is held, if another process has held it
    for as long as `patience_s`.

    Raises:
        TrackingUnavailable: MLflow does not answer.
        HomeUnavailable: its store, where it lies in the study's home, cannot be used.
    """
    claim = Claim(store, key)
    deadline = time.monotonic() + patience_s
    while not (is_mine := claim.take()) and time.monotonic() < deadline:
        sleep(SECONDS_BETWEEN_TRIES)
    if not is_mine:
        yield False
        return
    with claim.kept_alive():
        yield True


class Claim:
    """One process's claim on one key."""

    def __init__(self, store: "Store", key: str) -> None:
        self.store = store
        self.lease_s = store.study.lease_s
        self.prefix = f"claim.{key}."
        self.tag = self.prefix + uuid.uuid4().hex

    def take(self) -> bool:
        """Write, then read: whoever reads no other live claim after having written its own has won. Two that read each
        other do not both give up: the greater tag withdraws and the smaller waits for it for a moment."""
        if self.others():
            return False
        won = False
        try:
            self.write()
            for _ in range(TIMES_TO_GIVE_WAY):
                others = self.others()
                won = not others
                if won or min(others) < self.tag:
                    break
                time.sleep(SECONDS_TO_GIVE_WAY)
        finally:
            if not won:
                self.withdraw()
        return won

    def others(self) -> list[str]:
        """Tags of other live claims on the key; those whose lease has ended are removed."""
        now = time.time()
        with self.store.answers():
            tags = self.store.client.get_experiment(self.store.experiment_id).tags
        until = {tag: float(value.split()[0]) for tag, value in tags.items() if tag.startswith(self.prefix)}
        ended = {tag for tag in until if until[tag] <= now or tag in _given_up}
        for tag in ended:
            self._remove(tag)
        return [tag for tag in until if tag not in ended and tag != self.tag]

    def write(self) -> None:
        _given_up.discard(self.tag)
        value = f"{time.time() + self.lease_s:.3f} {platform.node()} {os.getpid()}"
        with self.store.answers():
            self.store.client.set_experiment_tag(self.store.experiment_id, self.tag, value)

    def withdraw(self) -> None:
        """Give the claim up. If MLflow is away, the lease ends it."""
        _given_up.add(self.tag)
        self._remove(self.tag)

    def _remove(self, tag: str) -> None:
        with suppress(*AWAY), self.store.answers():
            self.store.client.delete_experiment_tag(self.store.experiment_id, tag)
            _given_up.discard(tag)

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Renew the claim from a thread inside the block, and withdraw it after."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(self.lease_s / 3):
                with suppress(*AWAY):
                    self.write()

        thread = threading.Thread(target=renew, name=self.tag, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()  # or a late renewal would outlive the withdrawal
            self.withdraw()
