"""Cross-entropies and their gradients in one reading of the output layer's weights, on a CPU.

The cross-entropy of token y behind hidden state x is logsumexp(W x) - w_y x, its gradient sum_v softmax(W x)_v w_v less
w_y. But for w_y these are what attention finds when x asks and the vocabulary's rows are keys and values alike: its
normaliser and its result. Torch's attention works block by block, so that each block of W is fetched from memory once,
and no logits are kept. With a large vocabulary and a few answer tokens it is W's way from memory that takes the time.

Shapes: L positions, D width, V vocabulary, C parts of it for torch's threads.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from softprompt.trials import are_near, hooked

IGNORED = -100
"""Label of a position that carries no loss."""

MIN_BYTES = 4e6
"""Of the weights: fewer stay in a core's cache between two readings, and nothing is saved."""

HUGE = 1e4
"""Largest entry of the states that are tried: what bends logits at all, as a soft cap does, bends these."""


class OutputLayer:
    """A network's hook that hands out what the output layer is given in place of the logits it would make of it.

    Off on GPUs and where weights are few; and where more than a product stands between the two, as a bias or a soft cap
    does, which trying shows.
    """

    def __init__(self, network: Any) -> None:
        self._module = network.get_output_embeddings()
        self._pass = threading.local()
        self.is_on = (
            isinstance(self._module, torch.nn.Linear)
            and self._module.bias is None
            and self._module.weight.device.type == "cpu"
            and self._module.weight.nbytes >= MIN_BYTES
        )
        self.is_on = self.is_on and hooked(
            self._module, self._take, self._hand_out, lambda: self._is_only_a_product(network)
        )

    @contextmanager
    def left_out(self, factor: float = 1.0) -> Iterator[None]:
        """In passes of this thread the network's logits are the hidden states, times `factor`, unless this is off."""
        self._pass.factor = factor if self.is_on else None
        try:
            yield
        finally:
            self._pass.factor = None

    def logits(self, outputs_LX: Tensor) -> Tensor:
        """(L, V) of what passes inside `left_out` gave: hidden states (L, D), or logits already if this is off."""
        return self._module(outputs_LX) if self.is_on else outputs_LX

    def cross_entropies(self, outputs_LX: Tensor, targets_L: Tensor) -> Tensor:
        """(L,) in nats, float32, 0 where the target is `IGNORED`.

        Args:
            outputs_LX: what passes inside `left_out` gave: hidden states (L, D), or logits (L, V) if this is off.
        """
        if not self.is_on:
            return F.cross_entropy(outputs_LX.float(), targets_L, ignore_index=IGNORED, reduction="none")
        losses_L: Tensor = CrossEntropies.apply(outputs_LX, self._module.weight, targets_L.clamp(min=0))
        return losses_L.masked_fill(targets_L == IGNORED, 0)

    def _take(self, _module: Any, arguments: tuple[Tensor]) -> tuple[Tensor] | None:
        if getattr(self._pass, "factor", None) is None:
            return None
        (self._pass.hidden,) = arguments
        return (arguments[0][..., :0, :],)

    def _hand_out(self, _module: Any, _arguments: Any, _logits: Any) -> Tensor | None:
        if getattr(self._pass, "factor", None) is None:
            return None
        hidden: Tensor = self._pass.hidden * self._pass.factor
        del self._pass.hidden
        return hidden

    def _is_only_a_product(self, network: Any) -> bool:
        """States that go the way of logits, and are made huge on it, must give the cross-entropies of logits."""
        ids_1T = torch.arange(8, device=network.get_input_embeddings().weight.device)[None]
        logits_LV = network(input_ids=ids_1T, use_cache=False).logits[0].float()
        targets_L = logits_LV.argmin(-1)
        expected_L = F.cross_entropy(logits_LV, targets_L, reduction="none")
        with self.left_out():
            hidden_LD = network(input_ids=ids_1T, use_cache=False).logits[0]
        with self.left_out(factor := HUGE / hidden_LD.abs().max().item()):
            huge_LD = network(input_ids=ids_1T, use_cache=False).logits[0]
        found_L = self.cross_entropies(huge_LD / factor, targets_L)
        return are_near(found_L, expected_L, logits_LV.std())


class CrossEntropies(torch.autograd.Function):
    """(L,) in float32 of hidden states (L, D), weights (V, D), which get no gradient, and targets (L,)."""

    @staticmethod
    def forward(ctx: Any, hidden_LD: Tensor, weight_VD: Tensor, targets_L: Tensor) -> Tensor:
        num_parts = math.gcd(len(weight_VD), torch.get_num_threads())
        weight_CVD = weight_VD.unflatten(0, (num_parts, -1))[:, None]
        asking_CLD = hidden_LD.expand(num_parts, 1, -1, -1)
        means_CLD, sums_CL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            asking_CLD, weight_CVD, weight_CVD, scale=1.0
        )
        means_CLD, sums_CL = means_CLD[:, 0].float(), sums_CL[:, 0]
        sums_L = sums_CL.logsumexp(0)
        mean_LD = ((sums_CL - sums_L).exp()[..., None] * means_CLD).sum(0)
        own_LD = weight_VD[targets_L].float()
        ctx.save_for_backward((mean_LD - own_LD).to(hidden_LD.dtype))
        return sums_L - (hidden_LD.float() * own_LD).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_LD,) = ctx.saved_tensors
        return (gradients[0][:, None] * gradient_LD).to(gradient_LD.dtype), None, None
