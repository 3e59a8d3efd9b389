"""Every architecture against plain loops: tiny models with random weights, on the tiny checkpoint's tokenizer.

What the families differ in: where positions come from (rotary, learned, ALiBi, none), sliding windows, scaled
embeddings, experts, narrow embeddings, a state instead of keys and values.
"""

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from plain_loops import (
    as_tokens,
    gradients,
    mixed_prompts,
    plain_gradients,
    plain_output,
    plain_score,
    training_rows,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from softprompt import fitness, output_layer
from softprompt.benchmarks import Benchmark
from softprompt.checkpoints import Checkpoint, open_checkpoint
from softprompt.decode import answer
from softprompt.errors import BadCheckpoint
from softprompt.evaluation import evaluate
from softprompt.fewer_kernels import FewerKernels
from softprompt.likelihoods import takes_masks
from softprompt.loading import load_model
from softprompt.models import LanguageModel
from softprompt.packing import packing_rows, packs
from softprompt.prefill import POSITIONS_OF_A_PASS, Prefill
from softprompt.prompt import Placement, plain_prompts
from softprompt.protocol import Protocol, Resources
from softprompt.rows import Rows
from softprompt.wording import Wording

NARROW: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE = {**NARROW, "intermediate_size": 48, "num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
"""A window shorter than every prompt."""
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": lambda **c: transformers.LlamaConfig(**SHAPE, **c),
    "mistral": lambda **c: transformers.MistralConfig(**SHAPE, sliding_window=16, **c),
    "qwen2": lambda **c: transformers.Qwen2Config(**SHAPE, **c),
    "qwen3": lambda **c: transformers.Qwen3Config(**SHAPE, head_dim=8, **c),
    "gemma": lambda **c: transformers.GemmaConfig(**SHAPE, head_dim=8, **c),
    "gemma2": lambda **c: transformers.Gemma2Config(**SHAPE, **SLIDING, head_dim=8, **c),
    "gemma3": lambda **c: transformers.Gemma3TextConfig(**SHAPE, **SLIDING, head_dim=8, **c),
    "olmo2": lambda **c: transformers.Olmo2Config(**SHAPE, **c),
    "olmo3": lambda **c: transformers.Olmo3Config(**SHAPE, **SLIDING, **c),
    "phi3": lambda **c: transformers.Phi3Config(**SHAPE, **c),
    "cohere": lambda **c: transformers.CohereConfig(**SHAPE, **c),
    "gpt2": lambda **c: transformers.GPT2Config(**GPT, **c),
    "gptj": lambda **c: transformers.GPTJConfig(**GPT, rotary_dim=4, **c),
    "gpt_neo": lambda **c: transformers.GPTNeoConfig(
        **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
        **{"window_size": 8},
        **c,
    ),
    "gpt_neox": lambda **c: transformers.GPTNeoXConfig(**NARROW, intermediate_size=48, **c),
    "opt": lambda **c: transformers.OPTConfig(**NARROW, ffn_dim=48, word_embed_proj_dim=16, **c),  # as OPT-350M
    "falcon": lambda **c: transformers.FalconConfig(**NARROW, **c),
    "falcon_alibi": lambda **c: transformers.FalconConfig(**NARROW, alibi=True, **c),
    "bloom": lambda **c: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **c),
    "mpt": lambda **c: transformers.MptConfig(d_model=32, n_layers=2, n_heads=4, **c),
    "mixtral": lambda **c: transformers.MixtralConfig(**SHAPE, num_local_experts=4, **c),
    "gpt_oss": lambda **c: transformers.GptOssConfig(**SHAPE, **SLIDING, head_dim=8, num_local_experts=4, **c),
    "deepseek_v3": lambda **c: transformers.DeepseekV3Config(
        **{**SHAPE, **EXPERTS, "num_key_value_heads": 4},
        **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
        **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8},
        **c,
    ),
    "mamba": lambda **c: transformers.MambaConfig(hidden_size=32, state_size=8, num_hidden_layers=2, **c),
    "mamba2": lambda **c: transformers.Mamba2Config(
        hidden_size=32, state_size=8, num_hidden_layers=2, num_heads=8, head_dim=8, n_groups=1, **c
    ),
    "jamba": lambda **c: transformers.JambaConfig(
        **SHAPE, attn_layer_offset=1, attn_layer_period=2, num_experts=2, **c
    ),
    "qwen3_next": lambda **c: transformers.Qwen3NextConfig(
        **{**SHAPE, **LINEAR, **EXPERTS, "head_dim": 8, "num_experts": 4, "shared_expert_intermediate_size": 16},
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
        **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
        **c,
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> LanguageModel:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = CONFIGS[request.param](vocab_size=len(tokenizer), initializer_range=0.3, **special)
    network = transformers.AutoModelForCausalLM.from_config(config)
    return LanguageModel(network.eval().requires_grad_(False), tokenizer)


@pytest.fixture(autouse=True)
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few short questions make several passes, and reading once what they begin with pays."""
    monkeypatch.setitem(POSITIONS_OF_A_PASS, "cpu", 32)


@pytest.fixture(scope="module", autouse=True)
def small_output_layers() -> Iterator[None]:
    """So that they, too, are read once for cross-entropies and gradients."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_layer, "MIN_BYTES", 0)
        yield


PLACEMENTS = pytest.mark.parametrize("placement", ["cue", "prefix"])


@PLACEMENTS
def test_together_or_alone_prompts_get_the_same_outputs_and_scores(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.train[::4], placement)
    texts = [("a", f" {example.answer}", " the rest", " Rome") for example in rows.train[::4]]
    candidates = [[model.encode(text) for text in its] for its in texts]
    assert {len(ids) for found in candidates for ids in found} == {1, 3, 5}
    generations, scores = answer(
        Prefill(model), prompts, vectors_SPD, stop=("\n", "e"), max_new_tokens=6, candidates=candidates, micro_batch=8
    )
    outputs = [plain_output(model, prompt, vectors_SPD, ("\n", "e"), 6) for prompt in prompts]
    assert [(generation.text, generation.stopped) for generation in generations] == outputs
    expected = [
        [plain_score(model, p, vectors_SPD, ids) for ids in own] for p, own in zip(prompts, candidates, strict=True)
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_candidates_share_a_row_unless_distances_are_counted_in_columns_or_a_state_holds_the_past(
    model: LanguageModel,
) -> None:
    uses_alibi = getattr(model.network.config, "alibi", False) or model.network.config.model_type in ("bloom", "mpt")
    assert takes_masks(model) == (not uses_alibi and not model.is_recurrent)


def test_rows_are_packed_wherever_a_network_looks_its_attention_up(model: LanguageModel) -> None:
    """Falcon's attention is code of its own; others with a name for theirs have a state as well."""
    is_named = model.attention == "sdpa" and model.network.config.model_type != "falcon"
    assert packs(model) == (is_named and not model.is_recurrent)


BOTH = {"llama", "mistral", "qwen2", "qwen3", "olmo2", "olmo3", "phi3", "mixtral", "deepseek_v3", "jamba"}
NORMS_ALONE = {"gpt_oss", "mamba", "mamba2"}
ROTATIONS_ALONE = {"gemma", "gemma2", "gemma3_text", "gpt_neox", "falcon", "qwen3_next"}
"""Whose norms multiply by 1 + weight, or take the mean away."""


def test_norms_and_rotations_take_fewer_kernels_where_they_are_the_usual_ones(model: LanguageModel) -> None:
    kind, kernels = model.network.config.model_type, FewerKernels(model.network)
    assert bool(kernels.norms) == (kind in BOTH | NORMS_ALONE)
    assert bool(kernels.rotations) == (kind in BOTH | ROTATIONS_ALONE)


def test_output_layers_are_read_once_where_they_are_only_a_product(model: LanguageModel) -> None:
    """Gemma 2 caps its logits, GPT-J adds a bias."""
    assert model.output_layer.is_on == (model.network.config.model_type not in ("gemma2", "gptj"))


def test_prompts_that_share_solved_examples_get_the_same_outputs_and_scores_as_alone(
    model: LanguageModel, toy_benchmark: Benchmark, rows: Rows
) -> None:
    """Questions of different lengths behind the same examples: padding stands between the two, and must not count."""
    prompts = plain_prompts(Wording(model, toy_benchmark), rows.train[::5], rows.test[:2])
    assert len({len(prompt) for prompt in prompts}) > 3
    candidates = [[model.encode(f" {example.answer}")] for example in rows.train[::5]]
    generations, scores = answer(Prefill(model), prompts, max_new_tokens=3, candidates=candidates, micro_batch=8)
    no_vectors = torch.empty(0)
    outputs = [plain_output(model, prompt, no_vectors, (), 3) for prompt in prompts]
    assert [(generation.text, generation.stopped) for generation in generations] == outputs
    expected = [[plain_score(model, p, no_vectors, ids[0])] for p, ids in zip(prompts, candidates, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-3)


@PLACEMENTS
def test_vectors_that_are_embedded_tokens_act_as_those_tokens(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    """Whatever the network does to its embeddings: scale, project, add positions."""
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.train[::4], placement)
    for soft, hard in zip(prompts, as_tokens(model, prompts, vectors_SPD), strict=True):
        batch = Prefill(model).batch([soft], vectors_SPD)
        logits_B1V, _ = model.forward(
            inputs_embeds=batch.embeds_BTD, mask_BT=batch.mask_BT, cache=batch.cache, num_logits=1
        )
        expected_BTV = model.network(input_ids=torch.tensor([hard.ids]), use_cache=False).logits
        torch.testing.assert_close(logits_B1V[:, -1], expected_BTV[:, -1], rtol=1e-4, atol=1e-4)


@PLACEMENTS
def test_gradients_equal_those_of_a_plain_loop(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    """As passes are launched one by one, and as they are recorded."""
    where = Placement(placement, Wording(model, toy_benchmark), quick_protocol)
    batch = training_rows(where, rows.train[::7], seeds=(0, 1))
    assert len({len(prompt) for prompt, _ in batch}) > 1
    expected_SPD, expected_S = plain_gradients(model, where, batch, quick_protocol)
    assert expected_SPD.abs().max() > 1e-4
    for way in (nullcontext(), FewerKernels(model.network)()):
        with way:
            found_SPD, losses_S = gradients(model, where, batch, quick_protocol)
        torch.testing.assert_close(losses_S, expected_S, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found_SPD, expected_SPD, rtol=1e-3, atol=1e-5)


UNRECORDABLE = {"deepseek_v3", "falcon", "gpt_neo", "gpt_oss", "mixtral"}
"""Networks that look at a value: which experts were chosen, or what a mask holds."""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@PLACEMENTS
def test_a_gpu_finds_the_same_outputs_and_gradients(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    """Of passes that are met, recorded and replayed, where they can be recorded; run, where not."""
    network = AutoModelForCausalLM.from_config(model.network.config)
    network.load_state_dict(model.network.state_dict())
    there = LanguageModel(network.to("cuda").eval().requires_grad_(False), model.tokenizer)
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.train[::4], placement)
    generations, _ = answer(Prefill(there), prompts, vectors_SPD.to("cuda"), max_new_tokens=6, micro_batch=8)
    outputs = [plain_output(model, prompt, vectors_SPD, (), 6) for prompt in prompts]
    assert [(generation.text, generation.stopped) for generation in generations] == outputs
    prefill = Prefill(there)
    here, place = (Placement(placement, Wording(one, toy_benchmark), quick_protocol) for one in (model, there))
    for first in (0, 1, 0, 1):
        batch, same = (training_rows(where, rows.train[first::7], seeds=(0, 1)) for where in (here, place))
        expected_SPD, expected_S = plain_gradients(model, here, batch, quick_protocol)
        found_SPD, found_S = gradients(there, place, same, quick_protocol, prefill=prefill)
        torch.testing.assert_close(found_S.cpu(), expected_S, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found_SPD.cpu(), expected_SPD, rtol=1e-2, atol=1e-4)
    with packing_rows(there, batch) as are_packed:
        is_asked = are_packed if placement == "prefix" else not model.is_recurrent
    assert bool(prefill.graphs.num_recorded) == (is_asked and model.network.config.model_type not in UNRECORDABLE)


def test_truncated_gradients_equal_those_of_a_plain_loop_that_detaches_the_question(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows
) -> None:
    """Of a state that took in the question nothing can be cut: such models are refused."""
    quick_protocol = replace(quick_protocol, unknown_share=0.0)  # under the bound a random model's gradients are small
    truncated = replace(quick_protocol, prefix_gradient="truncated")
    if model.is_recurrent:
        with pytest.raises(BadCheckpoint, match=r"keeps the past as a state, .* needs prefix_gradient = 'full'"):
            Placement("prefix", Wording(model, toy_benchmark), truncated)
        return
    where = Placement("prefix", Wording(model, toy_benchmark), truncated)
    batch = training_rows(where, rows.train[::7], seeds=(1, 0))
    found_SPD, losses_S = gradients(model, where, batch, truncated)
    expected_SPD, expected_S = plain_gradients(model, where, batch, truncated)
    torch.testing.assert_close(losses_S, expected_S, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_SPD, expected_SPD, rtol=1e-3, atol=1e-5)
    untruncated = Placement("prefix", Wording(model, toy_benchmark), quick_protocol)
    whole = training_rows(untruncated, rows.train[::7], (1, 0))
    full_SPD, full_S = gradients(model, where, whole, quick_protocol)
    torch.testing.assert_close(losses_S, full_S, rtol=1e-4, atol=1e-4)
    assert (found_SPD - full_SPD).abs().max() > 0.1 * full_SPD.abs().max()


# Networks that cannot be evaluated


def saved(config: PreTrainedConfig, tiny_checkpoint: Path, folder: Path) -> Checkpoint:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    return open_checkpoint(folder)


def test_a_network_that_keeps_no_cache_is_refused_as_it_is_loaded(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = transformers.OpenAIGPTConfig(**GPT, vocab_size=320, eos_token_id=0)
    checkpoint = saved(config, tiny_checkpoint, tmp_path / "A" / "step-1")
    with pytest.raises(BadCheckpoint, match=r"OpenAIGPTLMHeadModel, cannot be evaluated here \(KeyError: .*\); docs/"):
        load_model(checkpoint, Resources(device="cpu"))


def test_a_network_that_takes_padding_for_text_is_refused_as_it_is_loaded(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved(transformers.GPT2Config(**GPT, vocab_size=320), tiny_checkpoint, tmp_path / "A" / "step-1")
    forward = transformers.GPT2LMHeadModel.forward

    @functools.wraps(forward)
    def by_columns(self: Any, **inputs: Any) -> Any:
        return forward(self, **{**inputs, "position_ids": None})

    load_model(checkpoint, Resources(device="cpu"))
    monkeypatch.setattr(transformers.GPT2LMHeadModel, "forward", by_columns)
    with pytest.raises(BadCheckpoint, match=r"GPT2LMHeadModel, takes padding for text, so that scores would depend"):
        load_model(checkpoint, Resources(device="cpu", micro_batch=1))  # not the one that is kept


@pytest.mark.parametrize(
    ("kind", "doubt"),
    [
        (transformers.RobertaConfig, "RobertaForCausalLM, says something else where positions are counted from 0 than"),
        (transformers.MegatronBertConfig, "MegatronBertForCausalLM, sees what follows a position, as no language"),
    ],
)
def test_an_encoder_is_refused_as_it_is_loaded(
    tiny_checkpoint: Path, tmp_path: Path, kind: type[PreTrainedConfig], doubt: str
) -> None:
    """RoBERTa counts positions from the number of its padding token on; BERT's like see both ways."""
    config = kind(**NARROW, intermediate_size=48, vocab_size=320, is_decoder=kind is transformers.RobertaConfig)
    config.initializer_range = 0.3
    checkpoint = saved(config, tiny_checkpoint, tmp_path / "A" / "step-1")
    with pytest.raises(BadCheckpoint, match=doubt):
        load_model(checkpoint, Resources(device="cpu"))


def test_rounding_that_sends_a_token_to_other_experts_once_refuses_no_network(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of such a network, whose rounding every processor does in its own way, the doubt itself."""
    found, pairs = fitness._doubt, list[int]()

    def doubt(model: LanguageModel, number: int) -> str:
        pairs.append(number)
        return "takes padding for text" if number == 0 else found(model, number)

    monkeypatch.setattr(fitness, "_doubt", doubt)
    load_model(open_checkpoint(tiny_checkpoint), Resources(device="cpu", micro_batch=7))
    assert pairs == [0, 1]


def test_a_checkpoint_that_says_the_same_to_all_prompts_is_refused_for_no_rounding(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """As early in a training it does: how often each token comes, whatever stands before."""
    torch.manual_seed(0)
    wide = {"n_embd": 128, "n_layer": 4, "n_head": 4}
    network = AutoModelForCausalLM.from_config(transformers.GPT2Config(**wide, vocab_size=320, eos_token_id=0))
    frequencies_V = 1 / torch.arange(1.0, 321)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(40):
        ids_BT = torch.multinomial(frequencies_V, 512, replacement=True).view(16, 32)
        torch.autograd.backward(network(ids_BT, labels=ids_BT).loss)
        optimizer.step()
        optimizer.zero_grad()
    network.save_pretrained(tmp_path / "A" / "step-20")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "A" / "step-20")
    load_model(open_checkpoint(tmp_path / "A" / "step-20"), Resources(device="cpu", dtype="bfloat16"))


def test_a_window_that_a_config_names_and_a_network_does_not_use_changes_nothing(
    tiny_checkpoint: Path, tmp_path: Path, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows
) -> None:
    """As `sliding_window` of a Llama; transformers' own cache would forget what lies behind it."""
    short = replace(quick_protocol, num_steps=2, curve_steps=(), seeds=(0,))
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    found = []
    for name, more in (("plain", {}), ("left over", {"sliding_window": 16})):
        folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / name / "step-1"))
        (folder / "config.json").write_text(json.dumps({**config, **more}))
        result = evaluate(folder, toy_benchmark, short, resources=Resources(device="cpu"), rows=rows)
        found.append([(o.output, o.gold_bits) for o in result.outcomes])
    for (output, bits), (same, other) in zip(*found, strict=True):
        assert (output, bits) == (same, pytest.approx(other, abs=1e-3))
