"""What the controls are made of, and what they tell of a tuning: whether it learned the task."""

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
    """By placement and format-free metric: how much better true answers do than shuffled ones or the plain prompt,
    whichever is less sure, which is the lower limit; see `metrics.difference`. Empty where no answers were shuffled.

    Shuffled answers alone are no measure of it: they teach the format, and that answers have nothing to do with the
    question; a model may unlearn by them what it knew. Nor is the plain prompt, which lacks the format.
    """
    by_condition: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_condition.setdefault(outcome.condition, []).append(outcome)
    found = {}
    for condition in conditions:
        if condition.vectors == "shuffled":
            others = (by_condition[name] for name in (condition.name, Condition().name))
            over_shuffled, over_plain = (difference(by_condition[condition.placement], other) for other in others)
            found[condition.placement] = {
                metric: min(excess, over_plain[metric], key=lambda estimate: estimate.low)
                for metric, excess in over_shuffled.items()
            }
    return found


def has_learned(excess: Mapping[str, Estimate]) -> bool:
    """Whether a placement's excess on one benchmark is above 0, with its whole interval, on every metric."""
    return bool(excess) and all(estimate.low > 0 for estimate in excess.values())


def in_words(excess: Mapping[str, Estimate]) -> str:
    """What that says, as half a sentence."""

    def by(metrics: Mapping[str, Estimate]) -> str:
        return ", ".join(f"{e.value:+.3f} {name} ({e.low:+.3f} to {e.high:+.3f})" for name, e in metrics.items())

    if has_learned(excess):
        return f"true answers beat shuffled ones and the plain prompt by {by(excess)}: so much at most is learned task"
    level = {metric: estimate for metric, estimate in excess.items() if estimate.low <= 0}
    return f"no sign of learned task: over shuffled answers or the plain prompt, whichever is better, {by(level)}"


def summary(results: Iterable["Result"]) -> dict[str, str]:
    """By placement, what all results together say; nothing where no answers were shuffled."""
    jobs: dict[str, list[Result]] = {}
    for result in results:
        for placement in result.learned_task:
            jobs.setdefault(placement, []).append(result)
    sentences = {}
    for placement, its in jobs.items():
        taught = [f"{r.variant} on {r.benchmark}" for r in its if has_learned(r.learned_task[placement])]
        sentences[placement] = (
            f"In {len(taught)} of {len(its)} jobs true answers beat shuffled ones and the plain prompt on every "
            f"format-free metric, and the excess may be learned task: {', '.join(taught)}."
            if taught
            else f"In none of {len(its)} jobs did true answers beat shuffled ones and the plain prompt on every "
            "format-free metric: no sign of learned task."
        )
    return sentences
