"""CUDA graphs: a tuning pass recorded once for each of a few shapes and then replayed, forward and back.

A pass over a batch is thousands of small kernels, and a host that launches them one by one keeps a GPU waiting for most
of the time, the more so the smaller the model; a graph is launched at once. What it costs is that shapes, and the
places where inputs lie, are always the same. So lengths are rounded up to few numbers.
"""

import logging
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from softprompt.models import LanguageModel

log = logging.getLogger(__name__)


MOST_FAILURES = 2
"""To record a pass, after which it is not tried again."""


class Graphs:
    """Of one model's passes, on a GPU that holds the model alone; what cannot be recorded is run as ever."""

    def __init__(self, model: LanguageModel) -> None:
        is_alone = model.device.type == "cuda" and len(model.devices) == 1
        self.are_on = is_alone and model.device.index == torch.cuda.current_device()  # on which PyTorch records
        self._num_failures = 0
        self._recorded: dict[Hashable, Any] = {}
        self._inputs: dict[tuple[int, torch.dtype], Tensor] = {}
        self._pool = torch.cuda.graph_pool_handle() if self.are_on else None

    @property
    def num_recorded(self) -> int:
        return len(self._recorded)

    def room(self, num: int, significant: int) -> int:
        """`num`, where graphs are on rounded up to a number of so many significant bits."""
        if not self.are_on:
            return num
        unit = 1 << max(0, num.bit_length() - significant)
        return -(-num // unit) * unit

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
            with warnings.catch_warnings():
                # PyTorch's, that inputs were first met on another stream, as in its own warm-up.
                warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
                self._recorded[key] = torch.cuda.make_graphed_callables(
                    function, places, num_warmup_iters=1, pool=self._pool
                )
        except Exception as error:  # a pass may look at a value or call what cannot be recorded, each in its way
            self._pool = torch.cuda.graph_pool_handle()  # one that a recording broke off in is of no more use
            if should_reduce_batch_size(error):
                raise
            self._num_failures += 1
            self.are_on = self._num_failures < MOST_FAILURES
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            log.info("A pass could not be recorded as a CUDA graph and is run instead (%s).", reason)

    def _place(self, number: int, tensor: Tensor) -> Tensor:
        """A copy where inputs of all recorded passes lie, since they are never wanted at once."""
        kind = number, tensor.dtype
        if kind not in self._inputs or self._inputs[kind].numel() < tensor.numel():
            self._inputs[kind] = torch.empty_like(tensor, requires_grad=False).flatten()
        placed = self._inputs[kind][: tensor.numel()].view(tensor.shape).copy_(tensor.detach())
        return placed.requires_grad_(tensor.requires_grad)
