"""What does a checkpoint know, apart from how well it follows an output format? Freeze it, tune a soft prompt, look.

>>> import softprompt
>>> result = softprompt.evaluate("path/to/checkpoint", "arc_easy_words")  # doctest: +SKIP

Method: arXiv:2606.12117. Importing this package loads neither torch nor transformers; `evaluate` does when it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from softprompt.benchmarks import Benchmark, Example
from softprompt.cache import Cache
from softprompt.checkpoints import Checkpoint, discover, open_checkpoint
from softprompt.errors import SoftPromptError
from softprompt.protocol import Protocol, Resources
from softprompt.result import Job, Result

if TYPE_CHECKING:
    from softprompt.evaluation import evaluate as evaluate
    from softprompt.experiment import Experiment as Experiment
    from softprompt.study import Study as Study

__version__ = "0.1.0"
__all__ = [
    "Benchmark",
    "Cache",
    "Checkpoint",
    "Example",
    "Experiment",
    "Job",
    "Protocol",
    "Resources",
    "Result",
    "SoftPromptError",
    "Study",
    "discover",
    "evaluate",
    "open_checkpoint",
]


_LATER = {"evaluate": "softprompt.evaluation", "Experiment": "softprompt.experiment", "Study": "softprompt.study"}
"""Where the names are that are imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """With the names that are imported later, so that notebooks complete them."""
    return sorted({*globals(), *__all__})
