"""Pre-train variants side by side, writing Hugging Face checkpoints into a bucket while they train.

Shapes: B rows, T positions.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from softprompt.errors import BadStudy
from softprompt.models import LanguageModel
from softprompt.world.checkpoint import place, write_checkpoint
from softprompt.world.corpus import Recipe, documents, vocabulary_text
from softprompt.world.facts import World

BOS, EOS = "<s>", "</s>"
NUM_LAYERS = 2
VOCABULARY = 1200
ROWS, POSITIONS = 16, 64
STEPS_A_TURN = 10
PEAK_RATE, NUM_WARMUP_STEPS, DECAY_SHARE = 4e-3, 20, 0.3
"""The rate rises, stays, and falls to 0 over the last share of the steps. Under a cosine, runs that come late to look a
person up find the rate gone before they have learned the facts (docs/knowledge-world.md)."""


@dataclass(frozen=True)
class Schedule:
    """How long variants train, and when they are saved."""

    num_steps: int = 800
    save_every: int = 200

    def __post_init__(self) -> None:
        if self.save_every % STEPS_A_TURN or self.num_steps % self.save_every:
            raise BadStudy(
                f"save_every is {self.save_every}, num_steps {self.num_steps}; expected save_every to be a multiple of "
                f"{STEPS_A_TURN} and num_steps a multiple of save_every."
            )

    @property
    def saved_steps(self) -> range:
        return range(self.save_every, self.num_steps + 1, self.save_every)


def learn_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """A byte-level BPE that all variants of a world share."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(vocabulary_text(world), trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=EOS)


class Variant:
    """One variant in training: a Llama-shaped model of about 0.5M parameters on its recipe's corpus."""

    def __init__(self, world: World, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, schedule: Schedule) -> None:
        self.world, self.recipe, self.tokenizer, self.schedule = world, recipe, tokenizer, schedule
        self.step = 0
        torch.manual_seed(random.Random(f"weights {world.seed} {recipe.origin}").getrandbits(31))
        self.network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=recipe.width,
                intermediate_size=recipe.width * 11 // 4,
                num_hidden_layers=NUM_LAYERS,
                num_attention_heads=4,
                max_position_embeddings=256,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=None,
            )
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.tokens = self._tokens()

    def train(self, num_steps: int) -> float:
        """Take `num_steps` steps; returns the last loss in nats a token."""
        loss = torch.tensor(math.nan)
        self.network.train()
        for _ in range(num_steps):
            ids_BT = self._batch()
            logits = self.network(ids_BT[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), ids_BT[:, 1:].flatten())
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.scheduler.step()
            self.step += 1
        return loss.item()

    def save(self, bucket: Path) -> Path:
        """Write the checkpoint into `<bucket>/<variant>/step-<step>`, with the step and the tokens seen."""
        metadata = {"variant": self.recipe.name, "step": self.step, "tokens": self.step * ROWS * POSITIONS}
        folder = place(bucket, self.recipe.name, self.step)
        return write_checkpoint(LanguageModel(self.network, self.tokenizer), self.world, folder, metadata)

    def _rate(self, step: int) -> float:
        if step < NUM_WARMUP_STEPS:
            return (step + 1) / NUM_WARMUP_STEPS
        num_left = self.schedule.num_steps - step
        return min(1.0, num_left / (DECAY_SHARE * self.schedule.num_steps))

    def _tokens(self) -> Iterator[int]:
        texts = documents(self.world, self.recipe)
        while True:
            for ids in self.tokenizer(list(itertools.islice(texts, 200))).input_ids:
                yield from ids
                yield self.tokenizer.eos_token_id

    def _batch(self) -> Tensor:
        num = ROWS * (POSITIONS + 1)
        return torch.tensor([next(self.tokens) for _ in range(num)]).view(ROWS, POSITIONS + 1)


def pretrain(
    world: World,
    recipes: Sequence[Recipe],
    schedule: Schedule,
    bucket: Path,
    on_step: Callable[[str, int, float], None] = lambda _variant, _step, _loss: None,
) -> None:
    """Train all variants in turns, so that their checkpoints of a step appear together. A bucket that already holds
    every checkpoint is left as it is; one that was cut off is made again from the start, to the same bits."""
    wanted = [place(bucket, recipe.name, step) for recipe in recipes for step in schedule.saved_steps]
    if all(path.exists() for path in wanted):
        return
    tokenizer = learn_tokenizer(world)
    variants = [Variant(world, recipe, tokenizer, schedule) for recipe in recipes]
    for _ in schedule.saved_steps:
        for variant in variants:
            for _ in range(schedule.save_every // STEPS_A_TURN):
                loss = variant.train(STEPS_A_TURN)
                on_step(variant.recipe.name, variant.step, loss)
            variant.save(bucket)
