"""CUDA graphs: a tuning pass recorded once for each of a few shapes and then replayed, forward and back.

A pass over a batch is thousands of small kernels, and a host that launches them one by one keeps a GPU waiting for most
of the time, the more so the smaller the model; a graph is launched at once. What it costs is that shapes, and the
places where inputs lie, are always the same. So passes are padded to few sizes, which are chosen when all are known.
"""

import gc
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softprompt.errors import in_short
from softprompt.fewer_kernels import FewerKernels
from softprompt.memory import is_out_of_memory
from softprompt.models import LanguageModel

log = logging.getLogger(__name__)


MAX_FAILURES = 2
"""To record a pass, after which it is not tried again."""

PASSES_OF_A_RECORDING = 10
"""So many take as long as one is recorded: 3 to 12 of a 7B model, 50 of one of 135M, whose padding costs less."""

SHARES = (0.7, 0.2, 0.1)
"""Of a pass's time, roughly, that grow with each number of its size."""


class Size(NamedTuple):
    """Of a pass: what its shapes depend on, next to its rows. In positions, of all rows or of the longest, as the pass
    is made."""

    computed: int
    attended: int
    learned: int
    """That have logits."""


class Graphs:
    """Of one model's passes, on a GPU that holds the model alone; what cannot be recorded is run as ever."""

    def __init__(self, model: LanguageModel) -> None:
        is_alone = model.device.type == "cuda" and len(model.devices) == 1
        self.are_on = is_alone and model.device.index == torch.cuda.current_device()  # on which PyTorch records
        self._network, self._device, self._num_failures = model.network, model.device, 0
        self._chosen: dict[int, list[Size]] = {}
        self._recorded: dict[Hashable, Any] = {}
        self._inputs: dict[tuple[int, torch.dtype], Tensor] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.are_on else None

    @cached_property
    def _fewer_kernels(self) -> FewerKernels:
        return FewerKernels(self._network)

    @property
    def num_recorded(self) -> int:
        return len(self._recorded)

    def expect(self, passes: Iterable[tuple[int, Size]]) -> None:
        """Choose the sizes of the passes to come, of which rows and size are given."""
        by_rows: dict[int, list[Size]] = {}
        for num_rows, size in passes if self.are_on else ():
            by_rows.setdefault(num_rows, []).append(size)
        self._chosen = {num_rows: few_sizes(sizes) for num_rows, sizes in by_rows.items()}

    def room(self, num_rows: int, size: Size) -> Size:
        """That a pass is padded to: where graphs are on the least chosen size that holds it, or if none was chosen for
        so many rows, since memory parts a batch, each number rounded up to two significant bits."""
        if not self.are_on:
            return size
        holding = (chosen for chosen in self._chosen.get(num_rows, ()) if _joined(chosen, size) == chosen)
        return next(holding, Size(*map(_rounded_up, size)))

    def __call__(self, name: Hashable, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """What `function` makes of the tensors and of nothing else but what `name` stands for. It is to be used,
        gradient included, before the next call."""
        key = name, tuple((t.shape, t.dtype, t.requires_grad) for t in tensors)
        if self.are_on and key not in self._recorded:
            self._record(key, function, tensors)
        found: Tensor = self._recorded.get(key, function)(*tensors)
        return found

    def _record(self, key: Hashable, function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> None:
        places = tuple(self._place(number, tensor) for number, tensor in enumerate(tensors))
        try:
            with warnings.catch_warnings(), self._fewer_kernels(), self._undisturbed():
                # PyTorch's, that inputs were first met on another stream, as in its own warm-up.
                warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
                self._recorded[key] = torch.cuda.make_graphed_callables(
                    function, places, num_warmup_iters=1, pool=self._pool
                )
        except Exception as error:  # a pass may look at a value or call what cannot be recorded, each in its way
            self._pool = torch.cuda.graph_pool_handle()  # one that a recording broke off in is of no more use
            self._num_failures += 1
            self.are_on = self._num_failures < MAX_FAILURES
            if is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {in_short(str(error))}"
            log.info("A pass could not be recorded as a CUDA graph and is run instead (%s).", reason)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """A recording that no garbage ends, since to destroy another graph breaks it off; one that breaks off leaves
        its stream current and its pool open, and with an open pool PyTorch gives no memory back to the device."""
        pool, was_on = self._pool, gc.isenabled()
        stream = torch.cuda.current_stream() if pool else None
        gc.disable()
        try:
            yield
        except BaseException:  # an interrupt in a notebook as well, whose process goes on
            if stream is not None and pool is not None:
                torch.cuda.set_stream(stream)
                with suppress(RuntimeError):  # it did not break off between the two ends of a recording
                    torch._C._cuda_endAllocateToPool(self._device.index, pool)
                    torch._C._cuda_releasePool(self._device.index, pool)
            raise
        finally:
            if was_on:
                gc.enable()

    def _place(self, number: int, tensor: Tensor) -> Tensor:
        """A copy where inputs of all recorded passes lie, since they are never wanted at once."""
        kind = number, tensor.dtype
        if kind not in self._inputs or self._inputs[kind].numel() < tensor.numel():
            self._inputs[kind] = torch.empty_like(tensor, requires_grad=False).flatten()
        placed = self._inputs[kind][: tensor.numel()].view(tensor.shape).copy_(tensor.detach())
        return placed.requires_grad_(tensor.requires_grad)


def few_sizes(sizes: Sequence[Size]) -> list[Size]:
    """Sizes of which one holds each of the given ones, least first: so few that recording one more would take longer
    than the padding that it saves. Of neighbours in order of work those are joined whose joining adds least."""
    means = [max(1.0, fmean(numbers)) for numbers in zip(*sizes, strict=True)]

    def work(size: Size) -> float:
        """1 for a mean pass."""
        return sum(share * number / mean for share, number, mean in zip(SHARES, size, means, strict=True))

    def join(first: tuple[Size, int], second: tuple[Size, int]) -> tuple[float, tuple[Size, int]]:
        """Work that it adds, and the size that holds both, with the number of passes in it."""
        size, num = _joined(first[0], second[0]), first[1] + second[1]
        return num * work(size) - sum(n * work(own) for own, n in (first, second)), (size, num)

    found = sorted(Counter(sizes).items(), key=lambda item: work(item[0]))
    while len(found) > 1:
        joins = [join(*pair) for pair in pairwise(found)]
        place = min(range(len(joins)), key=lambda i: joins[i][0])
        added, joined = joins[place]
        if added > PASSES_OF_A_RECORDING:
            break
        found[place : place + 2] = [joined]
    return sorted(size for size, _ in found)


def _joined(first: Size, second: Size) -> Size:
    return Size(*map(max, first, second))


def _rounded_up(number: int) -> int:
    unit = 1 << max(0, number.bit_length() - 2)
    return -(-number // unit) * unit
