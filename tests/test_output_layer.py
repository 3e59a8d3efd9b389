"""Cross-entropies are found without logits, where the output layer is nothing but a product."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from softprompt import output_layer
from softprompt.models import LanguageModel
from softprompt.output_layer import IGNORED

VOCABULARY, WIDTH = 102, 32
SHAPE: dict[str, Any] = {
    **{"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"intermediate_size": 48, "vocab_size": VOCABULARY, "pad_token_id": 0},
}
IDS_BT = torch.arange(12).view(2, 6)
TARGETS_N = torch.tensor([5, IGNORED, 101, 0, 7, 7, 7, IGNORED, 50, 51, 52, 53])


def language_model(config: transformers.PreTrainedConfig, dtype: torch.dtype = torch.float32) -> LanguageModel:
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    return LanguageModel(network.eval().requires_grad_(False), None)


def run(model: LanguageModel, embeds_BTD: Tensor) -> Tensor:
    mask_BT = torch.ones_like(IDS_BT)
    return model.forward(inputs_embeds=embeds_BTD, mask_BT=mask_BT, num_logits=IDS_BT.shape[1])[0]


@pytest.fixture(autouse=True)
def no_model_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_layer, "MIN_BYTES", 0)


@pytest.fixture
def num_threads() -> Any:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 4])  # the vocabulary is cut into 1, 2 and 2 parts
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_cross_entropies_and_gradients_are_those_of_logits(
    num_threads: Any, threads: int, dtype: torch.dtype, tolerance: float
) -> None:
    num_threads(threads)
    model = language_model(transformers.LlamaConfig(**SHAPE, initializer_range=0.3), dtype)
    embeds_BTD = model.embed(IDS_BT).requires_grad_()
    with model.output_layer.left_out():
        hidden_BTD = run(model, embeds_BTD)
    assert hidden_BTD.shape == (*IDS_BT.shape, WIDTH)
    found_N = model.output_layer.cross_entropies(hidden_BTD.flatten(0, 1), TARGETS_N)
    (found_BTD,) = torch.autograd.grad(found_N.sum(), embeds_BTD)

    logits_BTV = run(model, embeds_BTD)  # outside the block nothing is left out
    assert logits_BTV.shape == (*IDS_BT.shape, VOCABULARY)
    expected_N = F.cross_entropy(logits_BTV.float().flatten(0, 1), TARGETS_N, reduction="none", ignore_index=IGNORED)
    (expected_BTD,) = torch.autograd.grad(expected_N.sum(), embeds_BTD)
    assert expected_N.max() > 3
    assert found_N.dtype == torch.float32
    torch.testing.assert_close(found_N, expected_N, rtol=tolerance, atol=tolerance)
    scale = expected_BTD.abs().max()
    torch.testing.assert_close(found_BTD / scale, expected_BTD / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("initializer_range", [0.3, 0.001])  # logits of 0.001 are too small for a cap to show
@pytest.mark.parametrize(
    ("config", "is_a_product"),
    [
        (transformers.LlamaConfig, True),
        (transformers.GraniteConfig, True),  # divides its logits, which a product bears
        (transformers.Gemma2Config, False),  # soft cap
        (transformers.PhiConfig, False),  # bias
    ],
)
def test_it_is_left_out_where_it_is_only_a_product(config: Any, is_a_product: bool, initializer_range: float) -> None:
    own = {"logits_scaling": 8.0} if config is transformers.GraniteConfig else {}
    model = language_model(config(**SHAPE, **own, initializer_range=initializer_range))
    assert model.output_layer.is_on == is_a_product
    with model.output_layer.left_out():
        outputs_BTX = run(model, model.embed(IDS_BT))
    assert outputs_BTX.shape[-1] == (WIDTH if is_a_product else VOCABULARY)
    found_N = model.output_layer.cross_entropies(outputs_BTX.flatten(0, 1), TARGETS_N)
    logits_NV = run(model, model.embed(IDS_BT)).flatten(0, 1)
    expected_N = F.cross_entropy(logits_NV, TARGETS_N, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(found_N, expected_N, rtol=1e-5, atol=1e-5)


def test_weights_that_a_cache_holds_are_read_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_layer, "MIN_BYTES", VOCABULARY * WIDTH * 4 + 1)
    assert not language_model(transformers.LlamaConfig(**SHAPE)).output_layer.is_on
