"""Is a benchmark sound? Read its rows and put a perfect output through its own grammar."""

from dataclasses import asdict, dataclass
from typing import Any

from softprompt import benchmarks
from softprompt.benchmarks import Benchmark, Example
from softprompt.errors import BadBenchmark, RowsUnavailable
from softprompt.rows import Rows, load_rows


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one look at a benchmark found."""

    name: str
    dataset: str = ""
    answer: str = ""
    """Its answer grammar."""
    chance: float | None = None
    num_train: int | None = None
    num_test: int | None = None
    num_contaminated: int | None = None
    status: str = "ok"
    """`ok`; `unread`, where there were no rows to look at; `broken`."""
    problem: str = ""
    """Why it is not ok, in a sentence."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(name: str, mirror: str | None = None, folder: str | None = None) -> Check:
    """Load the declaration and the rows of the benchmark called `name`; whatever is wrong becomes its problem."""
    found: dict[str, Any] = {"name": name}
    try:
        benchmark = benchmarks.get(name, folder)
        found |= {
            "dataset": benchmark.dataset,
            "answer": type(benchmark.grammar).__name__,
            "chance": benchmark.chance,
        }
        rows = load_rows(benchmark, mirror)
        found |= {"num_train": len(rows.train), "num_test": len(rows.test), "num_contaminated": rows.num_contaminated}
        require_sound(benchmark, rows)
    except BadBenchmark as error:
        found |= {"status": "unread" if isinstance(error, RowsUnavailable) else "broken", "problem": str(error)}
    return Check(**found)


def require_sound(benchmark: Benchmark, rows: Rows) -> None:
    """Raise `BadBenchmark` for the first item that no output could get right."""
    for split, examples in (("train", rows.train), ("test", rows.test)):
        for example in examples:
            if problem := _problem(benchmark, example):
                raise BadBenchmark(f"Benchmark {benchmark.name!r}: {split} item {example.id} {problem}.")


def perfect_output(benchmark: Benchmark, example: Example) -> str:
    """What a model that answers as it was tuned to would say, up to the stop."""
    output = f" {example.answer}"
    return min((output.split(mark)[0] for mark in benchmark.stop), key=len, default=output)


def _problem(benchmark: Benchmark, example: Example) -> str:
    """Of an item, in words; an exception of a team's own grammar is one as well."""
    try:
        return _disagreement(benchmark, example)
    except Exception as error:
        return f"cannot be read by its own grammar, {benchmark.grammar!r} ({type(error).__name__}: {error})"


def _disagreement(benchmark: Benchmark, example: Example) -> str:
    grammar, output = benchmark.grammar, perfect_output(benchmark, example)
    answer = grammar.strict(output, example)
    if answer is None:
        return f"wants the answer {output.strip()[:60]!r}, which its own grammar, {grammar!r}, refuses"
    if not grammar.is_right(answer, example):
        return f"wants the answer {output.strip()[:60]!r}, which does not count as right beside {example.golds!r}"
    if not grammar.is_right(grammar.lenient(output, example), example):
        return f"wants the answer {output.strip()[:60]!r}, which the lenient reader does not find"
    return ""
