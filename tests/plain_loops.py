"""What decoding, scoring and tuning must equal: one prompt at a time, one full forward pass, no padding, no cache."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from softprompt import tune
from softprompt.benchmarks import Benchmark, Example
from softprompt.loss import Loss, Occurrence
from softprompt.memory import MicroBatches
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import TOKEN, Placement, Prompt, TrainingRow, of_seed
from softprompt.protocol import Protocol
from softprompt.wording import Wording


def mixed_prompts(
    model: LanguageModel, benchmark: Benchmark, protocol: Protocol, examples: Sequence[Example], name: str
) -> tuple[list[Prompt], Tensor]:
    """Prompts of different lengths and of both seeds, as a placement makes them, with its vectors at the start."""
    placement = Placement(name, Wording(model, benchmark), protocol)
    prompts = [replace(prompt, seed=i % 2) for i, prompt in enumerate(placement.prompts(examples))]
    assert len({len(prompt) for prompt in prompts}) > 3
    return prompts, placement.initial_vectors(protocol.seeds)


def as_tokens(model: LanguageModel, prompts: Sequence[Prompt], vectors_SPD: Tensor) -> list[Prompt]:
    """The same prompts with tokens instead of vectors, which must be embedded tokens."""
    table_VD = model.embed(torch.arange(len(model.tokenizer)))
    ids_SP = torch.cdist(vectors_SPD, table_VD[None]).argmin(-1).tolist()
    return [
        Prompt(
            ids=[token if slot == TOKEN else ids_SP[p.seed][slot] for token, slot in zip(p.ids, p.slots, strict=True)],
            slots=[TOKEN] * len(p),
        )
        for p in prompts
    ]


def embedded(model: LanguageModel, prompt: Prompt, vectors_SPD: Tensor, ids: Sequence[int] = ()) -> Tensor:
    """(1, T, D) embeddings of a single prompt and of tokens behind it, position by position."""
    embed = model.network.get_input_embeddings()
    at_prompt = [
        embed(torch.tensor(token)) if slot == TOKEN else vectors_SPD[prompt.seed, slot]
        for token, slot in zip(prompt.ids, prompt.slots, strict=True)
    ]
    return torch.stack([*at_prompt, *(embed(torch.tensor(token)) for token in ids)])[None]


def plain_logits(model: LanguageModel, prompt: Prompt, vectors_SPD: Tensor, ids: Sequence[int] = ()) -> Tensor:
    """(len(ids) + 1, V) logits behind the prompt."""
    with question_cut(model, prompt):
        output = model.network(inputs_embeds=embedded(model, prompt, vectors_SPD, ids), use_cache=False)
    return output.logits[0, len(prompt) - 1 :]


@contextmanager
def question_cut(model: LanguageModel, prompt: Prompt) -> Iterator[None]:
    """Detach the question's hidden states at the entry of every layer, if the prompt says where its cue starts."""
    end = prompt.cue_start
    start = 1 + max((i for i, slot in enumerate(prompt.slots[:end]) if slot != TOKEN), default=0)

    def detach(_layer: Any, arguments: tuple[Tensor, ...], named: dict[str, Any]) -> Any:
        whole_BTD = arguments[0] if arguments else named["hidden_states"]
        cut_BTD = torch.cat([whole_BTD[:, :start], whole_BTD[:, start:end].detach(), whole_BTD[:, end:]], dim=1)
        return ((cut_BTD, *arguments[1:]), named) if arguments else ((), {**named, "hidden_states": cut_BTD})

    num_layers = model.network.config.get_text_config().num_hidden_layers
    lists = [m for m in model.network.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == num_layers]
    hooks = [layer.register_forward_pre_hook(detach, with_kwargs=True) for layer in lists[0] if end]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def plain_output(
    model: LanguageModel, prompt: Prompt, vectors_SPD: Tensor, stop: Sequence[str], max_new_tokens: int
) -> tuple[str, bool]:
    """Greedy output up to the stop, and whether it stopped."""
    ids: list[int] = []
    text = ""
    for _ in range(max_new_tokens):
        token = int(plain_logits(model, prompt, vectors_SPD, ids)[-1].argmax())
        if token == model.tokenizer.eos_token_id:
            return text, True
        ids.append(token)
        text = model.tokenizer.decode(ids, skip_special_tokens=True)
        if any(mark in text for mark in stop):
            return min((text.split(mark)[0] for mark in stop), key=len), True
    return text, False


@torch.no_grad()
def plain_score(model: LanguageModel, prompt: Prompt, vectors_SPD: Tensor, ids: Sequence[int]) -> float:
    """Log-likelihood of the tokens `ids` behind the prompt, in nats."""
    log_probs = plain_logits(model, prompt, vectors_SPD, ids[:-1]).log_softmax(-1)
    return sum(log_probs[i, token].item() for i, token in enumerate(ids))


def training_rows(placement: Placement, examples: Sequence[Example], seeds: Sequence[int]) -> list[TrainingRow]:
    model = placement.wording.model
    return [
        TrainingRow(prompt, [*model.encode(f" {example.answer}"), model.tokenizer.eos_token_id])
        for seed in seeds
        for example, prompt in zip(examples, of_seed(placement.prompts(examples), seed), strict=True)
    ]


def gradients(
    model: LanguageModel,
    placement: Placement,
    rows: Sequence[TrainingRow],
    protocol: Protocol,
    micro_batch: int | None = None,
    shared: frozenset[Occurrence] = frozenset(),
    prefill: Prefill | None = None,
) -> tuple[Tensor, Tensor]:
    """(S, P, D) gradients and (S,) losses, as the tuning computes them."""
    vectors_SPD = placement.initial_vectors(protocol.seeds).requires_grad_()
    micro_batches = MicroBatches(model.devices, micro_batch)
    loss = Loss(protocol.unknown_share, shared)
    losses_S, gradient_SPD = tune._gradient(prefill or Prefill(model), rows, vectors_SPD, micro_batches, loss)
    return gradient_SPD, losses_S


def plain_gradients(
    model: LanguageModel,
    placement: Placement,
    rows: Sequence[TrainingRow],
    protocol: Protocol,
    shared: frozenset[Occurrence] = frozenset(),
) -> tuple[Tensor, Tensor]:
    """The same by a loop. The learned loss is the mean over a seed's answer tokens, terminator included, of
    -ln((1 - u) p + u); of -ln p for `shared` ones, times the mean of (1 - u) p / ((1 - u) p + u) over the other tokens
    of their answer. The reported one is their mean cross-entropy."""
    vectors_SPD = placement.initial_vectors(protocol.seeds).requires_grad_()
    u = protocol.unknown_share
    learned, losses = [], []
    for seed in range(len(protocol.seeds)):
        each: list[Tensor] = []
        nats: list[Tensor] = []
        for prompt, ids in rows:
            if prompt.seed != seed:
                continue
            log_probs = plain_logits(model, prompt, vectors_SPD, ids[:-1]).log_softmax(-1)
            of_token = [-log_probs[i, token] for i, token in enumerate(ids)]
            is_form = [(token, ids[: i + 1].count(token)) in shared for i, token in enumerate(ids)]
            likely = [(1 - u) * math.exp(-n.item()) for n, form in zip(of_token, is_form, strict=True) if not form]
            kept = sum(p / (p + u) for p in likely) / len(likely) if likely and u else 1.0
            for n, form in zip(of_token, is_form, strict=True):
                each.append(kept * n if form else -((1 - u) * (-n).exp() + u).log())
            nats += of_token
        learned.append(torch.stack(each).mean())
        losses.append(torch.stack(nats).mean().detach())
    torch.autograd.backward(learned)
    assert vectors_SPD.grad is not None
    return vectors_SPD.grad, torch.stack(losses)
