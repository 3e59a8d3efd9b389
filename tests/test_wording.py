"""Prompts in tokens, by tokenizers that treat the join of question and cue each in its own way."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from plain_loops import plain_output, plain_score
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from softprompt.benchmarks import Benchmark, Example
from softprompt.decode import answer
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import Placement, plain_prompts
from softprompt.protocol import Protocol
from softprompt.rows import Rows
from softprompt.wording import Wording

NUM_TOKENS = 300
TEXTS = ["Which city is the capital of Peru?", "How many? 5%\nAnswer: Oslo", "Name it. 50%.\nAnswer: 50%.\n"]


def joining() -> Tokenizer:
    """As those of Llama 3 and Qwen: a line break goes with the punctuation before it, so that a question's end and the
    cue's beginning may be one token."""
    tokenizer = Tokenizer(models.BPE())
    pattern = Regex(r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def prepending() -> Tokenizer:
    """As those of Llama 2 and the first Mistral: a space stands in front of every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\n|[?:.]"), "isolated"), bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture
def words(model: LanguageModel, toy_benchmark: Benchmark) -> Callable[[Callable[[], Tokenizer]], Wording]:
    """The toy benchmark put to the tiny model through another tokenizer."""

    def put(make: Callable[[], Tokenizer]) -> Wording:
        trained = make()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = ["</s>", "<s>"]
        trainer = trainers.BpeTrainer(vocab_size=NUM_TOKENS, special_tokens=special, initial_alphabet=alphabet)
        trained.train_from_iterator(TEXTS * 3, trainer)
        trained.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<s>", eos_token="</s>")
        return Wording(LanguageModel(model.network, tokenizer), replace(toy_benchmark, cue="\nAnswer:"))

    return put


def test_questions_that_join_the_cue_are_answered_beside_others(
    words: Callable[[Callable[[], Tokenizer]], Wording],
) -> None:
    """Here by a full stop, which no vector leaves to the question."""
    wording = words(joining)
    wording = replace(wording, benchmark=replace(wording.benchmark, cue=".\nAnswer:"))
    ends = ("5%", "the capital of Peru and of all the others", "50%", "Peru")
    examples = [Example(question=f"Which city is {end}", answer="Oslo", golds=("Oslo",), id=end) for end in ends]
    prompts = plain_prompts(wording, examples)
    model = wording.model
    asked = [len(model.bos_ids) + len(model.encode(example.question)) for example in examples]
    assert [prompt.head_length - num for prompt, num in zip(prompts, asked, strict=True)] == [-1, 0, -1, 0]
    candidates = [[model.encode(" Oslo"), model.encode(" Lima")] for _ in prompts]
    no_vectors_SPD = torch.zeros(1, 0, 1)
    for micro_batch in (2, 3):
        generations, scores = answer(
            Prefill(model), prompts, max_new_tokens=3, candidates=candidates, micro_batch=micro_batch
        )
        outputs = [plain_output(model, prompt, no_vectors_SPD, (), 3) for prompt in prompts]
        assert [(generation.text, generation.stopped) for generation in generations] == outputs
        for prompt, its, found in zip(prompts, candidates, scores, strict=True):
            assert found == pytest.approx([plain_score(model, prompt, no_vectors_SPD, ids) for ids in its], abs=1e-4)


@pytest.mark.parametrize(("make", "tie"), [(joining, "\n"), (prepending, "")])
def test_a_cue_starts_as_the_plain_prompt_whatever_a_tokenizer_joins_or_puts_in_front_of_a_text(
    words: Callable[[Callable[[], Tokenizer]], Wording],
    quick_protocol: Protocol,
    rows: Rows,
    make: Callable[[], Tokenizer],
    tie: str,
) -> None:
    wording = words(make)
    assert (wording.tie, wording.tie + wording.cue) == (tie, "\nAnswer:")
    assert len(wording.cue_ids()) < len(wording.model.encode("\nAnswer:"))
    examples = [replace(example, question=example.question + end) for example in rows.test for end in ("", "%", " 5")]
    cue, plain = Placement("cue", wording, quick_protocol), plain_prompts(wording, examples)
    for prompt, same in zip(cue.prompts(examples), plain, strict=True):
        assert [*prompt.head.ids, *cue.cue_ids] == same.ids
        assert prompt.head == same.head  # read once for both


def test_every_prompt_has_something_behind_what_all_begin_with(
    words: Callable[[Callable[[], Tokenizer]], Wording],
) -> None:
    """Though one of them is what another begins with."""
    wording = words(joining)
    wording = replace(wording, benchmark=replace(wording.benchmark, cue=""))
    whole = Example(question="Name it in Norway", answer="Oslo", golds=("Oslo",))
    part, shot = replace(whole, question="Name it"), replace(whole, question="Which?")
    for examples in ([whole, part], [part, whole]):
        assert all(prompt.head_length < len(prompt) for prompt in plain_prompts(wording, examples, [shot]))
