"""What is measured of a contender."""

import time
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from workload import wait

from softprompt.memory import peak_bytes, reset_peak


@dataclass
class Measured:
    seconds: list[float]
    """By tuning step, or of the one pass over all items."""
    cpu_seconds: list[float]
    """The same, of all threads together: where other processes want the cores too, these say more."""
    peak_bytes: int
    """Most memory while at work, above what the process held with the model loaded."""
    flops: float
    """That the same work needs, whoever does it: 2 a parameter and token, twice that in tuning, no padding, the output
    layer at answers only."""
    matrix_rate: float
    num_items: int
    outputs: list[Any] = field(default_factory=list)
    """For comparison: the gradient of the first batch at `first_vectors`, texts, or log-likelihoods."""


class Stopwatch:
    """Laps, and the peak of memory since the start above what was held then. Linux, or a GPU: there a lap ends when the
    GPU comes to it, for which nobody waits, so that a host may be ahead of it as it would be without a watch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._laps: list[tuple[Any, Any]] = []
        self.cpu_laps: list[float] = []
        """Of all threads together."""
        on_gpu = device.type == "cuda"
        self.held = torch.cuda.memory_allocated(device) if on_gpu else psutil.Process().memory_info().rss
        reset_peak()
        self.start_lap()

    def start_lap(self) -> None:
        self._since, self._cpu_since = self._now(), time.process_time()

    def lap(self) -> None:
        self._laps.append((self._since, self._now()))
        self.cpu_laps.append(time.process_time() - self._cpu_since)
        self.start_lap()

    @property
    def laps(self) -> list[float]:
        """In seconds."""
        wait(self.device)
        if self.device.type == "cuda":
            return [start.elapsed_time(end) / 1e3 for start, end in self._laps]
        return [end - start for start, end in self._laps]

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @property
    def peak_bytes(self) -> int:
        return peak_bytes([self.device]) - self.held
