"""Norms and rotations in few operations, where nothing else comes out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from softprompt.fewer_kernels import FewerKernels, is_rms_norm

WIDTH = 32


@pytest.fixture
def network() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = LlamaConfig(**shape, num_key_value_heads=2, vocab_size=100, initializer_range=0.3)
    network = LlamaForCausalLM(config).train(False).requires_grad_(False)
    for layer in network.model.layers:
        torch.nn.init.normal_(layer.input_layernorm.weight)
    return network


class Operations(TorchDispatchMode):
    """Counts those by name that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, _types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.names.append(operation.overloadpacket.__name__)
        return operation(*arguments, **(named or {}))


def gradient(network: LlamaForCausalLM) -> tuple[Tensor, list[str]]:
    """Of a pass, and the operations that it took."""
    torch.manual_seed(1)
    embeds_BTD = torch.randn(2, 7, WIDTH, requires_grad=True)
    weights_V = torch.linspace(-1, 1, 100)
    with Operations() as operations:
        logits_BTV = network(inputs_embeds=embeds_BTD, use_cache=False).logits
        (found_BTD,) = torch.autograd.grad((logits_BTV * weights_V).sum(), embeds_BTD)
    return found_BTD, operations.names


def test_the_gradient_is_the_same_in_fewer_operations(network: LlamaForCausalLM) -> None:
    expected_BTD, own = gradient(network)
    with FewerKernels(network)():
        assert sum("forward" in vars(module) for module in network.modules()) == 5  # two norms a layer and the last
        found_BTD, fewer = gradient(network)
    torch.testing.assert_close(found_BTD, expected_BTD, rtol=1e-3, atol=1e-3)
    assert fewer.count("neg") == fewer.count("slice_backward") == 0 < own.count("neg")  # a rotation's own
    assert len(fewer) < len(own)


def test_behind_the_block_the_network_is_its_own(network: LlamaForCausalLM) -> None:
    rotation, (_, own) = modeling_llama.apply_rotary_pos_emb, gradient(network)
    with pytest.raises(IndexError), FewerKernels(network)():
        network(input_ids=torch.tensor([[-1]]))
    assert modeling_llama.apply_rotary_pos_emb is rotation
    assert gradient(network)[1] == own


def add_one(own: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda states: own(states) + 1


def forget_epsilon(own: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda states: own(states * 1e6)


@pytest.mark.parametrize("change", [add_one, forget_epsilon])
def test_what_only_looks_like_such_a_norm_is_left_alone(
    network: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Callable[[Tensor], Tensor]]
) -> None:
    norm_class = type(network.model.norm)
    own = norm_class.forward
    monkeypatch.setattr(norm_class, "forward", lambda self, states: change(own.__get__(self))(states))
    expected_BTD, _ = gradient(network)
    with FewerKernels(network)():
        assert all("forward" not in vars(module) for module in network.modules())
        torch.testing.assert_close(gradient(network)[0], expected_BTD, rtol=1e-3, atol=1e-3)


def gemma_norm(weight_D: Tensor) -> GemmaRMSNorm:
    norm = GemmaRMSNorm(len(weight_D))
    norm.weight.data = weight_D
    return norm


@pytest.mark.parametrize(
    "norm",
    [
        torch.nn.LayerNorm(4096, bias=False),  # so wide that the mean of random states is next to nothing
        CohereLayerNorm(4096),
        gemma_norm(torch.full((64,), 100.0)),
        gemma_norm(torch.eye(64)[5] * 5000),
    ],
)
def test_norms_of_another_kind_are_left_alone(norm: torch.nn.Module) -> None:
    assert not is_rms_norm(norm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_known_by_what_it_computes(dtype: torch.dtype) -> None:
    norm = LlamaRMSNorm(2048).to(dtype)
    torch.nn.init.normal_(norm.weight)
    assert is_rms_norm(norm)


def test_another_rotation_is_left_alone(network: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that turns neighbours, as GPT-J's does."""

    def turned(values_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        even, odd = values_BHTK[..., ::2], values_BHTK[..., 1::2]
        return values_BHTK * cos[:, None] + torch.stack([-odd, even], dim=-1).flatten(-2) * sin[:, None]

    def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return turned(query, cos, sin), turned(key, cos, sin)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", rotate)
    with FewerKernels(network)():
        assert modeling_llama.apply_rotary_pos_emb is rotate
