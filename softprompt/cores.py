"""Rows side by side on a CPU's cores, each core with passes of its own.

Torch's own way is to share every operation out, and cores then wait for one another hundreds of times a pass. What that
costs is measured by `benchmarks/cores.py`, see `docs/decisions/013-hot-path.md`.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Row = TypeVar("Row")
Found = TypeVar("Found")

LEAST_FLOPS = 5e8
"""Of a part, in one layer: with less, nothing is gained, since Python between the operations runs on one core only."""


def side_by_side(
    device: torch.device, rows: Sequence[Row], flops: float, work: Callable[[Sequence[Row]], Found]
) -> list[Found]:
    """`work` of parts of `rows`, in their order: a part for each core that torch may use, one part on a GPU.

    What `work` changes outside itself must bear it. A part's own calls of this function find one core.

    Args:
        flops: of all rows in one layer of the model.
    """
    num_cores = torch.get_num_threads()
    num = int(min(num_cores if device.type == "cpu" else 1, len(rows), flops // LEAST_FLOPS))
    if num <= 1:
        return [work(rows)]
    ends = [len(rows) * (i + 1) // num for i in range(num)]
    parts = [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    is_recording = torch.is_grad_enabled()

    def on_one_core(part: Sequence[Row]) -> Found:
        torch.set_num_threads(1)
        with torch.set_grad_enabled(is_recording):
            return work(part)

    futures = [_pool(num_cores).submit(on_one_core, part) for part in parts]
    try:
        wait(futures)  # all of them, even if one has failed: none may still hold memory when the work is tried anew
    finally:
        torch.set_num_threads(num_cores)  # what a thread sets holds for itself and for all threads to come
    return [future.result() for future in futures]


@functools.cache
def _pool(num_cores: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_cores, thread_name_prefix="softprompt")
