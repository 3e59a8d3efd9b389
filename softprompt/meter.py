"""Measuring a job: where its seconds, tokens and FLOPs go, and what its device could do. See `softprompt.cost`."""

import functools
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from softprompt.cost import Cost, Phase
from softprompt.memory import peak_bytes, reset_peak
from softprompt.models import LanguageModel

TRIAL_S = 0.1
TRIAL_ROWS = 1024
"""Least rows of the product that a device's rate is measured on, as many as the tokens of a large batch."""
TRIAL_FLOPS = defaultdict(float, {"cuda": 30e9})
"""Least of a product, by kind of device: a GPU is done with a smaller one before its host has launched the next."""
PRODUCTS_OF_A_TRIAL = defaultdict(lambda: 1, {"cuda": 20})
"""One after another without waiting, by kind of device."""


class Meter:
    """Seconds go to the innermost phase that is open, so that all phases together are the whole job."""

    def __init__(self) -> None:
        self._open = ["other"]
        self._since = time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._tokens: dict[str, int] = defaultdict(int)
        self._flops: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        reset_peak()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._charge()
        self._open.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def count(self, model: LanguageModel, num_tokens: int, num_logits: int, *, backward: bool = False) -> None:
        """Note a pass, on whatever thread, over `num_tokens`, padding not counted, with logits at `num_logits` of them;
        one that runs out of memory is counted as well.

        Args:
            backward: whether gradients flow back through it.
        """
        flops = model.pass_flops(num_tokens, num_logits)
        with self._lock:
            self._tokens[self._open[-1]] += num_tokens
            self._flops[self._open[-1]] += 2 * flops if backward else flops

    def cost(self, model: LanguageModel) -> Cost:
        """Of this process, up to now."""
        self._charge()
        return Cost(
            phases={
                name: Phase(seconds=seconds, tokens=self._tokens[name], flops=self._flops[name])
                for name, seconds in self._seconds.items()
            },
            peak_bytes=peak_bytes(model.devices),
            matrix_rate=matrix_rate(model),
        )

    def _charge(self) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what was only queued belongs to the phase that queued it
        now = time.perf_counter()
        self._seconds[self._open[-1]] += now - self._since
        self._since = now


def matrix_rate(model: LanguageModel) -> float:
    """FLOPs a second of a product with the largest weight inside the model; measured once a process, type and shape."""
    num_out, num_in = max((weight.shape[-2:] for _, weight in model.matrices), key=math.prod)
    return _rate(num_out, num_in, model.network.dtype, model.device)


@functools.cache
@torch.no_grad()
def _rate(num_out: int, num_in: int, dtype: torch.dtype, device: torch.device) -> float:
    """The best of several tries, since whatever else runs only slows it down."""
    weight = torch.randn(num_out, num_in, device=device).to(dtype)
    num_rows = max(TRIAL_ROWS, math.ceil(TRIAL_FLOPS[device.type] / (2 * num_out * num_in)))
    num_products = PRODUCTS_OF_A_TRIAL[device.type]
    rows = torch.randn(num_rows, num_in, device=device).to(dtype)

    def seconds() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(num_products):
            F.linear(rows, weight)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    seconds()  # the first brings preparations, which may take longer than all others
    tries = [seconds()]
    while sum(tries) < TRIAL_S:
        tries.append(seconds())
    return 2 * num_rows * num_out * num_in * num_products / min(tries)
