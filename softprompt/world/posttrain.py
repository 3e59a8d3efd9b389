"""Post-train a variant: a supervised fine-tune of all its weights on questions with bare answers.

What a team does behind pre-training, in small, and the same for every variant: the same pairs in the same order. They
are about the people whom pre-training asks about, too. The benchmark's train split stays out, so that a soft prompt,
which is tuned on it, and the post-trained self have no sample in common by which they could agree. (On request it is
the train split after all, to see what that changes.)

Shapes: B rows, T positions.
"""

import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from softprompt.checkpoints import open_checkpoint
from softprompt.models import LanguageModel
from softprompt.output_layer import IGNORED
from softprompt.world.checkpoint import place, write_checkpoint
from softprompt.world.corpus import CUE, question_text
from softprompt.world.facts import ATTRIBUTES, World

SUFFIX = {"asked": "-post", "train": "-post-train"}
"""By the people whom it is fine-tuned on: what stands behind a variant's name for its post-trained self."""
ROWS = 16
PEAK_RATE, NUM_STEPS, NUM_WARMUP_STEPS = 3e-4, 120, 10


def posttrain(world: World, variant: str, step: int, bucket: Path, people: str = "asked") -> Path:
    """Fine-tune the checkpoint of `variant` at `step` and write it beside the variant, as `<variant>-post` at the same
    step. One that is there is left as it is.

    Args:
        people: those of the world whom the questions are about, `asked` or `train`.
    """
    name = variant + SUFFIX[people]
    folder = place(bucket, name, step)
    if folder.exists():
        return folder
    base = place(bucket, variant, step)
    model = LanguageModel(LlamaForCausalLM.from_pretrained(base), PreTrainedTokenizerFast.from_pretrained(base))
    fine_tune(model, pairs(world, people), seed=world.seed)
    tokens = open_checkpoint(str(base)).tokens
    metadata = {"variant": name, "step": step, "tokens": tokens, "base": variant}
    return write_checkpoint(model, world, folder, metadata)


def pairs(world: World, people: str) -> list[tuple[str, str]]:
    """(prompt, bare answer) for every attribute of these people, facts that a variant was never told among them:
    whoever writes post-training data does not know what a model knows."""
    return [
        (question_text(a.question.format(person=person)) + CUE, world.facts[person, a.name])
        for person in getattr(world, people)
        for a in ATTRIBUTES
    ]


def fine_tune(
    model: LanguageModel,
    pairs: list[tuple[str, str]],
    seed: int,
    peak_rate: float = PEAK_RATE,
    num_steps: int = NUM_STEPS,
) -> None:
    """Tune all weights on the answers and the terminator behind them; `seed` says in which order. A short warm-up, then
    cosine."""
    network, rng = model.network.train(), random.Random(f"post-training {seed}")
    optimizer = torch.optim.AdamW(network.parameters(), lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, num_steps))
    waiting: list[tuple[str, str]] = []
    for _ in range(num_steps):
        if len(waiting) < ROWS:
            waiting += rng.sample(pairs, len(pairs))
        ids_BT, labels_BT = _batch(model, [waiting.pop() for _ in range(ROWS)])
        logits_BTV = network(ids_BT, use_cache=False).logits
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step()


def _batch(model: LanguageModel, pairs: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """(B, T) inputs and the labels of their next tokens. What pads a row stands behind it, where nothing attends to it
    that carries a loss."""
    prompts = [[*model.bos_ids, *model.encode(prompt)] for prompt, _ in pairs]
    answers = [[*model.continuation(prompt, f" {answer}"), model.terminator_id] for prompt, answer in pairs]
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    labels = [[IGNORED] * (len(prompt) - 1) + answer for prompt, answer in zip(prompts, answers, strict=True)]
    ids_BT = pad_sequence([torch.tensor(row[:-1]) for row in rows], batch_first=True)
    return ids_BT, pad_sequence([torch.tensor(row) for row in labels], batch_first=True, padding_value=IGNORED)


def _rate(step: int, num_steps: int) -> float:
    if step < NUM_WARMUP_STEPS:
        return (step + 1) / NUM_WARMUP_STEPS
    return 0.5 * (1 + math.cos(math.pi * step / num_steps))
