"""What the controls are made of, and what shuffled answers tell of a tuning: whether it learned the task."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from softprompt.benchmarks import Benchmark, Example
from softprompt.conditions import Condition
from softprompt.errors import BadBenchmark
from softprompt.metrics import Estimate, Outcome, difference

if TYPE_CHECKING:
    from softprompt.result import Result


def shuffled_answers(examples: Sequence[Example]) -> list[str]:
    """The examples' answers, permuted among them; the same for every checkpoint.

    Where that gives an item what is none of its own options, one of them is drawn instead: an answer that is not
    listed in its question would teach another format. By luck some answers stay right.
    """
    rng = random.Random("shuffled answers")
    answers = rng.sample([example.answer for example in examples], len(examples))
    return [
        answer if answer in example.options or not example.options else rng.choice(example.options)
        for answer, example in zip(answers, examples, strict=True)
    ]


def with_instruction(benchmark: Benchmark) -> Benchmark:
    """The benchmark with a line in front of every question that states its answers' format, behind its own one."""
    line = getattr(benchmark.grammar, "instruction", "")
    if not line:
        raise BadBenchmark(
            f"Benchmark {benchmark.name!r}: its grammar {type(benchmark.grammar).__name__} has no `instruction`, which "
            "the control 'instruction' puts before every question; add one, or leave the control out."
        )
    return replace(benchmark, instruction=f"{benchmark.instruction}\n{line}".lstrip())


def learned_task(conditions: Sequence[Condition], outcomes: Sequence[Outcome]) -> dict[str, dict[str, Estimate]]:
    """By placement: how much better true answers do than shuffled ones, see `metrics.difference`. Empty where no
    answers were shuffled."""
    found = {}
    for condition in conditions:
        if condition.vectors == "shuffled":
            true = [outcome for outcome in outcomes if outcome.condition == condition.placement]
            shuffled = [outcome for outcome in outcomes if outcome.condition == condition.name]
            found[condition.placement] = difference(true, shuffled)
    return found


def learned(excess: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Of a placement's excess on one benchmark, the metrics whose whole interval is above 0."""
    return {metric: estimate for metric, estimate in excess.items() if estimate.low > 0}


def in_words(excess: Mapping[str, Estimate]) -> str:
    """What that says, as half a sentence."""
    by = ", ".join(f"{e.value:+.3f} {metric} ({e.low:+.3f} to {e.high:+.3f})" for metric, e in learned(excess).items())
    if by:
        return f"true answers beat shuffled ones by {by}: the excess is learned task"
    return "true answers taught no more than shuffled ones: the format alone"


def summary(results: Iterable["Result"]) -> dict[str, str]:
    """By placement, what all results together say; nothing where no answers were shuffled."""
    jobs: dict[str, list[Result]] = {}
    for result in results:
        for placement in result.learned_task:
            jobs.setdefault(placement, []).append(result)
    sentences = {}
    for placement, its in jobs.items():
        taught = [f"{r.variant} on {r.benchmark}" for r in its if learned(r.learned_task[placement])]
        sentences[placement] = (
            f"In {len(taught)} of {len(its)} jobs true answers beat shuffled ones, and the excess is learned task: "
            f"{', '.join(taught)}."
            if taught
            else f"In none of {len(its)} jobs did true answers teach more than shuffled ones: the format alone."
        )
    return sentences
