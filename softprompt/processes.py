"""Several processes on one job: each does its share, and all know the whole (Accelerate).

A launcher (`accelerate launch`, torchrun) starts them and sets WORLD_SIZE; without one a process works alone. All of
them must make the same calls in the same order.
"""

import functools
import os
from collections.abc import Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

T = TypeVar("T")


@functools.cache
def _state() -> PartialState | None:
    if world_size() == 1:
        return None
    state = PartialState(cpu=not torch.cuda.is_available())  # without `cpu`, it takes each for the only one
    assert state.num_processes == world_size(), f"{state.num_processes} processes joined, {world_size()} were started"
    return state


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes what all of them found out."""
    state = _state()
    return state is None or state.is_main_process


def default_device() -> torch.device:
    """This process's own GPU if there are any, the first if it works alone; else the CPU."""
    state = _state()
    return state.device if state else torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def share(items: Sequence[T]) -> Sequence[T]:
    """Every `world_size`-th item, from this process's number on: neighbours, of like length, go to different ones."""
    state = _state()
    return items[state.process_index :: world_size()] if state else items


def gather(found: Sequence[T]) -> Sequence[T]:
    """What all processes found for their `share` of some items, in the order of the items."""
    if not _state():
        return found
    shares: list[Sequence[T]] = gather_object([found])
    return [shares[i % len(shares)][i // len(shares)] for i in range(sum(map(len, shares)))]


def everyones(value: T) -> list[T]:
    """The values of all processes, in their order."""
    return gather_object([value]) if _state() else [value]


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the processes."""
    if _state():
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)


def leave() -> None:
    """Wait for all others, then leave their group: a process that just ends may abort as its group's threads run on,
    and the launcher then kills those that are still writing."""
    if state := _state():
        state.wait_for_everyone()
        state.destroy_process_group()
