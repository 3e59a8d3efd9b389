"""A cheaper gradient for vectors in front of a question: it takes the short way only.

The loss stands behind the cue. Two ways lead from there back to a vector in front: straight through the keys and values
of the vector's own position, which cue and answer attend to in every layer; and through the question, whose hidden
states depend on the vectors, too. The second is cut: in every layer the question's keys and values are what the vectors
of this step make them, but constants. Losses are those of the full gradient, gradients are not, so it is part of the
protocol (`prefix_gradient`).

It saves the backward pass of every question position: forward 2, backward 2 FLOPs a parameter and position, no weight
gradients, so at most half of a step. But rows that are cut are not packed (`softprompt.packing`), which costs most of
that again, and more where questions are short.

Shapes: S seeds, P vectors, D width, B rows, T cached positions, F positions in front of a question (BOS and vectors), H
heads, K a head's width.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from softprompt.keys_values import cache_of
from softprompt.memory import tensor_on
from softprompt.prefill import Batch, Prefill
from softprompt.prompt import TOKEN, Prompt


def truncated_batch(prefill: Prefill, prompts: Sequence[Prompt], vectors_SPD: Tensor, num_more: int) -> Batch:
    """As `Prefill.batch`, for prompts with a `cue_start`: everything before it is in the cache, and gradients flow to
    the vectors through their own keys and values alone."""
    tails = [prompt.part(prompt.cue_start, len(prompt)) for prompt in prompts]
    questions = [replace(prompt.part(0, prompt.cue_start), head_length=prompt.head_length) for prompt in prompts]
    with torch.no_grad():
        constant, mask_BT = _read(prefill, questions, vectors_SPD, max(map(len, tails)) + num_more)
    fronts = {prompt.seed: _front(prompt) for prompt in prompts}
    moving, _ = _read(prefill, list(fronts.values()), vectors_SPD)
    row_of = {seed: row for row, seed in enumerate(fronts)}
    rows_B1 = tensor_on(mask_BT.device, [[row_of[prompt.seed]] for prompt in prompts])

    place_BT = mask_BT.cumsum(1) - 1  # -1 at padding that comes first; what stands at any padding does not matter
    length = len(next(iter(fronts.values())))
    is_front_B1T1 = ((place_BT >= 0) & (place_BT < length))[:, None, :, None]
    place_BT = place_BT.clamp(0, length - 1)

    def mixed(moving_SHFK: Tensor, constant_BHTK: Tensor) -> Tensor:
        device = constant_BHTK.device
        moving_BHTK = moving_SHFK[rows_B1.to(device), :, place_BT.to(device)].transpose(1, 2)
        return torch.where(is_front_B1T1.to(device), moving_BHTK, constant_BHTK)

    cache = cache_of(
        (mixed(own.keys, read.keys), mixed(own.values, read.values))
        for own, read in zip(moving.layers, constant.layers, strict=True)
    )
    embeds_BTD, tail_mask_BT = prefill.embed_prompts(tails, vectors_SPD)
    return Batch(embeds_BTD, torch.cat([mask_BT, tail_mask_BT], dim=1), cache, sum(map(len, tails)))


def _front(prompt: Prompt) -> Prompt:
    """Up to the last vector in front of the question."""
    return prompt.part(0, 1 + max(i for i, slot in enumerate(prompt.slots[: prompt.cue_start]) if slot != TOKEN))


def _read(prefill: Prefill, prompts: Sequence[Prompt], vectors_SPD: Tensor, num_more: int = 0) -> tuple[Any, Tensor]:
    """Keys and values of prompts, and their mask."""
    batch = prefill.batch(prompts, vectors_SPD, num_more)
    prefill.meter.count(prefill.model, batch.num_tokens, 0, backward=batch.embeds_BTD.requires_grad)
    _, cache = prefill.model.forward(
        inputs_embeds=batch.embeds_BTD, mask_BT=batch.mask_BT, cache=batch.cache or DynamicCache(), num_logits=1
    )
    return cache, batch.mask_BT
