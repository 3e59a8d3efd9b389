"""Finding out by trying what a network bears: it is declared nowhere, and code from elsewhere may do anything."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NEGLIGIBLE = 0.05
"""Of what would show: far above rounding in bfloat16, far below what a layer, a cap or a row that is seen does."""


@torch.no_grad()
def holds(trial: Callable[[], bool]) -> bool:
    """Whether it does; what fails, however it fails, does not."""
    try:
        return trial()
    except Exception:
        return False


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
