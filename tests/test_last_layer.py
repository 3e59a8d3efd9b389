"""Positions without logits are read no further than the last layer's attention, if that changes nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from softprompt.models import LanguageModel

NUM_POSITIONS, NUM_LOGITS = 12, 3


@pytest.fixture
def network() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = LlamaConfig(**shape, num_key_value_heads=2, vocab_size=100, initializer_range=0.3)
    return LlamaForCausalLM(config).train(False).requires_grad_(False)


@pytest.fixture
def seen(network: LlamaForCausalLM) -> list[int]:
    """How many positions the last MLP was given, call by call."""
    counts: list[int] = []

    def note(_module: object, arguments: tuple[Tensor, ...], _output: Tensor) -> None:
        counts.append(arguments[0].shape[1])

    network.model.layers[-1].mlp.down_proj.register_forward_hook(note)
    return counts


def logits(model: LanguageModel) -> Tensor:
    ids_BT = torch.arange(2 * NUM_POSITIONS).view(2, NUM_POSITIONS)
    return model.forward(input_ids=ids_BT, mask_BT=torch.ones_like(ids_BT), num_logits=NUM_LOGITS)[0]


def expected(model: LanguageModel) -> Tensor:
    ids_BT = torch.arange(2 * NUM_POSITIONS).view(2, NUM_POSITIONS)
    return model.network(input_ids=ids_BT).logits[:, -NUM_LOGITS:]


def test_the_last_mlp_sees_the_positions_with_logits_alone(network: LlamaForCausalLM, seen: list[int]) -> None:
    model = LanguageModel(network, None)
    assert model.last_mlp.weights
    seen.clear()
    found = logits(model)
    assert seen == [NUM_LOGITS]
    torch.testing.assert_close(found, expected(model))
    assert seen[1:] == [NUM_POSITIONS]  # whoever calls the network itself gets all of it


def shift_by_a_token(_module: object, _arguments: tuple[Tensor, ...], gate_BTI: Tensor) -> Tensor:
    return gate_BTI + gate_BTI.roll(1, dims=1)


def refuse_less_than_all(_module: object, _arguments: tuple[Tensor, ...], gate_BTI: Tensor) -> Tensor:
    if gate_BTI.shape[1] < 8:
        raise AssertionError("too few positions")
    return gate_BTI


@pytest.mark.parametrize("hook", [shift_by_a_token, refuse_less_than_all])
def test_an_mlp_that_needs_all_positions_gets_them(
    network: LlamaForCausalLM, seen: list[int], hook: Callable[..., Tensor]
) -> None:
    """Which is found out by trying."""
    mlp = network.model.layers[-1].mlp
    mlp.gate_proj.register_forward_hook(hook)
    model = LanguageModel(network, None)
    assert not model.last_mlp.weights
    assert not mlp._forward_hooks
    seen.clear()
    found = logits(model)
    assert seen == [NUM_POSITIONS]
    torch.testing.assert_close(found, expected(model))
