"""Prompts with free vectors in them: where the vectors stand, and how they start.

Shapes: S seeds, P vectors, D width.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from softprompt.benchmarks import Example
from softprompt.errors import BadBenchmark, BadCheckpoint
from softprompt.models import LanguageModel
from softprompt.protocol import Protocol
from softprompt.wording import Wording

TOKEN = -1
"""Slot of a position that holds an ordinary token."""


@dataclass(frozen=True)
class Prompt:
    """Positions up to the answer: token ids, and for each position the number of the vector that stands there, or
    `TOKEN`. `seed` says which of the prompts tuned together the vectors come from. The first `head_length` positions
    are what other prompts begin with, too, so that reading them once pays. Where the gradient is truncated, the
    question behind the vectors in front ends before position `cue_start`; else that is 0."""

    ids: list[int]
    slots: list[int]
    seed: int = 0
    head_length: int = 0
    cue_start: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def head(self) -> "Prompt":
        return self.part(0, self.head_length)

    @property
    def tail(self) -> "Prompt":
        return self.part(self.head_length, len(self))

    def part(self, start: int, end: int) -> "Prompt":
        return Prompt(self.ids[start:end], self.slots[start:end], self.seed)

    @property
    def has_vectors(self) -> bool:
        return any(slot != TOKEN for slot in self.slots)


class TrainingRow(NamedTuple):
    """A prompt and the tokens of its answer."""

    prompt: Prompt
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


class Placement:
    """Where the vectors of a condition go.

    `prefix`, the paper's form: BOS, vectors, question, cue. `cue`, ours: BOS, question, and vectors instead of the cue,
    started from the cue's own tokens, so that at step 0 the prompt is the plain one. `both`: vectors in front and
    vectors instead of the cue.
    """

    def __init__(self, name: str, wording: Wording, protocol: Protocol) -> None:
        model, self.wording = wording.model, wording
        self.num_front = protocol.num_vectors if name in ("prefix", "both") else 0
        self.front_text = protocol.prefix_text
        self.cue_ids = wording.cue_ids(protocol.cue_text) if name in ("cue", "both") else []
        if name in ("cue", "both") and not self.cue_ids:
            raise BadBenchmark(
                f"Benchmark {wording.benchmark.name!r} has no cue that vectors could replace; set cue_text, or use the "
                "placement 'prefix'."
            )
        self.is_truncated = bool(self.num_front) and protocol.prefix_gradient == "truncated"
        if self.is_truncated and model.is_recurrent:
            raise BadCheckpoint(
                f"{model.network.name_or_path or 'This model'} keeps the past as a state, out of which a question "
                "cannot be cut; its protocol needs prefix_gradient = 'full'."
            )

    def prompts(self, examples: Sequence[Example], shots: Sequence[Example] = ()) -> list[Prompt]:
        """For the vectors of the first seed; see `of_seed`. Heads of `cue` are all that stands before its vectors, so
        that every seed and step can share them; with vectors in front, they are what all the prompts begin with."""
        prompts = [self.prompt(example, shots) for example in examples]
        return with_common_head(prompts) if self.num_front else prompts

    def prompt(self, example: Example, shots: Sequence[Example] = ()) -> Prompt:
        """`example` for the vectors of the first seed; vectors in front stand before the `shots`, too."""
        model, asked = self.wording.model, self.wording.ask(example, shots)
        text_ids = model.encode(asked.question if self.cue_ids else asked.prompt)
        bos, front, num_back = model.bos_ids, self.num_front, len(self.cue_ids)
        num_question = len(text_ids)
        if self.is_truncated and not self.cue_ids:
            num_question = num_common(text_ids, model.encode(asked.question))
        return Prompt(
            ids=[*bos, *[0] * front, *text_ids, *[0] * num_back],
            slots=[
                *[TOKEN] * len(bos),
                *range(front),
                *[TOKEN] * len(text_ids),
                *range(front, front + num_back),
            ],
            head_length=len(bos) + (front or len(text_ids)),
            cue_start=len(bos) + front + num_question if self.is_truncated else 0,
        )

    def initial_vectors(self, seeds: Sequence[int]) -> Tensor:
        """(S, P, D) float32. Vectors in front start as rows of the vocabulary drawn by seed, or as a text's tokens,
        never from N(0, 1), which is tens of times too large; vectors instead of the cue start as its tokens."""
        model = self.wording.model
        ids_SP = [[*self._front_ids(seed), *self.cue_ids] for seed in seeds]
        return model.embed(torch.tensor(ids_SP, device=model.device)).float()

    def _front_ids(self, seed: int) -> list[int]:
        model = self.wording.model
        if self.front_text:
            return list(itertools.islice(itertools.cycle(model.encode(self.front_text)), self.num_front))
        special = set(model.tokenizer.all_special_ids)
        ordinary = [i for i in range(model.num_tokens) if i not in special]
        return random.Random(f"vectors of seed {seed}").choices(ordinary, k=self.num_front)


def of_seed(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """The same for the vectors of the seed of that number."""
    return [replace(prompt, seed=seed) for prompt in prompts]


def random_vectors(vectors_SPD: Tensor, seeds: Sequence[int]) -> Tensor:
    """(S, P, D) directions drawn by seed, each as long as the vector whose place it takes.

    Not rows of the vocabulary: that is what vectors in front start from, and so another control, `untuned`.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    drawn_SPD = torch.stack([torch.randn(vectors_SPD.shape[1:], generator=generator) for generator in generators])
    unit_SPD = (drawn_SPD / drawn_SPD.norm(dim=-1, keepdim=True)).to(vectors_SPD)
    return unit_SPD * vectors_SPD.norm(dim=-1, keepdim=True)


def plain_prompt(model: LanguageModel, text: str) -> Prompt:
    ids = [*model.bos_ids, *model.encode(text)]
    return Prompt(ids=ids, slots=[TOKEN] * len(ids))


def plain_prompts(wording: Wording, examples: Sequence[Example], shots: Sequence[Example] = ()) -> list[Prompt]:
    """Prompts without vectors. Their heads are the question, as in `cue`, or the solved examples in front of it, as far
    as prompt and head agree token for token: a text's tokens depend on what follows it."""
    asked = [wording.ask(example, shots) for example in examples]
    prompts = [plain_prompt(wording.model, one.prompt) for one in asked]
    if shots:
        return with_common_head(prompts)
    heads = [plain_prompt(wording.model, one.question).ids for one in asked]
    pairs = zip(prompts, heads, strict=True)
    return [replace(prompt, head_length=num_common(prompt.ids, head)) for prompt, head in pairs]


def with_common_head(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with what all of them begin with as their heads; of a truncated one no more than the question."""
    firsts = [prompt.part(0, prompt.cue_start or len(prompt)) for prompt in prompts]
    positions = [list(zip(first.ids, first.slots, strict=True)) for first in firsts]
    head_length = min(num_common(other, positions[0]) for other in positions)
    return [replace(prompt, head_length=head_length) for prompt in prompts]


def num_common(first: Sequence[object], second: Sequence[object]) -> int:
    """Tokens that both begin with, short of the first's last one, so that something is left to follow."""
    pairs = zip(first[:-1], second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
