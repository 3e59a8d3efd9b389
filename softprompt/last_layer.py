"""The last layer's MLP only where logits are wanted.

A position lends its keys and values to those behind it. What the last layer's MLP, the larger part of the layer, makes
of it is read for its own logits alone, and of most positions nobody asks for them.

Shapes: B rows, T positions, L of them with logits, D width, V vocabulary.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from softprompt.trials import are_near, hooked


class LastMLP:
    """A network's hook that reads positions without logits no further than the last layer's attention.

    It is off where the last layer has no `mlp`, and where trying shows that a position's logits come out otherwise.
    """

    def __init__(self, network: Any) -> None:
        self._module = _last_mlp(network)
        self._pass = threading.local()
        if self._module is not None and not hooked(
            self._module, self._cut, self._join, lambda: self._is_harmless(network)
        ):
            self._module = None

    @property
    def weights(self) -> list[Tensor]:
        """What positions without logits do not meet."""
        return [] if self._module is None else list(self._module.parameters())

    @contextmanager
    def only(self, wanted_L: Tensor) -> Iterator[None]:
        """In passes of this thread the MLP sees these positions alone."""
        self._pass.wanted_L = wanted_L
        try:
            yield
        finally:
            self._pass.wanted_L = None

    def _cut(self, _module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        wanted_L: Tensor | None = getattr(self._pass, "wanted_L", None)
        self._pass.num_whole = 0
        if wanted_L is None or not arguments or arguments[0].shape[1] <= len(wanted_L):
            return None
        self._pass.num_whole = arguments[0].shape[1]
        # BLOOM's MLP is given the residual, too.
        return tuple(a.index_select(1, wanted_L.to(a.device)) if isinstance(a, Tensor) else a for a in arguments)

    def _join(self, _module: Any, _arguments: Any, output: Any) -> Any:
        if not getattr(self._pass, "num_whole", 0):
            return None
        first_BLD, *rest = output if isinstance(output, tuple) else (output,)  # behind it what experts were chosen
        empty_BTD = first_BLD.new_zeros(first_BLD.shape[0], self._pass.num_whole, first_BLD.shape[2])
        whole_BTD = empty_BTD.index_copy(1, self._pass.wanted_L.to(first_BLD.device), first_BLD)
        return (whole_BTD, *rest) if isinstance(output, tuple) else whole_BTD

    def _is_harmless(self, network: Any) -> bool:
        ids_1T = torch.arange(8, device=network.get_input_embeddings().weight.device)[None]
        whole_1LV = network(input_ids=ids_1T, use_cache=False).logits[:, -2:].float()
        with self.only(torch.tensor([6, 7], device=ids_1T.device)):
            cut_1LV = network(input_ids=ids_1T, use_cache=False).logits[:, -2:].float()
        was_cut = getattr(self._pass, "num_whole", 0) > 0  # not if positions are no positional argument, say
        return was_cut and are_near(cut_1LV, whole_1LV, whole_1LV.std())


def _last_mlp(network: Any) -> Any:
    num_layers = network.config.get_text_config().num_hidden_layers
    stacks = (m for m in network.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == num_layers)
    return next((getattr(stack[-1], "mlp", None) for stack in stacks), None)
