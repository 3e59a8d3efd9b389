"""Decoding and scoring against plain loops: what is batched, cached, padded and shared must change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_loops import (
    as_tokens,
    gradients,
    mixed_prompts,
    plain_output,
    plain_score,
)
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from softprompt.benchmarks import Benchmark
from softprompt.decode import answer
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import Placement, TrainingRow
from softprompt.protocol import PLACEMENTS, Protocol
from softprompt.rows import Rows
from softprompt.wording import Wording


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_batched_greedy_decoding_equals_a_plain_loop_without_a_cache(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.train, placement)
    stop = ("\n", "s", "is", "y", "try")  # of two in one token, the first counts

    expected = [plain_output(model, prompt, vectors_SPD, stop, 12) for prompt in prompts]
    for micro_batch in (7, 100):
        found, _ = answer(Prefill(model), prompts, vectors_SPD, stop=stop, max_new_tokens=12, micro_batch=micro_batch)
        assert [(generation.text, generation.stopped) for generation in found] == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_likelihoods_of_candidates_equal_those_of_full_forward_passes(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.test, placement)
    candidates = [
        [model.encode("a"), *(model.encode(f" {option}") for option in example.options[: i % 4])]
        for i, example in enumerate(rows.test)
    ]
    assert {len(ids) for found in candidates for ids in found} > {1, 2, 3}
    _, scores = answer(Prefill(model), prompts, vectors_SPD, max_new_tokens=1, candidates=candidates, micro_batch=5)
    for prompt, options, found in zip(prompts, candidates, scores, strict=True):
        for ids, score in zip(options, found, strict=True):
            assert score == pytest.approx(plain_score(model, prompt, vectors_SPD, ids), abs=1e-4)


def test_positions_are_counted_from_the_first_token_behind_the_padding(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows
) -> None:
    """A model with learned positions notices what one with rotary positions forgives."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(model.tokenizer), n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    gpt = LanguageModel(GPT2LMHeadModel(config).train(False).requires_grad_(False), model.tokenizer)
    prompts, vectors_SPD = mixed_prompts(gpt, toy_benchmark, quick_protocol, rows.test, "prefix")
    candidates = [[gpt.encode(f" {option}") for option in example.options] for example in rows.test]
    options = {"max_new_tokens": 6, "candidates": candidates}
    alone, alone_scores = answer(Prefill(gpt), prompts, vectors_SPD, micro_batch=1, **options)
    together, scores = answer(Prefill(gpt), prompts, vectors_SPD, micro_batch=64, **options)
    assert together == alone
    np.testing.assert_allclose(scores, alone_scores, atol=1e-4)
    assert len(set(together)) > 1


def test_padding_behind_a_short_answer_needs_no_place_in_the_context(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows
) -> None:
    """A long prompt with a short answer beside a short prompt with a long one, in a model with learned positions."""
    texts = [("Name the capital of Norway. " * 6, " Oslo"), ("Cities:", " Oslo Lima Cairo Quito Delhi Tunis")]
    examples = [replace(rows.train[0], question=question) for question, _ in texts]
    answers = [model.encode(text) for _, text in texts]
    prompts = Placement("cue", Wording(model, toy_benchmark), quick_protocol).prompts(examples)
    first, second = (len(prompt) + len(ids) for prompt, ids in zip(prompts, answers, strict=True))
    shape = {"vocab_size": len(model.tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 4}
    gpt = GPT2LMHeadModel(GPT2Config(**shape, n_positions=max(first, second))).train(False).requires_grad_(False)
    tight = LanguageModel(gpt, model.tokenizer)
    where = Placement("cue", Wording(tight, toy_benchmark), quick_protocol)
    batch = [TrainingRow(*row) for row in zip(prompts, answers, strict=True)]
    options = {"max_new_tokens": 1, "candidates": [[ids] for ids in answers]}

    def found(micro_batch: int) -> list[Tensor]:
        _, scores = answer(Prefill(tight), prompts, where.initial_vectors((0,)), micro_batch=micro_batch, **options)
        one_seed = replace(quick_protocol, seeds=(0,))
        return [torch.tensor(scores), *gradients(tight, where, batch, one_seed, micro_batch=micro_batch)]

    torch.testing.assert_close(found(2), found(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_vectors_that_are_rows_of_the_vocabulary_act_as_their_tokens(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    """The initial vectors are such rows: BOS, drawn tokens if any, question, cue."""
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.test, placement)
    plain_prompts = as_tokens(model, prompts, vectors_SPD)
    for example, prompt in zip(rows.test, plain_prompts, strict=True):
        text = model.tokenizer.decode(prompt.ids)
        assert text.startswith("<s>")
        assert text.endswith(toy_benchmark.prompt(example))
    candidates = [[model.encode(f" {option}") for option in example.options] for example in rows.test]
    soft, soft_scores = answer(
        Prefill(model), prompts, vectors_SPD, max_new_tokens=8, candidates=candidates, micro_batch=64
    )
    hard, hard_scores = answer(Prefill(model), plain_prompts, max_new_tokens=8, candidates=candidates, micro_batch=64)
    assert soft == hard
    np.testing.assert_allclose(soft_scores, hard_scores, atol=1e-4)
