"""From per-item outcomes to the metrics of the method, each with its n and its interval."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

Z_95 = NormalDist().inv_cdf(0.975)

MIN_FOLLOWING = 10
"""With fewer outputs than this in the right format (per seed), `knowledge_accuracy` is undefined, never 0."""

SATURATION_TOLERANCE = 0.02
"""A curve that rises by more than this between its last two points is not saturated."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its number of distinct items and its 95 % interval."""

    value: float
    n: int
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one prompt did on one item. `seed` is None where nothing was tuned."""

    condition: str
    item: str
    seed: int | None
    output: str
    """Greedy output up to the stop, stop string excluded."""
    stopped: bool
    """Whether it ended cleanly: end-of-sequence token or stop string, not the token limit."""
    answer: str | None
    """What the answer grammar reads from a clean output; None if the output does not follow it."""
    correct: bool
    lenient_correct: bool
    choice_correct: bool | None = None
    gold_bits: float | None = None
    gold_bytes: int | None = None

    @property
    def follows(self) -> bool:
        return self.answer is not None


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """Every metric that is defined for `outcomes`, which belong to one condition of one job.

    Seeds are averaged within an item first: n counts distinct items, and intervals treat the item as the sampled unit.
    Proportions get Wilson intervals, which do not collapse at 0 or 1; other means get normal ones.
    """
    num_seeds = len({outcome.seed for outcome in outcomes})
    following = [outcome for outcome in outcomes if outcome.follows]
    metrics = {
        "format_following": _proportion(outcomes, lambda o: o.follows),
        "accuracy": _proportion(outcomes, lambda o: o.correct),
        "lenient_accuracy": _proportion(outcomes, lambda o: o.lenient_correct),
        "format_gap": _mean(outcomes, lambda o: o.lenient_correct - o.correct),
        "unparseable": _proportion(outcomes, lambda o: o.stopped and not o.follows),
        "truncated": _proportion(outcomes, lambda o: not o.stopped),
    }
    if len(following) >= MIN_FOLLOWING * num_seeds:
        correct = sum(outcome.correct for outcome in following)
        metrics["knowledge_accuracy"] = wilson(correct / len(following), round(len(following) / num_seeds))
    if all(outcome.choice_correct is not None for outcome in outcomes):
        metrics["choice_accuracy"] = _proportion(outcomes, lambda o: bool(o.choice_correct))
    if all(outcome.gold_bits is not None for outcome in outcomes):
        metrics["gold_bits_per_byte"] = _mean(outcomes, lambda o: (o.gold_bits or 0.0) / (o.gold_bytes or 1))
    return metrics


def wilson(value: float, n: int) -> Estimate:
    """Wilson's 95 % score interval of a proportion (Wilson, 1927)."""
    centre = (value + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(value * (1 - value) / n + Z_95**2 / (4 * n**2))
    return Estimate(value, n, max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value)))


def chance_centred(accuracy: float, chance: float) -> float:
    """0 at guessing, 1 at perfect."""
    return (accuracy - chance) / (1 - chance)


def is_saturated(values: Sequence[float]) -> bool:
    """Whether a tuning curve has stopped rising. Errs towards the warning: noise may put the light out, too."""
    return len(values) < 2 or values[-1] - values[-2] <= SATURATION_TOLERANCE


def per_item(outcomes: Iterable[Outcome], value: Callable[[Outcome], float]) -> dict[str, float]:
    """Mean over seeds of `value`, by item."""
    values = defaultdict(list)
    for outcome in outcomes:
        values[outcome.item].append(float(value(outcome)))
    return {item: fmean(seeds) for item, seeds in values.items()}


def _proportion(outcomes: Sequence[Outcome], holds: Callable[[Outcome], bool]) -> Estimate:
    return wilson(fmean(map(holds, outcomes)), len({outcome.item for outcome in outcomes}))


def _mean(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> Estimate:
    values = list(per_item(outcomes, value).values())
    mean = fmean(values)
    half = Z_95 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(mean, len(values), mean - half, mean + half)
