"""Memory: how much is free, how much was used at most, how many rows of a batch fit into one forward pass, and how
numbers get from the host to a device."""

import contextlib
import resource
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from softprompt.errors import OutOfMemory, in_short

Row = TypeVar("Row")
Found = TypeVar("Found")

MAX_ROWS = defaultdict(lambda: 96, {"cuda": 512})
"""Of a pass, by kind of device, where memory would allow more."""
SHARE_OF_MEMORY = 0.5
"""Of what is free when a tuning or an answering starts, at most so much is planned for one pass."""
MAX_BYTES_OF_A_CORE = 1.25e9
"""On a CPU no pass is planned for more: larger ones were slower, see `docs/decisions/012-micro-batches.md`."""
CGROUP = Path("/sys/fs/cgroup")


class MicroBatches:
    """Cuts rows into the chunks of one forward pass each: as many as fit by estimate, half as many after an
    out-of-memory. Scores do not depend on it.

    Args:
        most_rows: of a chunk, whatever memory says; None to go by memory alone.
        most_bytes_of_a_core: on a CPU, whatever is free.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        most_rows: int | None = None,
        most_bytes_of_a_core: float = MAX_BYTES_OF_A_CORE,
    ) -> None:
        self.most_rows = most_rows or MAX_ROWS[devices[0].type]
        self.most_bytes = float("inf") if most_rows else SHARE_OF_MEMORY * free_bytes(devices)
        if devices[0].type == "cpu" and not most_rows:
            self.most_bytes = min(self.most_bytes, most_bytes_of_a_core * torch.get_num_threads())

    def run(
        self, rows: Sequence[Row], num_bytes: Callable[[Row], float], work: Callable[[Sequence[Row]], Found]
    ) -> Iterator[Found]:
        """`work` of each chunk in turn. What it leaves behind when it runs out of memory must not count, but for what a
        `Meter` counts, which is work that was tried.

        Args:
            num_bytes: estimate for one row; a chunk is padded, so that its rows need as much as the largest of them.

        Raises:
            OutOfMemory: not even one row fits.
        """
        start = 0
        while start < len(rows):
            num = self._num_rows([num_bytes(row) for row in rows[start : start + self.most_rows]])
            try:
                found = work(rows[start : start + num])
            except (RuntimeError, OutOfMemory) as error:
                if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)):
                    raise
                problem = str(error)
            else:
                yield found
                start += num
                continue
            if num == 1:  # out here the error, and with it what its frames hold, is gone
                raise does_not_fit("One row", problem)
            clear_device_cache(garbage_collection=True)
            self.most_bytes = num * max(num_bytes(row) for row in rows[start : start + num]) / 2

    def _num_rows(self, num_bytes: Sequence[float]) -> int:
        """A power of two where memory decides, so that small changes in free memory change no batch."""
        fitting = len(num_bytes)
        while fitting > 1 and fitting * max(num_bytes[:fitting]) > self.most_bytes:
            fitting = 1 << (fitting - 1).bit_length() - 1
        return fitting


def is_out_of_memory(error: Exception) -> bool:
    """Also where CUDA itself, or a library of it, finds no room beside what PyTorch holds."""
    is_cudas = any(words in str(error) for words in ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED"))
    return should_reduce_batch_size(error) or (isinstance(error, RuntimeError) and is_cudas)


def tensor_on(device: torch.device, values: Sequence[Any]) -> Tensor:
    """Of numbers that the host has. A GPU gets them behind the work that it has been given, and the host does not wait
    for that."""
    return torch.tensor(values, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def does_not_fit(what: str, problem: str) -> OutOfMemory:
    """The error that says so, what PyTorch said, and what to do."""
    return OutOfMemory(
        f"{what} does not fit into memory ({in_short(problem)}). Use another device, dtype = 'bfloat16', or "
        "devices_per_process > 1 in the study's resources."
    )


def free_bytes(devices: Sequence[torch.device]) -> float:
    """On GPUs that share a model, so often what is free on the fullest."""
    if devices[0].type == "cuda":
        return len(devices) * min(map(_free_on_gpu, devices))
    return min(psutil.virtual_memory().available, _free_in_container())


def reset_peak() -> None:
    """From now on `peak_bytes` starts anew; on a CPU where the kernel is Linux, else it is the whole process's."""
    if torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def peak_bytes(devices: Iterable[torch.device]) -> int:
    """On GPUs the sum over `devices`."""
    on_gpu = [torch.cuda.max_memory_allocated(device) for device in devices if device.type == "cuda"]
    if on_gpu:
        return sum(on_gpu)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _free_on_gpu(device: torch.device) -> int:
    """What nobody has taken, and what PyTorch has and does not use."""
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + idle


def _free_in_container() -> float:
    """What a container may still take: its limit less what it holds, file cache that can be dropped not counted."""
    try:
        limit, current = ((CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return float("inf") if limit == "max" else int(limit) - int(current) + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):
        return float("inf")
