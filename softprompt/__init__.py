"""What does a checkpoint know, apart from how well it follows an output format? Freeze it, tune a soft prompt, look.

>>> import softprompt
>>> result = softprompt.evaluate("path/to/checkpoint", "arc_easy_words")  # doctest: +SKIP

Method: arXiv:2606.12117. Importing this package loads neither torch nor transformers; `evaluate` does when it is used.
"""

from typing import TYPE_CHECKING, Any

from softprompt.benchmarks import Benchmark, Example
from softprompt.cache import Cache
from softprompt.checkpoints import Checkpoint, discover, open_checkpoint
from softprompt.errors import SoftPromptError
from softprompt.protocol import Protocol, Resources
from softprompt.result import Job, Result

if TYPE_CHECKING:
    from softprompt.evaluation import evaluate as evaluate

__version__ = "0.1.0"
__all__ = [
    "Benchmark",
    "Cache",
    "Checkpoint",
    "Example",
    "Job",
    "Protocol",
    "Resources",
    "Result",
    "SoftPromptError",
    "discover",
    "evaluate",
    "open_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        from softprompt.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
