"""Rows side by side on a CPU's cores, each core with passes of its own.

Torch's own way is to share every operation out, and cores then wait for one another hundreds of times a pass. What that
costs is measured by `benchmarks/cores.py`, see `docs/decisions/013-hot-path.md`.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Row = TypeVar("Row")
Found = TypeVar("Found")

MIN_FLOPS = 5e8
"""Of a part, in one layer: with less, nothing is gained, since Python between the operations runs on one core only."""


def side_by_side(
    device: torch.device, rows: Sequence[Row], flops: Sequence[float], work: Callable[[Sequence[Row]], Found]
) -> list[Found]:
    """`work` of parts of `rows`, in their order: a part for each core that torch may use, one part on a GPU. The parts
    have like much to do, so that no core waits for long.

    What `work` changes outside itself must bear it. A part's own calls of this function find one core.

    Args:
        flops: of each row in one layer of the model.
    """
    num_cores, total = torch.get_num_threads(), sum(flops)
    num = int(min(num_cores if device.type == "cpu" else 1, len(rows), total // MIN_FLOPS))
    if num <= 1:
        return [work(rows)]
    middles = [end - own / 2 for end, own in zip(itertools.accumulate(flops), flops, strict=True)]
    of_core: list[list[Row]] = [[] for _ in range(num)]
    for row, middle in zip(rows, middles, strict=True):
        of_core[min(num - 1, int(num * middle / total))].append(row)
    parts = [part for part in of_core if part]  # a row may outweigh a core's share
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
