"""For what another process does in its own time."""

import time
from collections.abc import Callable


def wait_for(holds: Callable[[], object], what: str, timeout_s: float = 240) -> None:
    """Look again and again; the test fails if it does not hold in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.2)
