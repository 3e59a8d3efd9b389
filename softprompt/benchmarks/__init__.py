"""Benchmarks, each one small file: a docstring with its sources and one `BENCHMARK = Benchmark(...)`.

A benchmark is found by its presence: a file in this folder, a file in a folder of the user's (`folder=`), or an entry
point of the group `softprompt.benchmarks` that names a `Benchmark`. A broken file raises at once.
"""

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from softprompt.answers import Grammar
from softprompt.errors import BadBenchmark
from softprompt.fingerprints import fingerprint

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One item. A prompt is the question followed by the benchmark's cue; the answer follows after a space."""

    question: str
    answer: str
    """What a perfect output looks like: the target of the tuning and of the few-shot examples."""
    golds: tuple[str, ...]
    """Every answer that counts as right, as the grammar reads it."""
    options: tuple[str, ...] = ()
    """What the answer is chosen from, if anything: their likelihoods give `choice_accuracy`."""
    id: str = ""
    """Its own within the split: outcomes are kept by it. Where it is empty, loaded rows get one, such as 'test-7'."""
    group: str = ""
    """What the item is one of: a subject, an intent. Groups take turns in the test split, so that its first so many
    items hold all of them alike; see also `Benchmark.macro_average`."""
    identity: str = ""
    """What makes it the same item as another one, if that is not its question: by this, train items that also stand in
    the test split are found."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A declaration: where the rows are, how a row becomes an `Example`, what counts as an answer."""

    name: str
    path: str
    """Dataset on the Hugging Face hub, `org/name`."""
    config: str | None = None
    revision: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    chance: float = 0.0
    """Strict accuracy of a guess among the options, in the right format."""
    to_example: Callable[[Row], Example | None]
    """None for a row that is no item, such as one without a label."""
    grammar: Grammar
    instruction: str = ""
    cue: str = "\nAnswer:"
    stop: tuple[str, ...] = ("\n",)
    """Texts that end an answer as cleanly as the end-of-sequence token does."""
    max_new_tokens: int = 16
    macro_average: bool = False
    """Whether metrics average over the examples' groups, all groups alike, instead of over the items."""
    version: int = 1
    """Raise it with any change of `to_example`: results of two versions never share a curve."""
    source: str = ""
    """Fingerprint of the file that declares it, if that is one of a team's own: there no edit is missed."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer that it is read with, where that is not the checkpoint's own; a study sets it."""

    def __post_init__(self) -> None:
        """Raise `BadBenchmark` for a declaration that no item could be measured by."""
        is_instance = not isinstance(self.grammar, type)
        is_stable = type(self.grammar).__repr__ is not object.__repr__  # or no two readings had one fingerprint
        is_grammar = is_instance and all(hasattr(self.grammar, name) for name in ("strict", "lenient", "is_right"))
        for name, holds, expected in (
            ("chance", 0 <= self.chance < 1, "a share from 0 to below 1"),
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("stop", not isinstance(self.stop, str), "a tuple of texts, such as ('\\n',)"),
            ("grammar", is_grammar, "an instance of a grammar, such as softprompt.answers.Number()"),
            ("grammar", is_stable, "one whose repr is the same in every process: make its class a dataclass"),
        ):
            if not holds:
                raise BadBenchmark(f"Benchmark {self.name!r}: {name} is {getattr(self, name)!r}; expected {expected}.")

    @property
    def dataset(self) -> str:
        """Where its rows come from, in words."""
        return f"{self.path} ({self.config})" if self.config else self.path

    @functools.cached_property
    def fingerprint(self) -> str:
        unused = {"to_example", *(name for name in ("macro_average", "source", "tokenizer") if not getattr(self, name))}
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in unused}
        return fingerprint({**values, "grammar": repr(self.grammar)})

    def prompt(self, example: Example, shots: Iterable[Example] = ()) -> str:
        """The text in front of the answer, with solved examples before the question if `shots` are given."""
        return self.question(example, shots) + self.cue

    def question(self, example: Example, shots: Iterable[Example] = ()) -> str:
        """The prompt without its cue: what stands before vectors that replace the cue."""
        solved = [f"{shot.question}{self.cue} {shot.answer}" for shot in shots]
        head = [self.instruction] if self.instruction else []
        return "\n\n".join([*head, *solved, example.question])


def names(folder: str | None = None) -> list[str]:
    """Names of all benchmarks that can be loaded."""
    return sorted(_sources(folder))


def get(name: str, folder: str | None = None) -> Benchmark:
    """The declaration called `name`.

    Raises:
        BadBenchmark: it is unknown, or its file does not declare a `Benchmark` of that name.
    """
    sources = _sources(folder)
    if name not in sources:
        raise BadBenchmark(f"There is no benchmark {name!r}; known are {', '.join(sorted(sources))}.")
    benchmark = sources[name]()
    if not isinstance(benchmark, Benchmark) or benchmark.name != name:
        raise BadBenchmark(f"The file of benchmark {name!r} must set BENCHMARK = Benchmark(name={name!r}, ...).")
    return benchmark


def _sources(folder: str | None) -> dict[str, Callable[[], Any]]:
    """What can be loaded, by name; a user's folder comes last and may not replace a name."""
    sources: dict[str, Callable[[], Any]] = {}
    for module in pkgutil.iter_modules(__path__):
        sources[module.name] = functools.partial(_import_own, module.name)
    for entry in importlib.metadata.entry_points(group="softprompt.benchmarks"):
        _add(sources, entry.name, entry.load, f"entry point {entry.value}")
    if folder and not Path(folder).is_dir():
        raise BadBenchmark(f"There is no folder {folder}; correct benchmark_folder.")
    for file in sorted(Path(folder).glob("[!_]*.py")) if folder else ():
        _add(sources, file.stem, functools.partial(_import_file, file), str(file))
    return sources


def _add(sources: dict[str, Callable[[], Any]], name: str, source: Callable[[], Any], where: str) -> None:
    if name in sources:
        raise BadBenchmark(f"Two benchmarks are called {name!r}; rename the one declared by {where}.")
    sources[name] = functools.partial(_loaded, source, where)


def _loaded(source: Callable[[], Any], where: str) -> Any:
    """What a team's own code declares, whatever it may raise."""
    try:
        return source()
    except BadBenchmark:
        raise
    except Exception as error:
        raise BadBenchmark(f"{where} cannot be used as a benchmark ({type(error).__name__}: {error}).") from error


def _import_own(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}").BENCHMARK


def _import_file(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"softprompt_user_benchmark_{file.stem}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look their annotations up
    spec.loader.exec_module(module)
    found = module.BENCHMARK
    code = ast.unparse(ast.parse(file.read_text(encoding="utf-8")))  # without comments and layout
    return replace(found, source=fingerprint(code)) if isinstance(found, Benchmark) else found
