"""Keys and values of positions that have been read.

What a network keeps lies in two tensors a layer. Cut into rows, kept, and put together again one by one they are
thousands of small copies, for each of which a GPU waits; so those of all layers that are alike lie in one tensor.

Shapes: N keys or values that are alike, B rows, T positions, H attention heads, K a head's width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class KeysAndValues:
    """Of B rows, padded on the left."""

    stacks: tuple[Tensor, ...]
    """(N, B, H, T, K) each; one, unless a network's layers differ in H or K, or lie on several devices."""
    places: tuple[tuple[int, int], ...]
    """Of the first layer's keys, its values, the second layer's keys and so on: which stack, and where in it."""

    @classmethod
    def of(cls, cache: Any) -> "KeysAndValues":
        """A copy of what a cache holds."""
        alike: dict[Any, list[Tensor]] = {}
        places = []
        for values_BHTK in (own for layer in cache.layers for own in (layer.keys, layer.values)):
            kind = values_BHTK.shape, values_BHTK.device
            stack = alike.setdefault(kind, [])
            places.append((list(alike).index(kind), len(stack)))
            stack.append(values_BHTK)
        return cls(tuple(torch.stack(stack) for stack in alike.values()), tuple(places))

    @classmethod
    def padded(cls, rows: Sequence["KeysAndValues"], length: int = 0) -> "KeysAndValues":
        """The given ones, a single row each, with zeros in front up to the longest or to `length`."""
        length = length or max(row.num_positions for row in rows)
        stacks = []
        for number, first in enumerate(rows[0].stacks):
            num, _, heads, _, width = first.shape
            stack_NBHTK = first.new_zeros(num, len(rows), heads, length, width)
            for place, row in enumerate(rows):
                stack_NBHTK[:, place, :, length - row.num_positions :] = row.stacks[number][:, 0]
            stacks.append(stack_NBHTK)
        return cls(tuple(stacks), rows[0].places)

    @property
    def num_positions(self) -> int:
        return self.stacks[0].shape[3]

    @property
    def num_bytes(self) -> int:
        """Of the memory that this keeps alive: of the `first` positions of others, that of all theirs."""
        return sum(stack.untyped_storage().nbytes() for stack in self.stacks)

    def row(self, number: int, num_first: int, num_last: int) -> "KeysAndValues":
        """A copy of one row's first and last positions, without the padding between them."""
        of_row = (stack[:, number : number + 1] for stack in self.stacks)
        return KeysAndValues(
            tuple(torch.cat([own[..., :num_first, :], own[..., -num_last:, :]], dim=3) for own in of_row), self.places
        )

    def first(self, num: int) -> "KeysAndValues":
        """The first `num` positions, in the same memory."""
        return KeysAndValues(tuple(stack[..., :num, :] for stack in self.stacks), self.places)

    def cache(self, num_rows: int) -> DynamicCache:
        """Out of which a network goes on; a single row may stand for any number of them."""
        tensors = [self.stacks[stack][place].expand(num_rows, -1, -1, -1) for stack, place in self.places]
        return cache_of(zip(tensors[::2], tensors[1::2], strict=True))


def cache_of(layers: Iterable[tuple[Tensor, Tensor]]) -> DynamicCache:
    """A cache that holds these keys and values themselves; `DynamicCache(layers)` would copy them."""
    cache = DynamicCache()
    for keys, values in layers:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache
