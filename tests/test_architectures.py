"""Every architecture against plain loops: tiny models with random weights, on the tiny checkpoint's tokenizer.

What the families differ in: where positions come from (rotary, learned, ALiBi, none), sliding windows, scaled
embeddings, experts, parallel blocks, a state instead of keys and values.
"""

from collections.abc import Callable
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
from transformers import AutoTokenizer, PreTrainedConfig

from softprompt.benchmarks import Benchmark, Rows
from softprompt.decode import answer
from softprompt.models import LanguageModel
from softprompt.prompt import Placement, embed_prompts
from softprompt.protocol import Protocol

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
GPT_NEOX = {**SHAPE, "num_key_value_heads": None, "head_dim": None}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
"""A window shorter than every prompt."""

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": lambda **c: transformers.LlamaConfig(**SHAPE, **c),
    "mistral": lambda **c: transformers.MistralConfig(**SHAPE, sliding_window=8, **c),
    "qwen2": lambda **c: transformers.Qwen2Config(**SHAPE, **c),
    "qwen3": lambda **c: transformers.Qwen3Config(**SHAPE, **c),
    "gemma2": lambda **c: transformers.Gemma2Config(**SHAPE, **SLIDING, **c),
    "gemma3": lambda **c: transformers.Gemma3TextConfig(**SHAPE, **SLIDING, **c),
    "olmo2": lambda **c: transformers.Olmo2Config(**SHAPE, **c),
    "phi3": lambda **c: transformers.Phi3Config(**SHAPE, **c),
    "gpt2": lambda **c: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **c),
    "gpt_neox": lambda **c: transformers.GPTNeoXConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, **c
    ),
    "opt": lambda **c: transformers.OPTConfig(
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=16,  # narrower than the network, as in OPT-350M
        **c,
    ),
    "falcon": lambda **c: transformers.FalconConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256, **c
    ),
    "falcon_alibi": lambda **c: transformers.FalconConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, **c
    ),
    "bloom": lambda **c: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **c),
    "mixtral": lambda **c: transformers.MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2, **c),
    "mamba": lambda **c: transformers.MambaConfig(hidden_size=32, state_size=8, num_hidden_layers=2, **c),
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


PLACEMENTS = pytest.mark.parametrize("placement", ["cue", "prefix"])


@PLACEMENTS
def test_together_or_alone_prompts_get_the_same_outputs_and_scores(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.train[::4], placement)
    candidates = [[model.encode("a"), model.encode(f" {example.answer}")] for example in rows.train[::4]]
    assert {len(ids) for found in candidates for ids in found} == {1, 3, 5}
    generations, scores = answer(
        model, prompts, vectors_SPD, stop=("\n", "e"), max_new_tokens=6, candidates=candidates, micro_batch=8
    )
    outputs = [plain_output(model, prompt, vectors_SPD, ("\n", "e"), 6) for prompt in prompts]
    assert [(generation.text, generation.stopped) for generation in generations] == outputs
    expected = [
        [plain_score(model, p, vectors_SPD, ids) for ids in own] for p, own in zip(prompts, candidates, strict=True)
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-3)


@PLACEMENTS
def test_vectors_that_are_embedded_tokens_act_as_those_tokens(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    """Whatever the network does to its embeddings: scale, project, add positions."""
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.train[::4], placement)
    for soft, hard in zip(prompts, as_tokens(model, prompts, vectors_SPD), strict=True):
        mask_BT = torch.ones(1, len(soft), dtype=torch.long)
        embeds_BTD, _, _ = embed_prompts(model, [soft], vectors_SPD)
        logits_B1V, _ = model.forward(inputs_embeds=embeds_BTD, mask_BT=mask_BT, num_logits=1)
        expected_BTV = model.network(input_ids=torch.tensor([hard.ids]), use_cache=False).logits
        torch.testing.assert_close(logits_B1V[:, -1], expected_BTV[:, -1], rtol=1e-4, atol=1e-4)


@PLACEMENTS
def test_gradients_equal_those_of_a_plain_loop(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    where = Placement(placement, model, toy_benchmark, quick_protocol)
    batch = training_rows(model, where, rows.train[::7], seeds=(0, 1))
    assert len({len(prompt) for prompt, _ in batch}) > 1
    found_SPD, losses_S = gradients(model, where, batch, quick_protocol)
    expected_SPD, expected_S = plain_gradients(model, where, batch, quick_protocol)
    torch.testing.assert_close(losses_S, expected_S, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_SPD, expected_SPD, rtol=1e-3, atol=1e-5)
    assert found_SPD.abs().max() > 1e-4
