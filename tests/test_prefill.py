"""Reading a shared beginning once, keeping it or not, must change nothing."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from softprompt import prefill as prefill_module
from softprompt.benchmarks import Benchmark
from softprompt.meter import Meter
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import Placement, Prompt, of_seed, plain_prompts
from softprompt.protocol import Protocol
from softprompt.rows import Rows
from softprompt.wording import Wording

Prompts = list[Prompt]


@pytest.fixture(params=["zero_shot", "few_shot", "cue"])
def prompts(
    request: pytest.FixtureRequest, model: LanguageModel, toy_benchmark: Benchmark, rows: Rows, quick_protocol: Protocol
) -> tuple[Prompts, Tensor | None]:
    if request.param == "cue":
        cue = Placement("cue", Wording(model, toy_benchmark), quick_protocol)
        prompts = [replace(cue.prompt(e), seed=i % 2) for i, e in enumerate(rows.test)]
        return prompts, cue.initial_vectors(quick_protocol.seeds)
    shots = rows.train[:2] if request.param == "few_shot" else ()
    return plain_prompts(Wording(model, toy_benchmark), rows.test, shots), None


def logits(prefill: Prefill, prompts: Prompts, vectors_SPD: Tensor | None) -> Tensor:
    batch = prefill.batch(prompts, vectors_SPD)
    found, _ = prefill.model.forward(
        inputs_embeds=batch.embeds_BTD, mask_BT=batch.mask_BT, cache=batch.cache, num_logits=1
    )
    return found


def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Token positions of every forward pass from now on, padding included."""
    seen: list[int] = []
    forward: Callable[..., tuple[Tensor, object]] = LanguageModel.forward

    def counted(self: LanguageModel, **inputs: Tensor) -> tuple[Tensor, object]:
        tokens = inputs.get("input_ids", inputs.get("inputs_embeds"))
        assert tokens is not None
        seen.append(tokens.shape[0] * tokens.shape[1])
        return forward(self, **inputs)

    monkeypatch.setattr(LanguageModel, "forward", counted)
    return seen


def test_a_window_counts_no_padding_between_solved_examples_and_question(
    model: LanguageModel, toy_benchmark: Benchmark, rows: Rows, quick_protocol: Protocol
) -> None:
    """Where it might, prompts are read whole, and that is noted; behind `cue` all tails are of one length."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = MistralConfig(**shape, vocab_size=320, num_key_value_heads=2, sliding_window=40, initializer_range=0.3)
    windowed = LanguageModel(MistralForCausalLM(config).train(False).requires_grad_(False), model.tokenizer)
    few_shot = plain_prompts(Wording(windowed, toy_benchmark), rows.train[::3], rows.train[:2])
    assert min(map(len, few_shot)) > 40
    assert len({len(prompt) - prompt.head_length for prompt in few_shot}) > 1
    whole = [Prompt(prompt.ids, prompt.slots) for prompt in few_shot]
    prefill = Prefill(windowed)
    expected = torch.cat([logits(Prefill(windowed), [prompt], None) for prompt in whole])
    cue = Placement("cue", Wording(windowed, toy_benchmark), quick_protocol)
    logits(prefill, [cue.prompt(e) for e in rows.test], cue.initial_vectors((0,)))
    assert prefill.shares_all
    torch.testing.assert_close(logits(prefill, few_shot, None), expected, rtol=0, atol=1e-4)
    assert not prefill.shares_all


@pytest.mark.parametrize("max_bytes", [0, 20_000, None], ids=["keeps nothing", "keeps a few", "keeps all"])
def test_shared_beginnings_change_no_logits(
    model: LanguageModel, prompts: tuple[Prompts, Tensor | None], max_bytes: float | None
) -> None:
    own, vectors_SPD = prompts
    assert all(0 < prompt.head_length < len(prompt) for prompt in own)
    whole = [Prompt(prompt.ids, prompt.slots, prompt.seed) for prompt in own]
    expected = torch.cat([logits(Prefill(model), [prompt], vectors_SPD) for prompt in whole])
    prefill = Prefill(model, max_bytes)
    for _ in range(2):
        torch.testing.assert_close(logits(prefill, own, vectors_SPD), expected, rtol=0, atol=1e-4)
    assert prefill.num_bytes <= prefill.max_bytes


def test_questions_are_read_once_for_zero_shot_and_for_every_seed(
    model: LanguageModel,
    toy_benchmark: Benchmark,
    rows: Rows,
    quick_protocol: Protocol,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cue = Placement("cue", Wording(model, toy_benchmark), quick_protocol)
    seen, prefill = passes(monkeypatch), Prefill(model)
    logits(prefill, plain_prompts(Wording(model, toy_benchmark), rows.test), None)
    seen.clear()
    for seed in (0, 1):
        logits(prefill, of_seed(cue.prompts(rows.test), seed), cue.initial_vectors(quick_protocol.seeds))
    assert seen == [len(rows.test) * len(cue.cue_ids)] * 2


@pytest.mark.parametrize("num_shots", [0, 2])
def test_what_all_prompts_begin_with_is_read_once_a_batch_and_seed(
    model: LanguageModel,
    toy_benchmark: Benchmark,
    rows: Rows,
    quick_protocol: Protocol,
    monkeypatch: pytest.MonkeyPatch,
    num_shots: int,
) -> None:
    """The vectors in front, the solved examples behind them, and the first words of every question."""
    prefix = Placement("prefix", Wording(model, toy_benchmark), quick_protocol)
    prompts = [p for seed in (0, 1) for p in of_seed(prefix.prompts(rows.test, rows.train[:num_shots]), seed)]
    seen = passes(monkeypatch)
    logits(Prefill(model), prompts, prefix.initial_vectors(quick_protocol.seeds))
    said = [model.encode(toy_benchmark.prompt(example, rows.train[:num_shots])) for example in rows.test]
    alike = list(itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*said, strict=False)))
    head_length = len(model.bos_ids) + quick_protocol.num_vectors + len(alike)
    assert alike
    assert seen == [2 * head_length, len(prompts) * (max(map(len, prompts)) - head_length)]


def test_heads_of_like_length_are_read_together(
    model: LanguageModel, toy_benchmark: Benchmark, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = plain_prompts(Wording(model, toy_benchmark), rows.train)
    expected = logits(Prefill(model), prompts, None)
    monkeypatch.setitem(prefill_module.POSITIONS_OF_A_PASS, "cpu", 64)
    seen = passes(monkeypatch)
    torch.testing.assert_close(logits(Prefill(model), prompts, None), expected, rtol=0, atol=1e-4)
    beginning, *heads, _tails = seen
    needed = sum(prompt.head_length - beginning for prompt in prompts)
    assert max(heads) <= 64 and needed <= sum(heads) < 1.1 * needed
    assert len(prompts) * max(prompt.head_length - beginning for prompt in prompts) > 1.1 * needed


def test_what_heads_begin_with_is_read_once_and_kept(
    model: LanguageModel,
    toy_benchmark: Benchmark,
    rows: Rows,
    quick_protocol: Protocol,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Solved examples in front of every question that `cue` asks, or a chat's system prompt."""
    monkeypatch.setitem(prefill_module.POSITIONS_OF_A_PASS, "cpu", 64)
    cue = Placement("cue", Wording(model, toy_benchmark), quick_protocol)
    prompts = cue.prompts(rows.test, rows.train[:2])
    vectors_SPD = cue.initial_vectors(quick_protocol.seeds)
    wholes = [replace(prompt, head_length=0) for prompt in prompts]
    expected = logits(Prefill(model), wholes, vectors_SPD)
    examples = plain_prompts(Wording(model, toy_benchmark), rows.test, rows.train[:2])[0].head_length
    seen, prefill = passes(monkeypatch), Prefill(model)
    for half in (slice(0, 6), slice(6, 12)):
        torch.testing.assert_close(logits(prefill, prompts[half], vectors_SPD), expected[half], rtol=0, atol=1e-4)
    assert [num for num in seen if num >= examples] == [examples]


def test_the_output_layer_is_given_all_rows_in_one_block(
    model: LanguageModel, toy_benchmark: Benchmark, rows: Rows
) -> None:
    """Of rows that lie apart, torch makes one product each, and reads the whole vocabulary for every row."""
    given: list[Tensor] = []
    handle = model.network.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    logits(Prefill(model), plain_prompts(Wording(model, toy_benchmark), rows.test), None)
    handle.remove()
    assert given[-1].shape[:2] == (len(rows.test), 1) and given[-1].is_contiguous()


def test_solved_examples_are_read_once_for_all_questions(
    model: LanguageModel, toy_benchmark: Benchmark, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_shot = plain_prompts(Wording(model, toy_benchmark), rows.test, rows.train[:2])
    seen = passes(monkeypatch)
    logits(Prefill(model), few_shot, None)
    (head_length,) = {prompt.head_length for prompt in few_shot}
    assert seen == [head_length, len(few_shot) * (max(map(len, few_shot)) - head_length)]
    assert head_length > 0.6 * max(map(len, few_shot))


def test_a_gpu_reads_ahead_until_it_has_enough_to_do(
    model: LanguageModel,
    toy_benchmark: Benchmark,
    quick_protocol: Protocol,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CPU stands in for it."""
    prompts = Placement("cue", Wording(model, toy_benchmark), quick_protocol).prompts(rows.train)
    first, later = prompts[:2], prompts[2:]
    most = sum(prompt.head_length for prompt in prompts[:10])
    monkeypatch.setattr(prefill_module, "POSITIONS_AHEAD", {"cpu": most})
    meter = Meter()
    prefill = Prefill(model, meter=meter)
    prefill.read_ahead([], later)  # in a process without a row of the step
    prefill.read_ahead(first, later)
    assert meter.cost(model).phases["other"].tokens == most
    prefill.read_ahead(prompts[8:10], prompts[10:])
    assert meter.cost(model).phases["other"].tokens == most
    prefill.read_ahead(prompts[9:11], prompts[11:])
    assert most < meter.cost(model).phases["other"].tokens <= 2 * most
