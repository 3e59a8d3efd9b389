"""Norms and rotations in few kernels, for passes on a GPU that are recorded.

Networks spell out both in half a dozen operations, each of which reads and writes all positions, in float32 too, and
many more on the way back, which counts once nothing is launched one by one any more
(`docs/decisions/016-cuda-graphs.md`). Results differ from the network's own by rounding.

Shapes: B rows, H attention heads, T positions, K a head's width.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from softprompt.trials import are_near, holds

ROTATION = "apply_rotary_pos_emb"
"""Name under which the code of transformers' networks looks the function up that turns queries and keys."""


class FewerKernels:
    """Of a network, wherever trying shows that nothing else comes out."""

    def __init__(self, network: Any) -> None:
        norms = (module for module in network.modules() if holds(partial(is_rms_norm, module)))
        self.norms = {module: _norm(module) for module in norms}
        weight = network.get_input_embeddings().weight
        files = {sys.modules.get(type(module).__module__) for module in network.modules()}
        turning = [(file, getattr(file, ROTATION)) for file in files if hasattr(file, ROTATION)]
        self.rotations = {file: _rotation(own) for file, own in turning if holds(partial(_turns_halves, own, weight))}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """In passes inside the block, and on the way back from them."""
        own = {file: getattr(file, ROTATION) for file in self.rotations}
        for module, forward in self.norms.items():
            module.forward = forward
        for file, rotate in self.rotations.items():
            setattr(file, ROTATION, rotate)
        try:
            yield
        finally:
            for module in self.norms:
                del module.forward
            for file, rotate in own.items():
                setattr(file, ROTATION, rotate)


def _norm(module: Any) -> Callable[..., Tensor]:
    own, weight = module.forward, module.weight

    def norm(*given: Any, **named: Any) -> Tensor:
        if len(given) != 1 or named or given[0].dtype != weight.dtype:  # Mamba 2 gates them
            return own(*given, **named)
        return F.rms_norm(given[0], weight.shape, weight, _epsilon(module))

    return norm


def _epsilon(module: Any) -> float:
    return module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps


def is_rms_norm(module: Any) -> bool:
    """On states so small that another epsilon would show, with a mean, which other norms take away."""
    if "forward" in vars(module) or len(list(module.parameters())) != 1 or module.weight.ndim != 1:
        return False
    weight, epsilon = module.weight.float(), _epsilon(module)
    states = torch.randn(8, len(weight), generator=torch.Generator().manual_seed(0)).add(1).to(weight) * epsilon**0.5
    # Each entry on its own: what is off in a few, or beside large weights, must show too.
    return torch.allclose(module(states).float(), F.rms_norm(states, weight.shape, weight, epsilon), rtol=1e-3, atol=0)


class _Rotation(torch.autograd.Function):
    """(B, H, T, K), whose first half is turned with the second, as (1, 1, T, K) cosines and sines say."""

    @staticmethod
    def forward(ctx: Any, values_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        first_sin, second_sin = sin.chunk(2, dim=-1)
        return _turned(values_BHTK, cos, first_sin, second_sin, sign=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        first_sin, second_sin = sin.chunk(2, dim=-1)
        return _turned(gradients[0], cos, second_sin, first_sin, sign=-1), None, None


def _turned(values_BHTK: Tensor, cos: Tensor, first_sin: Tensor, second_sin: Tensor, sign: int) -> Tensor:
    first, second = values_BHTK.chunk(2, dim=-1)
    turned_BHTK = values_BHTK * cos
    turned_first, turned_second = turned_BHTK.chunk(2, dim=-1)
    turned_first.addcmul_(second, first_sin, value=-sign)
    turned_second.addcmul_(first, second_sin, value=sign)
    return turned_BHTK


def _rotation(own: Callable[..., Any]) -> Callable[..., Any]:
    def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
        is_usual = not more and not named and cos.shape[-1] == query.shape[-1] and cos.dtype == query.dtype
        if not is_usual:
            return own(query, key, cos, sin, *more, **named)
        cos, sin = cos[:, None], sin[:, None]
        return _Rotation.apply(query, cos, sin), _Rotation.apply(key, cos, sin)

    return rotate


def _turns_halves(own: Callable[..., Any], weight: Tensor) -> bool:
    query, key = torch.randn(2, 1, 3, 5, 8).to(weight)
    cos, sin = torch.randn(2, 1, 5, 8).to(weight)
    pairs = zip(_rotation(own)(query, key, cos, sin), own(query, key, cos, sin), strict=True)
    return all(are_near(found, expected, expected.std()) for found, expected in pairs)
