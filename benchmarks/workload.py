"""What every contender is given: the same network, tokenizer, rows and prompts.

A model is a folder in the Hugging Face layout, or the name of a shape in `SHAPES`: random weights, on which a pass
costs what it costs on trained ones.
"""

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from softprompt import benchmarks
from softprompt.benchmarks import Benchmark, Example, Row
from softprompt.models import LanguageModel
from softprompt.options import Choice, Choices
from softprompt.rows import Rows, load_rows
from softprompt.world.corpus import vocabulary_text
from softprompt.world.facts import World
from softprompt.world.pretrain import learn_tokenizer

SMOLLM2 = {
    **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9},
    **{"num_key_value_heads": 3, "tie_word_embeddings": True},
}
SHAPES: dict[str, dict[str, Any]] = {
    "world": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4},
    "135m": {**SMOLLM2, "vocab_size": 49_152},
    "135m-262k": {**SMOLLM2, "vocab_size": 262_144},
    "1b": {  # Llama 3.2 1B
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": True},
    },
    "7b": {  # Llama 2 7B
        **{"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"vocab_size": 32_000},
    },
}
SYNTHETIC = "synthetic"
"""Questions in a made-up vocabulary, for machines that have no data sets."""
NUM_WORDS = (5, 20)
"""Fewest and most in a synthetic question."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The rows of `benchmark`, asked by letter, and of its twin `<benchmark>_words`."""

    model: str
    benchmark: str = "arc_easy"
    mirror: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    num_threads: int | None = None
    num_steps: int = 8
    """Of the tuning; each has `batch_size` new rows."""
    peers_steps: int | None = None
    """Of PEFT, whose steps are all alike, where it need not take as many."""
    batch_size: int = 8
    num_items: int = 96
    """To be answered."""
    num_shots: int = 5
    peers_batch: int = 32
    """Rows of a pass of lm-evaluation-harness, which pads them to the longest; ours finds its own."""

    @property
    def by_letter(self) -> Benchmark:
        return SYNTHETIC_CHOICES.by_letter(SYNTHETIC) if self.is_synthetic else benchmarks.get(self.benchmark)

    @property
    def in_words(self) -> Benchmark:
        return SYNTHETIC_CHOICES.in_words(SYNTHETIC) if self.is_synthetic else benchmarks.get(f"{self.benchmark}_words")

    @property
    def is_synthetic(self) -> bool:
        return self.benchmark == SYNTHETIC

    def train(self, benchmark: Benchmark) -> list[Example]:
        rows = list(self._rows(benchmark).train)
        random.Random(0).shuffle(rows)
        return rows[: self.num_steps * self.batch_size]

    def test(self, benchmark: Benchmark) -> list[Example]:
        return list(self._rows(benchmark).test[: self.num_items])

    def _rows(self, benchmark: Benchmark) -> Rows:
        return synthetic_rows(benchmark) if self.is_synthetic else load_rows(benchmark, self.mirror)

    @cached_property
    def language_model(self) -> LanguageModel:
        if self.num_threads:
            torch.set_num_threads(self.num_threads)
        dtype = getattr(torch, self.dtype)
        if self.model in SHAPES:
            torch.manual_seed(0)
            tokenizer = learn_tokenizer(World(0))
            shape = {"vocab_size": len(tokenizer), **SHAPES[self.model]}
            special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
            with torch.device(self.device):
                network = AutoModelForCausalLM.from_config(LlamaConfig(**shape, **special), dtype=dtype)
        else:
            network = AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(self.model)
        network = network.to(self.device).eval().requires_grad_(False)
        for weight in network.parameters():
            weight.sum()  # fetched from the file now; else it counts as memory of whoever uses it first
        return LanguageModel(network, tokenizer)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def to_choice(row: Row) -> Choice:
    return Choice(
        id=row["id"], question=f"Question: {row['question']}?", options=tuple(row["options"]), gold=row["gold"]
    )


SYNTHETIC_CHOICES = Choices(path=SYNTHETIC, chance=0.25, to_choice=to_choice, max_new_tokens=16)


def synthetic_rows(benchmark: Benchmark) -> Rows:
    words = sorted(set(" ".join(vocabulary_text(World(0))).split()))
    rng = random.Random("synthetic questions")
    examples = []
    for number in range(2000):
        question = " ".join(rng.choices(words, k=rng.randint(*NUM_WORDS)))
        options = [" ".join(rng.choices(words, k=rng.randint(1, 5))) for _ in range(4)]
        example = benchmark.to_example(
            {"id": str(number), "question": question, "options": options, "gold": rng.randrange(4)}
        )
        assert example is not None
        examples.append(example)
    return Rows(train=tuple(examples[:1000]), test=tuple(examples[1000:]))
