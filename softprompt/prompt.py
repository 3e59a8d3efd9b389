"""Prompts with free vectors in them: where the vectors stand, how they start, how a batch of them is embedded.

Shapes: S seeds, P vectors, D width, B rows, T positions.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.benchmarks import Benchmark, Example
from softprompt.errors import BadBenchmark
from softprompt.models import LanguageModel
from softprompt.protocol import Protocol

TOKEN = -1
"""Slot of a position that holds an ordinary token."""


@dataclass(frozen=True)
class Prompt:
    """Positions up to the answer: token ids, and for each position the number of the vector that stands there, or
    `TOKEN`. `seed` says which of the prompts tuned together the vectors come from."""

    ids: list[int]
    slots: list[int]
    seed: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class Placement:
    """Where the vectors of a condition go.

    `prefix`, the paper's form: BOS, vectors, question, cue. `cue`, ours: BOS, question, and vectors instead of the cue,
    started from the cue's own tokens, so that at step 0 the prompt is the plain one. `both`: vectors in front and
    vectors instead of the cue.
    """

    def __init__(self, name: str, model: LanguageModel, benchmark: Benchmark, protocol: Protocol) -> None:
        self.model, self.benchmark = model, benchmark
        self.num_front = protocol.num_vectors if name in ("prefix", "both") else 0
        self.front_text = protocol.prefix_text
        self.cue_ids = model.encode(protocol.cue_text or benchmark.cue) if name in ("cue", "both") else []
        if name in ("cue", "both") and not self.cue_ids:
            raise BadBenchmark(
                f"Benchmark {benchmark.name!r} has no cue that vectors could replace; set cue_text, or use the "
                "placement 'prefix'."
            )

    def prompt(self, example: Example, seed: int) -> Prompt:
        if self.cue_ids:
            text_ids = self.model.encode(self.benchmark.question(example))
        else:
            text_ids = self.model.encode(self.benchmark.prompt(example))
        bos, front, num_back = self.model.bos_ids, self.num_front, len(self.cue_ids)
        return Prompt(
            ids=[*bos, *[0] * front, *text_ids, *[0] * num_back],
            slots=[
                *[TOKEN] * len(bos),
                *range(front),
                *[TOKEN] * len(text_ids),
                *range(front, front + num_back),
            ],
            seed=seed,
        )

    def initial_vectors(self, seeds: Sequence[int]) -> Tensor:
        """(S, P, D) float32. Vectors in front start as rows of the vocabulary drawn by seed, or as a text's tokens,
        never from N(0, 1), which is tens of times too large; vectors instead of the cue start as its tokens."""
        ids_SP = [[*self._front_ids(seed), *self.cue_ids] for seed in seeds]
        return self.model.embed(torch.tensor(ids_SP, device=self.model.device)).float()

    def _front_ids(self, seed: int) -> list[int]:
        if self.front_text:
            return list(itertools.islice(itertools.cycle(self.model.encode(self.front_text)), self.num_front))
        special = set(self.model.tokenizer.all_special_ids)
        ordinary = [i for i in range(len(self.model.tokenizer)) if i not in special]
        return random.Random(f"vectors of seed {seed}").choices(ordinary, k=self.num_front)


def plain_prompt(model: LanguageModel, text: str) -> Prompt:
    ids = [*model.bos_ids, *model.encode(text)]
    return Prompt(ids=ids, slots=[TOKEN] * len(ids))


def embed_prompts(
    model: LanguageModel, prompts: Sequence[Prompt], vectors_SPD: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    """Left-pad prompts to one length, so that their answers start together, and embed them.

    Returns:
        (B, T, D) embeddings, (B, T) mask with 0 at padding, and the first column that holds a vector (T if none does).
    """
    length = max(map(len, prompts))
    ids_BT = torch.tensor([[0] * (length - len(p)) + p.ids for p in prompts], device=model.device)
    mask_BT = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    embeds_BTD = model.embed(ids_BT)
    if vectors_SPD is None:
        return embeds_BTD, mask_BT, length
    slots_BT = torch.tensor([[TOKEN] * (length - len(p)) + p.slots for p in prompts], device=model.device)
    seeds_B1 = torch.tensor([[p.seed] for p in prompts], device=model.device)
    chosen_BTD = vectors_SPD[seeds_B1, slots_BT.clamp(min=0)].to(embeds_BTD.dtype)
    is_vector_BT = slots_BT != TOKEN
    first = int(is_vector_BT.any(0).int().argmax())
    return torch.where(is_vector_BT[..., None], chosen_BTD, embeds_BTD), mask_BT, first
