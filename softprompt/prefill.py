"""Batches of prompts, with the beginnings that they share read only once (prefix caching).

All seeds and steps of `cue` share a benchmark's questions, zero-shot shares them too, and all few-shot prompts share
their solved examples. Shapes: B rows, T positions, D width, H heads, K a head's width, S seeds, P vectors.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from softprompt.memory import free_bytes
from softprompt.meter import Meter
from softprompt.models import LanguageModel
from softprompt.prompt import TOKEN, Prompt

Head = tuple[int, ...]
KeysAndValues = list[tuple[Tensor, Tensor]]
"""By layer: keys and values of one head, (H, T, K) each, no padding."""

SHARE_OF_MEMORY = 0.25
"""Of what is free on the model's device when a job starts, at most so much holds keys and values of heads."""


@dataclass(frozen=True)
class Batch:
    """Prompts of one forward pass, left-padded so that their answers start together: what follows `cache`."""

    embeds_BTD: Tensor
    mask_BT: Tensor
    """0 at padding; the cached positions come first."""
    cache: Any
    num_tokens: int
    """Of `embeds_BTD`, padding not counted."""


class Prefill:
    """Makes batches of prompts for one model, and keeps the keys and values of their heads.

    Heads are dropped in the order in which they were last used when they need more memory than `max_bytes`.
    """

    def __init__(self, model: LanguageModel, max_bytes: float | None = None, meter: Meter | None = None) -> None:
        self.model = model
        self.meter = meter or Meter()
        self.max_bytes = SHARE_OF_MEMORY * free_bytes(model.devices) if max_bytes is None else max_bytes
        self._kept: OrderedDict[Head, KeysAndValues] = OrderedDict()
        self.num_bytes = 0
        self.shares_all = True
        """Whether no prompt with a head had to be read whole so far."""

    def batch(self, prompts: Sequence[Prompt], vectors_SPD: Tensor | None, num_more: int = 0) -> Batch:
        """Gradients flow to `vectors_SPD`, never into a head.

        Args:
            num_more: most positions that will follow the prompts.
        """
        tails = list(prompts)
        heads: list[Head] = []
        if any(prompt.num_head for prompt in prompts):
            if self._can_share(prompts, num_more):
                heads, tails = [prompt.head for prompt in prompts], [prompt.tail for prompt in prompts]
            else:
                self.shares_all = False
        embeds_BTD, mask_BT = self.embed_prompts(tails, vectors_SPD)
        if not heads:
            return Batch(embeds_BTD, mask_BT, None, sum(map(len, tails)))
        mask = torch.cat([self._padded(([1] * len(head) for head in heads), 0), mask_BT], dim=1)
        return Batch(embeds_BTD, mask, self._cache(heads), sum(map(len, tails)))

    def _can_share(self, prompts: Sequence[Prompt], num_more: int) -> bool:
        """A recurrent model's state cannot be continued by many tokens at once. And where layers look back through a
        window, they count padding: none may stand between a head and its tail, or all must lie within the window."""
        if self.model.is_recurrent:
            return False
        tails = {len(prompt) - prompt.num_head for prompt in prompts}
        longest = max(prompt.num_head for prompt in prompts) + max(tails) + num_more
        return len(tails) == 1 or longest <= self.model.window

    def embed_prompts(self, prompts: Sequence[Prompt], vectors_SPD: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, D) embeddings and (B, T) mask."""
        embeds_BTD = self.model.embed(self._padded((p.ids for p in prompts), 0))
        mask_BT = self._padded(([1] * len(p) for p in prompts), 0)
        if vectors_SPD is None:
            return embeds_BTD, mask_BT
        slots_BT = self._padded((p.slots for p in prompts), TOKEN)
        seeds_B1 = torch.tensor([[p.seed] for p in prompts], device=self.model.device)
        chosen_BTD = vectors_SPD[seeds_B1, slots_BT.clamp(min=0)].to(embeds_BTD.dtype)
        return torch.where((slots_BT != TOKEN)[..., None], chosen_BTD, embeds_BTD), mask_BT

    def _cache(self, heads: Sequence[Head]) -> DynamicCache:
        """A cache of one row for each head, left-padded."""
        found = self._keys_and_values(heads)
        length = max(map(len, heads))
        by_layer = [
            tuple(_left_padded(rows, length) for rows in zip(*layers, strict=True))
            for layers in zip(*(found[head] for head in heads), strict=True)
        ]
        return DynamicCache(by_layer)

    @torch.no_grad()
    def _keys_and_values(self, heads: Iterable[Head]) -> dict[Head, KeysAndValues]:
        found: dict[Head, KeysAndValues] = {}
        missing = []
        for head in dict.fromkeys(heads):
            if head in self._kept:
                self._kept.move_to_end(head)
                found[head] = self._kept[head]
            else:
                missing.append(head)
        if missing:
            self.meter.count(self.model, sum(map(len, missing)), len(missing))
            _, cache = self.model.forward(
                input_ids=self._padded(missing, 0),
                mask_BT=self._padded(([1] * len(head) for head in missing), 0),
                cache=DynamicCache(),
                num_logits=1,
            )
            for row, head in enumerate(missing):
                found[head] = [
                    (layer.keys[row, :, -len(head) :].clone(), layer.values[row, :, -len(head) :].clone())
                    for layer in cache.layers
                ]
                self._keep(head, found[head])
        return found

    def _keep(self, head: Head, kv: KeysAndValues) -> None:
        self._kept[head] = kv
        self.num_bytes += _num_bytes(kv)
        while self.num_bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.num_bytes -= _num_bytes(dropped)

    def _padded(self, rows: Iterable[Sequence[int]], filling: int) -> Tensor:
        """(B, T) integers, shorter rows filled up on the left."""
        rows = list(rows)
        length = max(map(len, rows))
        return torch.tensor([[filling] * (length - len(row)) + list(row) for row in rows], device=self.model.device)


def _left_padded(rows_HTK: Sequence[Tensor], length: int) -> Tensor:
    """(B, H, T, K), zeros in front of the shorter rows."""
    num_heads, _, width = rows_HTK[0].shape
    padded_BHTK = rows_HTK[0].new_zeros(len(rows_HTK), num_heads, length, width)
    for row, kv_HTK in enumerate(rows_HTK):
        padded_BHTK[row, :, length - kv_HTK.shape[1] :] = kv_HTK
    return padded_BHTK


def _num_bytes(kv: KeysAndValues) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in kv)
