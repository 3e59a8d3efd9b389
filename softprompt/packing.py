"""Rows of a tuning pass packed into one long row: the heads that they share, then one row behind the other, no padding.

What a network does position by position, its matrix products above all, then sees every head once, nothing but real
positions, and all of them in one product. Attention alone has to tell rows apart: where a network looks its attention
up by name, ours takes its place, cuts the long row up, lets the network's own attend to the pieces, and joins them.

Shapes: A heads of F positions each, B rows of T positions at most behind them, N positions of the long row, L of them
with logits; D width, V vocabulary, X logits or hidden states, H attention heads, K an attention head's width.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from softprompt.graphs import Size
from softprompt.memory import tensor_on
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill, distinct
from softprompt.prompt import TOKEN, Prompt, TrainingRow
from softprompt.trials import are_near, supports

NAME = "softprompt_packed"
"""Of our attention, under which networks look it up."""


@dataclass(frozen=True)
class Packing:
    """Where heads and rows stand in the long row, of N positions, and where they do when they attend: each row behind a
    copy of its head, at M = B x (F + T) places. All of it as tensors, so that passes that differ in it can be one
    recorded pass."""

    num_heads: int
    head_length: int
    head_of_B: Tensor
    places_M: Tensor
    """Positions in the long row; behind a shorter row the first of its own head, so that no seed meets what another has
    spoilt."""
    found_N: Tensor
    """Of each position in the long row, one of its places among the M. Positions at the end that nobody attends to
    have any; what gradient they get from there goes nowhere."""
    are_unseen_M: Tensor
    """Whether a place is none of those: another copy of a head, or behind a shorter row."""
    position_ids_1N: Tensor

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        head_length: int,
        head_of: Sequence[int],
        lengths: Sequence[int],
        longest: int = 0,
        num_more: int = 0,
    ) -> "Packing":
        """
        Args:
            head_of: by row, which head it has; the first row has the first.
            lengths: of the rows behind their heads.
            longest: that rows are padded to when they attend.
            num_more: positions at the end that nobody attends to.
        """
        num_heads, longest = max(head_of) + 1, longest or max(lengths)
        width, num_rows = head_length + longest, len(head_of)
        starts = list(accumulate(lengths[:-1], initial=num_heads * head_length))
        places = [
            [*range(head * head_length, (head + 1) * head_length), *range(start, start + length)]
            for head, start, length in zip(head_of, starts, lengths, strict=True)
        ]
        stretches = [(head_of.index(head), 0, head_length) for head in range(num_heads)]
        stretches += [(row, head_length, head_length + length) for row, length in enumerate(lengths)]
        found = [row * width + place for row, start, end in stretches for place in range(start, end)]
        positions = [place for _, start, end in stretches for place in range(start, end)]
        are_unseen = [True] * (num_rows * width)
        for place in found:
            are_unseen[place] = False
        device = model.device
        return cls(
            num_heads=num_heads,
            head_length=head_length,
            head_of_B=tensor_on(device, head_of),
            places_M=tensor_on(device, [place for own in places for place in own + own[:1] * (width - len(own))]),
            found_N=tensor_on(device, found + [0] * num_more),
            are_unseen_M=tensor_on(device, are_unseen),
            position_ids_1N=tensor_on(device, [positions + [0] * num_more]),
        )

    def apart(self, values_1HNK: Tensor) -> Tensor:
        """(B, H, F + T, K): each row behind a copy of its head."""
        values_NHK = values_1HNK.transpose(1, 2).flatten(0, 1)  # as positions usually lie in memory, too
        values_MHK: Tensor = _Apart.apply(values_NHK, self)
        return values_MHK.unflatten(0, (len(self.head_of_B), -1)).transpose(1, 2)

    def together(self, values_BWHK: Tensor) -> Tensor:
        """(1, N, H, K) of W = F + T positions a row."""
        values_NHK: Tensor = _Together.apply(values_BWHK.flatten(0, 1), self)
        return values_NHK[None]


class _Apart(torch.autograd.Function):
    """(N, H, K) -> (M, H, K). Nothing has to be added up on the way back but a head's copies, as all other places
    that count are the only ones of their positions.

    Here and below nothing is left out by a product with 0: of a seed that has diverged that is NaN, for all.
    """

    @staticmethod
    def forward(ctx: Any, values_NHK: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return values_NHK.index_select(0, packing.places_M.to(values_NHK.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_MHK,), packing = gradients, ctx.packing
        gradient_NHK = gradient_MHK.index_select(0, packing.found_N.to(gradient_MHK.device))
        head_of_B = packing.head_of_B.to(gradient_MHK.device)
        copies_BFHK = gradient_MHK.unflatten(0, (len(head_of_B), -1))[:, : packing.head_length]
        copies_BFHK = copies_BFHK.to(torch.promote_types(copies_BFHK.dtype, torch.float32))
        heads_AFHK = copies_BFHK.new_zeros(packing.num_heads, *copies_BFHK.shape[1:])
        heads_AFHK.index_add_(0, head_of_B, copies_BFHK)
        gradient_NHK[: packing.num_heads * packing.head_length] = heads_AFHK.flatten(0, 1)
        return gradient_NHK, None


class _Together(torch.autograd.Function):
    """(M, H, K) -> (N, H, K), the way back of `_Apart` but for what nobody finds, which gets no gradient."""

    @staticmethod
    def forward(ctx: Any, values_MHK: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return values_MHK.index_select(0, packing.found_N.to(values_MHK.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_NHK,) = gradients
        device = gradient_NHK.device
        gradient_MHK = gradient_NHK.index_select(0, ctx.packing.places_M.to(device))
        return gradient_MHK.masked_fill_(ctx.packing.are_unseen_M.to(device)[:, None, None], 0), None


_now = threading.local()
"""Of this thread's pass: `packing`, and `own`, the network's own attention."""


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _attention_mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """A head attends once for each of its rows, which costs less than a call of its own and, as rows are then whole, no
    mask: what stands behind a shorter row is never seen."""
    packing, own = _now.packing, _now.own
    found_BXHK, _ = own(module, *map(packing.apart, (query, key, value)), None, **options)
    return packing.together(found_BXHK), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)


@contextmanager
def packing_rows(model: LanguageModel, rows: Sequence[TrainingRow]) -> Iterator[bool]:
    """Whether passes over these prompts and answers are to be packed; if so, all passes inside the block must be.

    Packed are prompts with vectors in their heads. Layers that look back through a window must not reach its end, since
    it is a mask that ends it, and packed rows attend without one.
    """
    have_heads = all(prompt.head.has_vectors and not prompt.cue_start for prompt, _ in rows)
    are_alike = len({prompt.head_length for prompt, _ in rows}) == 1
    longest = max(row.length for row in rows)
    does_pack = have_heads and are_alike and longest <= model.window and packs(model)
    with _looked_up(model) if does_pack else nullcontext():
        yield does_pack


def packed_size(prompts: Sequence[Prompt], answers: Sequence[list[int]]) -> Size:
    """Positions of the long row, of the longest behind its head, and those with logits."""
    heads, _ = distinct([prompt.head for prompt in prompts])
    lengths = [len(prompt.tail) + len(ids) - 1 for prompt, ids in zip(prompts, answers, strict=True)]
    return Size(sum(map(len, heads)) + sum(lengths), max(lengths), sum(map(len, answers)))


def answer_outputs(
    prefill: Prefill, prompts: Sequence[Prompt], answers: Sequence[list[int]], vectors_SPD: Tensor
) -> Tensor:
    """(L, X) logits for all tokens of all answers, one row's behind the other's, or what the network gives in their
    place; inside `packing_rows` only."""
    model, graphs = prefill.model, prefill.graphs
    heads, head_of = distinct([prompt.head for prompt in prompts])
    tails = [prompt.tail for prompt in prompts]
    rows = [
        Prompt([*tail.ids, *ids[:-1]], [*tail.slots, *[TOKEN] * (len(ids) - 1)], tail.seed)
        for tail, ids in zip(tails, answers, strict=True)
    ]
    head_length, lengths = len(heads[0]), [len(row) for row in rows]
    wanted: list[int] = []
    end = len(heads) * head_length
    for row, ids in zip(rows, answers, strict=True):
        end += len(row)
        wanted += range(end - len(ids), end)
    prefill.meter.count(model, end, len(wanted), backward=True)
    num_positions, longest, num_wanted = graphs.room(len(rows), packed_size(prompts, answers))
    num_more = num_positions - end
    packing = Packing.of(model, head_length, head_of, lengths, longest, num_more)
    embeds_1ND = prefill.embed([[*heads, *rows, Prompt([0] * num_more, [TOKEN] * num_more)]], vectors_SPD)
    wanted_L = tensor_on(model.device, wanted + [0] * (num_wanted - len(wanted)))

    def run(embeds_1ND: Tensor, wanted_L: Tensor, *places: Tensor) -> Tensor:
        return _logits(model, embeds_1ND, Packing(*shape, *places), wanted_L)

    num_heads, length, *places = (getattr(packing, field.name) for field in fields(packing))
    shape = num_heads, length
    return graphs(shape, run, embeds_1ND, wanted_L, *places)[: len(wanted)]


def packs(model: LanguageModel) -> bool:
    """Whether rows that are packed come out as they do alone; found out by trying, since a network may do anything with
    positions and masks."""
    takes_ours = model.attention in ALL_ATTENTION_FUNCTIONS.valid_keys() and not model.is_recurrent
    return takes_ours and supports(model, _proves_to_pack)


def _proves_to_pack(model: LanguageModel) -> bool:
    """Two rows behind a head, packed and each alone: what differs must be next to nothing of what the first would do to
    the second if it were seen."""
    ids = [i % model.num_tokens for i in range(10)]
    head, first, second = ids[:3], ids[3:6], ids[6:]

    def alone(*parts: list[int]) -> Tensor:
        ids_1T = torch.tensor([[*chain(*parts)]], device=model.device)
        return model.forward(input_ids=ids_1T, mask_BT=torch.ones_like(ids_1T), num_logits=1)[0][0, 0]

    expected_LV = torch.stack([alone(head, first), alone(head, second)])
    effect = (alone(head, first, second) - expected_LV[1]).abs().max()
    embeds_1ND = model.embed(torch.tensor([[*head, *first, *second]], device=model.device))
    packing = Packing.of(model, len(head), [0, 0], [len(first), len(second)])
    ends_L = torch.tensor([len(head + first) - 1, len(ids) - 1], device=model.device)
    with _looked_up(model):
        found_LV = _logits(model, embeds_1ND, packing, ends_L)
    return are_near(found_LV, expected_LV, effect)


@contextmanager
def _looked_up(model: LanguageModel) -> Iterator[None]:
    """Inside the block the network finds our attention under the name that it looks up."""
    own, configs = model.attention, (model.network.config, model.network.config.get_text_config())
    for config in configs:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config in configs:
            config._attn_implementation = own


def _logits(model: LanguageModel, embeds_1ND: Tensor, packing: Packing, wanted_L: Tensor) -> Tensor:
    """(L, V) at the wanted places of the long row."""
    takes_places = "logits_to_keep" in model.forward_names
    _now.packing, _now.own = packing, ALL_ATTENTION_FUNCTIONS[model.attention]
    try:
        with model.last_mlp.only(wanted_L):
            logits_1LV = model.network(
                inputs_embeds=embeds_1ND,
                position_ids=packing.position_ids_1N,
                use_cache=False,
                **({"logits_to_keep": wanted_L} if takes_places else {}),
            ).logits
    finally:
        del _now.packing, _now.own
    return logits_1LV[0] if takes_places else logits_1LV[0, wanted_L]
