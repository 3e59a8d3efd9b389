"""Finding out by trying what a network supports: it is declared nowhere, and code from elsewhere may do anything."""

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

NEGLIGIBLE = 0.05
"""Of what would show: far above rounding in bfloat16, far below what a layer, a cap or a row that is seen does."""
_FOUND: "WeakKeyDictionary[Any, dict[Callable[[Any], bool], bool]]" = WeakKeyDictionary()
"""By model what its trials have shown."""


@torch.no_grad()
def holds(trial: Callable[[], bool]) -> bool:
    """Whether it does; what fails, however it fails, does not."""
    try:
        return trial()
    except Exception:
        return False


def supports(model: Any, trial: Callable[[Any], bool]) -> bool:
    """Whether the trial of a model holds; it is tried once."""
    found = _FOUND.setdefault(model, {})
    if trial not in found:
        found[trial] = holds(partial(trial, model))
    return found[trial]


def are_near(found: Tensor, expected: Tensor, scale: Tensor) -> bool:
    """Whether they differ by next to nothing of `scale`."""
    return bool((found - expected).abs().max() <= NEGLIGIBLE * scale)


def hooked(module: Any, before: Callable[..., Any], behind: Callable[..., Any], trial: Callable[[], bool]) -> bool:
    """Whether the trial holds with these hooks before and behind a module's forward; if not, they are removed."""
    hooks = [module.register_forward_pre_hook(before), module.register_forward_hook(behind)]
    stay = False
    try:
        stay = holds(trial)
    finally:
        if not stay:
            for hook in hooks:
                hook.remove()
    return stay
