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
    """Laps in seconds, and the peak of memory since the start above what was held then. Linux, or a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.laps: list[float] = []
        self.cpu_laps: list[float] = []
        """Of all threads together."""
        on_gpu = device.type == "cuda"
        self.held = torch.cuda.memory_allocated(device) if on_gpu else psutil.Process().memory_info().rss
        reset_peak()
        self.start_lap()

    def start_lap(self) -> None:
        wait(self.device)
        self.since, self.cpu_since = time.perf_counter(), time.process_time()

    def lap(self) -> None:
        wait(self.device)
        self.laps.append(time.perf_counter() - self.since)
        self.cpu_laps.append(time.process_time() - self.cpu_since)
        self.start_lap()

    @property
    def peak_bytes(self) -> int:
        return peak_bytes([self.device]) - self.held
