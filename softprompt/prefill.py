"""Batches of prompts, with the beginnings that they share read only once (prefix caching).

All seeds and steps of `cue` share a benchmark's questions, zero-shot shares them too, all few-shot prompts share their
solved examples, and a batch of `prefix` its vectors. Shapes: B rows, A rows with different heads, T positions, D width,
H attention heads, K a head's width, S seeds, P vectors, M of all positions those with vectors, V vocabulary.
"""

import functools
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor
from transformers import DynamicCache

from softprompt.cores import side_by_side
from softprompt.graphs import Graphs
from softprompt.keys_values import KeysAndValues, cache_of
from softprompt.memory import free_bytes, is_out_of_memory, tensor_on
from softprompt.meter import Meter
from softprompt.models import LanguageModel
from softprompt.prompt import TOKEN, Prompt, num_common

Head = tuple[int, ...]
Row = TypeVar("Row", bound=Sized)
POSITIONS_OF_A_PASS = defaultdict(lambda: 512, {"cuda": 16_384})
"""By kind of device. More would bring padding and no speed: one core's products reach their full rate from 96
rows on; a GPU needs thousands."""

POSITIONS_AHEAD = {"cuda": POSITIONS_OF_A_PASS["cuda"]}
"""By kind of device, that are read before they are asked for. A CPU has enough to do with what it is asked for."""

SHARE_OF_MEMORY = 0.25
"""Of what is free on the model's device when a job starts, at most so much holds keys and values of heads."""


@dataclass(frozen=True)
class Batch:
    """Prompts of one forward pass, left-padded so that their answers start together: what follows `cache`."""

    embeds_BTD: Tensor
    mask_BT: Tensor
    """0 at padding; the cached positions come first."""
    own_cache: Any
    """None if there is none, or if it is made of `past`."""
    num_tokens: int
    """Of `embeds_BTD`, padding not counted."""
    past: KeysAndValues | None = None
    """What the cache is made of, if it is made of tokens alone."""

    @functools.cached_property
    def cache(self) -> Any:
        """Made when it is asked for, since it is a copy, two small ones a layer; a recorded pass makes its own."""
        return self.past.cache(len(self.embeds_BTD)) if self.past else self.own_cache


@dataclass(frozen=True)
class Reading:
    """Prompts read to their ends, whence decoding and scoring go on."""

    logits_BV: Tensor
    mask_BT: Tensor
    """0 at padding, which is on the left."""
    cache: Any


class Prefill:
    """Makes batches of prompts for one model, and keeps the keys and values of their heads.

    Heads are dropped in the order in which they were last used when they need more memory than `max_bytes`.
    """

    def __init__(self, model: LanguageModel, max_bytes: float | None = None, meter: Meter | None = None) -> None:
        self.model = model
        self.meter = meter or Meter()
        if model.device.type == "cuda":  # cuDNN's is PyTorch's first choice on Hopper and plans anew for each new shape
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.graphs = Graphs(model)
        _ = model.output_layer, model.last_mlp  # tried here, before several cores do it at once
        self.max_bytes = SHARE_OF_MEMORY * free_bytes(model.devices) if max_bytes is None else max_bytes
        self._kept: OrderedDict[Head, KeysAndValues] = OrderedDict()
        self.num_bytes = 0
        self._lock = threading.Lock()
        self.shares_all = True
        """Whether no prompt with a head had to be read whole so far."""

    @torch.no_grad()
    def read(self, prompts: Sequence[Prompt], vectors_SPD: Tensor | None = None, num_more: int = 0) -> Reading:
        """Read prompts to their ends, without gradients.

        Args:
            num_more: most positions that will follow the prompts.
        """
        if self._are_new(prompts):
            return self._read_whole(prompts)
        batch = self.batch(prompts, vectors_SPD, num_more)
        self.meter.count(self.model, batch.num_tokens, len(prompts))
        logits_B1V, cache = self.model.forward(
            inputs_embeds=batch.embeds_BTD, mask_BT=batch.mask_BT, cache=batch.cache, num_logits=1
        )
        return Reading(logits_B1V[:, 0], batch.mask_BT, cache)

    def _are_new(self, prompts: Sequence[Prompt]) -> bool:
        """Whether each is tokens alone and begins with a head of its own that has not been read."""
        heads = {tuple(prompt.head.ids) for prompt in prompts if prompt.head_length and not prompt.has_vectors}
        are_unread = not any(head in self._kept for head in heads)
        return len(heads) == len(prompts) and are_unread and not self.model.is_recurrent

    def _read_whole(self, prompts: Sequence[Prompt]) -> Reading:
        """In passes of like length, which a batch that is padded to its longest prompt cannot have."""
        wholes = [tuple(prompt.ids) for prompt in prompts]
        found = self._read(wholes)
        self.meter.count(self.model, 0, len(wholes))
        with self._lock:
            for prompt, whole in zip(prompts, wholes, strict=True):
                self._keep(tuple(prompt.head.ids), found[whole][0].first(prompt.head_length))
        return Reading(
            self.model.output_layer.logits(torch.stack([found[whole][1] for whole in wholes])),
            self._mask(wholes),
            KeysAndValues.padded([found[whole][0] for whole in wholes]).cache(len(wholes)),
        )

    def batch(
        self, prompts: Sequence[Prompt], vectors_SPD: Tensor | None, num_more: int = 0, head_length: int = 0
    ) -> Batch:
        """Prompts for a pass of their own. Gradients flow to `vectors_SPD`, also through heads that hold vectors.

        Args:
            num_more: most positions that will follow the prompts.
            head_length: that heads of tokens alone are padded to, if that is more than the longest has.
        """
        if not (all(prompt.head_length for prompt in prompts) and self._can_share(prompts, num_more)):
            self.shares_all &= not any(prompt.head_length for prompt in prompts)
            embeds_BTD, mask_BT = self.embed_prompts(prompts, vectors_SPD)
            return Batch(embeds_BTD, mask_BT, None, sum(map(len, prompts)))
        tails = [prompt.tail for prompt in prompts]
        embeds_BTD, mask_BT = self.embed_prompts(tails, vectors_SPD)
        cache, head_mask_BT, past = self._cache([prompt.head for prompt in prompts], vectors_SPD, head_length)
        return Batch(embeds_BTD, torch.cat([head_mask_BT, mask_BT], dim=1), cache, sum(map(len, tails)), past)

    def _can_share(self, prompts: Sequence[Prompt], num_more: int) -> bool:
        """A recurrent model's state cannot be continued by many tokens at once. And where layers look back through a
        window, they count padding: none may stand between a head and its tail, or all must lie within the window."""
        if self.model.is_recurrent:
            return False
        tails = {len(prompt) - prompt.head_length for prompt in prompts}
        longest = max(prompt.head_length for prompt in prompts) + max(tails) + num_more
        return len(tails) == 1 or longest <= self.model.window

    def embed_prompts(self, prompts: Sequence[Prompt], vectors_SPD: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, D) embeddings and (B, T) mask."""
        return self.embed([[prompt] for prompt in prompts], vectors_SPD), self._mask(prompts)

    def embed(self, rows: Sequence[Sequence[Prompt]], vectors_SPD: Tensor | None) -> Tensor:
        """(B, T, D) of rows in which prompts stand one behind another."""
        embeds_BTD = self.model.embed(self._padded([i for p in row for i in p.ids] for row in rows))
        if vectors_SPD is None:
            return embeds_BTD
        length = embeds_BTD.shape[1]
        places = []
        for number, row in enumerate(rows):
            slots = [(prompt.seed, slot) for prompt in row for slot in prompt.slots]
            start = length - len(slots)
            places += [(number, start + i, seed, slot) for i, (seed, slot) in enumerate(slots) if slot != TOKEN]
        if not places:
            return embeds_BTD
        rows_M, places_M, seeds_M, slots_M = tensor_on(self.model.device, places).unbind(1)
        return embeds_BTD.index_put((rows_M, places_M), vectors_SPD[seeds_M, slots_M].to(embeds_BTD.dtype))

    def _cache(
        self, heads: Sequence[Prompt], vectors_SPD: Tensor | None, head_length: int
    ) -> tuple[DynamicCache | None, Tensor, KeysAndValues | None]:
        """A cache of one row for each head, left-padded, its (B, T) mask, and what it is made of where that is tokens.
        Heads that are alike are read once."""
        alike, places = distinct(heads)
        if not any(head.has_vectors for head in alike):
            kept = self._keys_and_values([tuple(head.ids) for head in (heads if len(alike) > 1 else alike)])
            length = max(head_length, *map(len, heads))
            past = KeysAndValues.padded(kept, length)
            return None, self._mask(heads, length), past
        embeds_ATD, mask_AT = self.embed_prompts(alike, vectors_SPD)
        self.meter.count(self.model, sum(map(len, alike)), 0, backward=embeds_ATD.requires_grad)
        with self.model.output_layer.left_out():
            _, cache = self.model.forward(inputs_embeds=embeds_ATD, mask_BT=mask_AT, cache=DynamicCache(), num_logits=1)
        rows_B = tensor_on(self.model.device, places)
        layers = ((_rows(layer.keys, rows_B), _rows(layer.values, rows_B)) for layer in cache.layers)
        return cache_of(layers), mask_AT[rows_B], None

    def read_ahead(self, prompts: Sequence[Prompt], later: Iterable[Prompt]) -> None:
        """Read and keep heads of `prompts`, and of `later` ones so many that a GPU has enough to do: a batch's are too
        few, and to launch a pass takes a host as long for few as for many."""
        if not prompts:
            return  # a process that has no row of a step
        are_tokens = all(prompt.head_length and not prompt.head.has_vectors for prompt in prompts)
        most = POSITIONS_AHEAD.get(self.model.device.type, 0)
        if not most or not are_tokens or not self._can_share(prompts, 0):
            return
        heads = dict.fromkeys(tuple(prompt.head.ids) for prompt in prompts)
        if all(head in self._kept for head in heads):
            return
        affordable = self.max_bytes / 4 / self.model.pass_bytes(1, 0)
        num_left = min(affordable, most) - sum(map(len, heads))
        if num_left < 0:
            return
        for head in (tuple(prompt.head.ids) for prompt in later):
            if head not in self._kept and head not in heads:
                num_left -= len(head)
                if num_left < 0:
                    break
                heads[head] = None
        try:
            self._keys_and_values(list(heads))
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        clear_device_cache(garbage_collection=True)  # the batch reads its own heads, in halves where it must
        self.max_bytes /= 2

    def _keys_and_values(self, heads: Sequence[Head]) -> list[KeysAndValues]:
        found: dict[Head, KeysAndValues] = {}
        missing = []
        with self._lock:
            for head in dict.fromkeys(heads):
                if head in self._kept:
                    self._kept.move_to_end(head)
                    found[head] = self._kept[head]
                else:
                    missing.append(head)
        found |= {head: kv for head, (kv, _) in self._read(missing).items()}
        with self._lock:
            for head in missing:
                self._keep(head, found[head])
        return [found[head] for head in heads]

    def _read(self, heads: Sequence[Head]) -> dict[Head, tuple[KeysAndValues, Tensor]]:
        """Keys and values, and at the end (X) what the output layer makes logits of."""
        beginning = self._beginning(heads)
        first = self._keys_and_values([beginning])[0] if beginning else None
        heads = sorted(heads, key=len)  # short ones on one core, long ones on another: little padding
        flops = [2 * self.model.num_layer_parameters * (len(head) - len(beginning)) for head in heads]
        parts = side_by_side(self.model.device, heads, flops, lambda some: self._read_in_passes(some, first))
        return {head: read for found in parts for head, read in found.items()}

    def _beginning(self, heads: Sequence[Head]) -> Head:
        """What all of them begin with, be it a chat's system prompt or solved examples; empty if a pass of its own
        would not pay."""
        if len(heads) < 2:
            return ()
        lengths = {len(head) for head in heads}
        num_alike = num_common(min(heads), max(heads))  # these two differ first
        pays = num_alike * (len(heads) - 1) >= POSITIONS_OF_A_PASS[self.model.device.type] / 4
        is_seen_whole = len(lengths) == 1 or max(lengths) <= self.model.window
        return heads[0][:num_alike] if pays and is_seen_whole else ()

    @torch.no_grad()
    def _read_in_passes(
        self, heads: Sequence[Head], first: KeysAndValues | None
    ) -> dict[Head, tuple[KeysAndValues, Tensor]]:
        """What follows the positions that have been read `first`."""
        found = {}
        num_first = first.num_positions if first else 0
        for group in passes(heads, self.model.device):
            tails = [head[num_first:] for head in group]
            self.meter.count(self.model, sum(map(len, tails)), 0)
            mask_BT = self._mask(tails)
            with self.model.output_layer.left_out():
                outputs_B1X, cache = self.model.forward(
                    input_ids=self._padded(tails),
                    mask_BT=torch.cat([mask_BT.new_ones(len(group), num_first), mask_BT], dim=1),
                    cache=first.cache(len(group)) if first else DynamicCache(),
                    num_logits=1,
                )
            read = KeysAndValues.of(cache)
            del cache  # a pass's keys and values are large, and the copies of its rows are still to come
            for row, (head, tail) in enumerate(zip(group, tails, strict=True)):
                found[head] = read.row(row, num_first, len(tail)), outputs_B1X[row, 0]
        return found

    def _keep(self, head: Head, kv: KeysAndValues) -> None:
        if head in self._kept:
            return  # another core has read it meanwhile
        self._kept[head] = kv
        self.num_bytes += kv.num_bytes
        while self.num_bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.num_bytes -= dropped.num_bytes

    def _mask(self, rows: Iterable[Sized], length: int = 0) -> Tensor:
        """(B, T) 1 at the rows' own positions and 0 where `_padded` fills them up."""
        return self._padded(([1] * len(row) for row in rows), length)

    def _padded(self, rows: Iterable[Sequence[int]], length: int = 0) -> Tensor:
        """(B, T) integers, rows filled up with zeros on the left to the longest or to `length`."""
        rows = list(rows)
        length = length or max(map(len, rows))
        return tensor_on(self.model.device, [[0] * (length - len(row)) + list(row) for row in rows])


def passes(rows: Iterable[Row], device: torch.device) -> Iterator[list[Row]]:
    """Rows cut into passes of like length, each of as many positions as pay."""
    most = POSITIONS_OF_A_PASS[device.type]
    group: list[Row] = []
    for row in sorted(rows, key=len):
        if group and len(row) * (len(group) + 1) > most:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def distinct(heads: Sequence[Prompt]) -> tuple[list[Prompt], list[int]]:
    """Heads with keys and values of their own, and of each of `heads` which of them it is."""
    place: dict[Hashable, int] = {}
    identities = [(tuple(head.ids), tuple(head.slots), head.seed if head.has_vectors else None) for head in heads]
    places = [place.setdefault(identity, len(place)) for identity in identities]
    return [heads[places.index(i)] for i in range(len(place))], places


def _rows(values_AHTK: Tensor, rows_B: Tensor) -> Tensor:
    """Rows (B, H, T, K), copied only if they differ."""
    if values_AHTK.shape[0] == 1:
        return values_AHTK.expand(len(rows_B), -1, -1, -1)
    return values_AHTK[rows_B.to(values_AHTK.device)]
