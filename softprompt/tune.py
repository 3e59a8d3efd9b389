"""Tuning the vectors of one placement, all seeds in one batch.

Shapes: S seeds, P vectors, D width, B rows, T prompt positions, A answer positions, L tokens of all answers, X logits
or hidden states.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from softprompt import processes
from softprompt.benchmarks import Example
from softprompt.cores import side_by_side
from softprompt.graphs import Size
from softprompt.loss import Loss, shared_tokens
from softprompt.memory import MicroBatches, tensor_on
from softprompt.output_layer import IGNORED
from softprompt.packing import answer_outputs, packed_size, packing_rows
from softprompt.prefill import Prefill
from softprompt.prompt import Placement, TrainingRow, of_seed
from softprompt.protocol import Protocol
from softprompt.truncation import truncated_batch
from softprompt.wording import Wording

MAX_NORM = 1.0
"""Gradients are clipped to this norm, each seed's on its own."""

TUNING_BYTES_OF_A_CORE = 2e9
"""Planned for a pass on a CPU: more than for answering, so that the default's three seeds of a model like SmolLM2 share
one, whose weights are read twice."""


@dataclass(frozen=True)
class TunedPrompt:
    """The vectors after `step` steps."""

    step: int
    vectors_SPD: Tensor
    losses: tuple[float, ...]
    """By seed: a batch's mean cross-entropy, in nats a token that is learned; see `CurvePoint.loss`."""
    diverged: tuple[int, ...]
    """Seeds whose loss or gradient was not finite; their vectors stopped at the last finite ones."""


def tune(
    prefill: Prefill,
    placement: Placement,
    examples: Sequence[Example],
    targets: Sequence[str],
    protocol: Protocol,
    micro_batch: int | None = None,
    on_step: Callable[[int], None] = lambda _step: None,
) -> Iterator[TunedPrompt]:
    """Tune one prompt per seed on the same examples; yields at each of the protocol's measured steps, 0 included.

    `targets` are what the examples are to be answered with: their own answers, or in a control others.

    The seeds share forward passes but nothing else: each has its own vectors, sample order, loss, and clipping.

    Args:
        micro_batch: most rows of a pass; None for as many as fit into memory.

    Raises:
        OutOfMemory: not even one row fits.
    """
    model = prefill.model
    micro_batches = MicroBatches(model.devices, micro_batch, TUNING_BYTES_OF_A_CORE)
    vectors_SPD = torch.nn.Parameter(placement.initial_vectors(protocol.seeds))
    optimizer = torch.optim.AdamW([vectors_SPD], lr=protocol.learning_rate * model.embedding_rms, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, protocol))
    answers = learned_answers(placement.wording, examples, targets, protocol)
    loss = Loss(protocol.unknown_share, shared_tokens(answers))
    are_finite_S = torch.ones(len(protocol.seeds), dtype=torch.bool, device=model.device)

    def state(step: int, losses_S: Tensor) -> TunedPrompt:
        of_seeds = zip(protocol.seeds, are_finite_S.tolist(), strict=True)
        diverged = tuple(seed for seed, is_finite in of_seeds if not is_finite)
        return TunedPrompt(step, vectors_SPD.detach().clone(), tuple(losses_S.tolist()), diverged)

    steps = rows_of_steps(placement, examples, answers, protocol)
    prefill.graphs.expect((len(own), pass_size(own)) for own in map(_own, steps) if own)
    for step, rows in enumerate(steps):
        later = itertools.chain.from_iterable(map(_own, steps[step + 1 :]))
        prefill.read_ahead([prompt for prompt, _ in _own(rows)], (prompt for prompt, _ in later))
        losses_S, gradient_SPD = _gradient(prefill, rows, vectors_SPD, micro_batches, loss)
        norms_S = gradient_SPD.flatten(1).norm(dim=1)
        are_finite_S &= (losses_S + norms_S).isfinite()
        if step in protocol.measured_steps:
            yield state(step, losses_S)
        # No value is looked at here: the host would have to wait until the GPU has come to it.
        vectors_SPD.grad = gradient_SPD * (MAX_NORM / norms_S).clamp(max=1)[:, None, None]
        last_SPD = vectors_SPD.detach().clone()
        optimizer.step()
        scheduler.step()
        vectors_SPD.data.copy_(vectors_SPD.where(are_finite_S[:, None, None], last_SPD))
        on_step(step + 1)
    yield state(protocol.num_steps, losses_S)


def rows_of_steps(
    placement: Placement, examples: Sequence[Example], answers: Sequence[list[int]], protocol: Protocol
) -> list[list[TrainingRow]]:
    alike = placement.prompts(examples)
    prompts = [of_seed(alike, seed) for seed in range(len(protocol.seeds))]
    return [
        [TrainingRow(prompts[seed][i], answers[i]) for seed, batch in enumerate(batch_of_seed) for i in batch]
        for batch_of_seed in batches(examples, protocol)
    ]


def learned_answers(
    wording: Wording, examples: Sequence[Example], targets: Sequence[str], protocol: Protocol
) -> list[list[int]]:
    """Tokens of the targets as they follow their questions, and the one that ends an answer if it is to be learned."""
    end = [wording.terminator_id] if protocol.learn_stop else []
    pairs = zip(examples, targets, strict=True)
    return [[*wording.answer_ids(example, target), *end] for example, target in pairs]


def share_of_rate(step: int, protocol: Protocol) -> float:
    """Share of the peak rate: linear warm-up, then cosine to 0."""
    if step < protocol.num_warmup_steps:
        return (step + 1) / (protocol.num_warmup_steps + 1)
    done = (step - protocol.num_warmup_steps) / max(1, protocol.num_steps - protocol.num_warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def batches(examples: Sequence[Example], protocol: Protocol) -> Iterator[list[list[int]]]:
    """For each step, a batch of example indices per seed.

    Samples of like length (in characters, so that every tokenizer gets the same batches) share a batch, and at any
    step the batches of all seeds come from the same stretch of lengths: little padding, yet every seed has an order of
    its own and meets every sample once an epoch.
    """
    by_length = sorted(range(len(examples)), key=lambda i: (len(examples[i].question) + len(examples[i].answer), i))
    size, num_seeds = protocol.batch_size, len(protocol.seeds)
    stretches = [by_length[start : start + size * num_seeds] for start in range(0, len(by_length), size * num_seeds)]
    common = random.Random("order of batches")
    own = [random.Random(f"batches of seed {seed}") for seed in protocol.seeds]
    num_left = protocol.num_steps
    while num_left:
        epoch = []
        for stretch in stretches:
            orders = [rng.sample(stretch, len(stretch)) for rng in own]
            starts = range(0, len(stretch), size)
            epoch += [[order[start : start + size] for order in orders] for start in starts]
        common.shuffle(epoch)
        yield from epoch[:num_left]
        num_left -= min(num_left, len(epoch))


def _gradient(
    prefill: Prefill,
    rows: Sequence[TrainingRow],
    vectors_SPD: Tensor,
    micro_batches: MicroBatches,
    loss: Loss,
) -> tuple[Tensor, Tensor]:
    """(S,) mean cross-entropies, and the (S, P, D) gradient of each seed's mean loss.

    Every seed's loss is divided by the tokens of its whole batch, so that neither micro-batches nor the number of
    processes change anything, and no seed's gradient depends on another's.
    """
    device = prefill.model.device
    num_tokens = [0] * len(vectors_SPD)
    for prompt, answer in rows:
        num_tokens[prompt.seed] += len(answer)
    num_tokens_S = tensor_on(device, num_tokens)
    losses_S, gradient_SPD = torch.zeros(len(vectors_SPD), device=device), torch.zeros_like(vectors_SPD)

    def work(chunk: Sequence[TrainingRow]) -> tuple[Tensor, Tensor]:
        seeds_B = tensor_on(device, [prompt.seed for prompt, _ in chunk])
        losses_BA = answer_losses(prefill, chunk, vectors_SPD, packed=are_packed)
        part_S = torch.zeros_like(losses_S).index_add(0, seeds_B, losses_BA.detach().sum(1)) / num_tokens_S
        learned_BA = loss(losses_BA, [answer for _, answer in chunk])
        learned = (learned_BA.sum(1) / num_tokens_S[seeds_B]).sum()
        return part_S, torch.autograd.grad(learned, vectors_SPD)[0]

    def num_bytes(row: TrainingRow) -> float:
        return prefill.model.pass_bytes(row.length, len(row.answer), backward=True)

    def on_cores(chunk: Sequence[TrainingRow]) -> list[tuple[Tensor, Tensor]]:
        num_positions = [len(prompt) - prompt.head_length + len(answer) for prompt, answer in chunk]
        return side_by_side(
            device, chunk, [4 * prefill.model.num_layer_parameters * num for num in num_positions], work
        )

    with packing_rows(prefill.model, rows) as are_packed:
        own = _own(rows)
        if are_packed:  # there padding costs little, and a seed's head is read in every part that has rows of it
            own = sorted(own, key=lambda row: row.prompt.seed)
        for parts in micro_batches.run(own, num_bytes, on_cores):
            for part_S, part_SPD in parts:
                losses_S += part_S
                gradient_SPD += part_SPD
    processes.add_up([losses_S, gradient_SPD])
    return losses_S, gradient_SPD


def _own(rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
    """This process's share of a step, by length: little padding."""
    return processes.share(sorted(rows, key=lambda row: row.length))


def pass_size(rows: Sequence[TrainingRow]) -> Size:
    """Packed, where vectors stand in front; else the longest answer and the longest question that has been read."""
    prompts, answers = [prompt for prompt, _ in rows], [answer for _, answer in rows]
    if prompts[0].head.has_vectors:
        return packed_size(prompts, answers)
    longest = max(map(len, answers))
    return Size(computed=longest, attended=max(prompt.head_length for prompt in prompts), learned=longest)


def answer_losses(
    prefill: Prefill, rows: Sequence[TrainingRow], vectors_SPD: Tensor, *, packed: bool = False
) -> Tensor:
    """(B, A) cross-entropy of each token of the rows' answers, in nats; 0 behind a shorter answer.

    Logits are computed at the answer only. The last answer token is a target, never an input.

    Args:
        packed: whether the call is inside `packing_rows`, which said so.
    """
    model, graphs, output_layer = prefill.model, prefill.graphs, prefill.model.output_layer
    prompts, answers = [prompt for prompt, _ in rows], [answer for _, answer in rows]
    length, head_length = max(map(len, answers)), 0
    if packed:
        answers_L = tensor_on(model.device, [token for answer in answers for token in answer])
        # Places rather than a mask: its places would be counted on the way back, and the host would wait for that.
        places_L = tensor_on(
            model.device, [length * row + i for row, ids in enumerate(answers) for i in range(len(ids))]
        )
        with output_layer.left_out():
            outputs_LX = answer_outputs(prefill, prompts, answers, vectors_SPD)
        losses_L = output_layer.cross_entropies(outputs_LX, answers_L)
        return losses_L.new_zeros(len(rows) * length).index_copy(0, places_L, losses_L).view(len(rows), length)
    if not prompts[0].head.has_vectors:
        length, head_length, _ = graphs.room(len(rows), pass_size(rows))
    answers_BA = tensor_on(model.device, [a + [IGNORED] * (length - len(a)) for a in answers])
    if prompts[0].cue_start:
        batch = truncated_batch(prefill, prompts, vectors_SPD, length - 1)
    else:
        batch = prefill.batch(prompts, vectors_SPD, num_more=length - 1, head_length=head_length)
    inputs_BA = answers_BA[:, :-1].clamp(min=0)
    num_answer = sum(map(len, answers))
    prefill.meter.count(model, batch.num_tokens + num_answer - len(rows), num_answer, backward=True)
    embeds_BTD = torch.cat([batch.embeds_BTD, model.embed(inputs_BA)], dim=1)
    # Padding behind an answer is never attended by it; marking it 0 would only cost a mask.
    mask_BT = torch.cat([batch.mask_BT, torch.ones_like(inputs_BA)], dim=1)

    def run(embeds_BTD: Tensor, mask_BT: Tensor, *stacks: Tensor) -> Tensor:
        cache = replace(batch.past, stacks=stacks).cache(len(rows)) if batch.past else batch.cache
        return model.forward(inputs_embeds=embeds_BTD, mask_BT=mask_BT, cache=cache, num_logits=length)[0]

    with output_layer.left_out():
        if batch.past:
            outputs_BAX = graphs(length, run, embeds_BTD, mask_BT, *batch.past.stacks)
        else:
            outputs_BAX = run(embeds_BTD, mask_BT)
    return output_layer.cross_entropies(outputs_BAX.flatten(0, 1), answers_BA.flatten()).view(answers_BA.shape)
