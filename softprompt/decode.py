"""What a prompt makes the model say (greedy) and how likely it finds given answers, from one prefill.

Shapes: B rows, T positions, V vocabulary; S seeds, P vectors, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt import processes
from softprompt.likelihoods import log_likelihoods
from softprompt.memory import MicroBatches
from softprompt.prefill import Prefill, Reading
from softprompt.prompt import Prompt


@dataclass(frozen=True)
class Generation:
    """Greedy output up to the stop, stop string excluded."""

    text: str
    stopped: bool
    """Whether it ended with an end-of-sequence token or a stop string, rather than at the token limit."""


@torch.no_grad()
def answer(
    prefill: Prefill,
    prompts: Sequence[Prompt],
    vectors_SPD: Tensor | None = None,
    *,
    stop: Sequence[str] = (),
    max_new_tokens: int,
    candidates: Sequence[Sequence[list[int]]] | None = None,
    micro_batch: int | None = None,
    on_answers: Callable[[int], None] = lambda _num_more: None,
) -> tuple[list[Generation], list[list[float]]]:
    """Greedy outputs of prompts, and log-likelihoods (nats) of each prompt's candidate answers if any are given.

    Prompts are sorted by length and cut into micro-batches; results come back in the order of `prompts`.

    Args:
        micro_batch: most rows of a pass; None for as many as fit into memory.

    Raises:
        OutOfMemory: not even one row fits.
    """
    model, meter = prefill.model, prefill.meter
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    micro_batches = MicroBatches(model.devices, micro_batch)

    def work(chunk: Sequence[int]) -> list[tuple[Generation, list[float]]]:
        chosen = [candidates[i] if candidates else [] for i in chunk]
        num_more = max([max_new_tokens, *(len(ids) for found in chosen for ids in found)])
        with meter("prefill"):
            read = prefill.read([prompts[i] for i in chunk], vectors_SPD, num_more)
        scores: list[list[float]] = [[] for _ in chunk]
        if candidates is not None:
            with meter("score"):
                scores = log_likelihoods(prefill, read, chosen, micro_batches)
        with meter("decode"):
            generations = _generate(prefill, read, stop, max_new_tokens)
        return list(zip(generations, scores, strict=True))

    def num_bytes(i: int) -> float:
        return model.pass_bytes(len(prompts[i]) + max_new_tokens, 1)

    own = []
    for answers in micro_batches.run(processes.share(order), num_bytes, work):
        own += answers
        on_answers(len(answers) * processes.world_size())
    found = dict(zip(order, processes.gather(own), strict=True))
    return [found[i][0] for i in range(len(prompts))], [found[i][1] for i in range(len(prompts))]


def _generate(prefill: Prefill, read: Reading, stop: Sequence[str], max_new_tokens: int) -> list[Generation]:
    """Continue prompts greedily; finished rows leave the batch."""
    model, logits_BV, mask_BT, cache = prefill.model, read.logits_BV, read.mask_BT, read.cache
    tokens: list[list[int]] = [[] for _ in range(mask_BT.shape[0])]
    generations = [Generation("", False)] * len(tokens)
    running = list(range(len(tokens)))
    for num_new in range(1, max_new_tokens + 1):
        next_B = logits_BV.argmax(-1).tolist()
        kept = []
        for place, (row, token) in enumerate(zip(running, next_B, strict=True)):
            if token in model.eos_ids:
                generations[row] = Generation(model.decode(tokens[row]), True)
                continue
            tokens[row].append(token)
            text = model.decode(tokens[row])
            ends = [text.index(mark) for mark in stop if mark in text]
            if ends:
                generations[row] = Generation(text[: min(ends)], True)
            elif num_new == max_new_tokens:
                generations[row] = Generation(text, False)
            else:
                kept.append(place)
        if not kept:
            break
        if len(kept) < len(running):
            cache.reorder_cache(torch.tensor(kept, device=model.device))
            mask_BT = mask_BT[kept]
            running = [running[place] for place in kept]
        last_B1 = torch.tensor([[tokens[row][-1]] for row in running], device=model.device)
        mask_BT = torch.cat([mask_BT, torch.ones_like(last_B1)], dim=1)
        prefill.meter.count(model, len(running), len(running))
        logits_B1V, cache = model.forward(input_ids=last_B1, mask_BT=mask_BT, cache=cache, num_logits=1)
        logits_BV = logits_B1V[:, 0]
    return generations
