"""From per-item outcomes to the metrics of the method, each with its n and its interval."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

Z_95 = NormalDist().inv_cdf(0.975)

MIN_FOLLOWING = 10
"""With fewer outputs than this in the right format (per seed), `knowledge_accuracy` is undefined, never 0."""

FORMAT_FREE = ("lenient_accuracy", "choice_accuracy", "gold_bits_per_byte")
"""Metrics that do not ask for the format; see `difference`."""

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
    group: str = ""
    """The item's group, where the benchmark averages over groups; see `item_weights`."""

    @property
    def follows(self) -> bool:
        return self.answer is not None


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """Every metric that is defined for `outcomes`, which belong to one condition of one job.

    Seeds are averaged within an item first: n counts distinct items, and intervals treat the item as the sampled unit.
    Of `knowledge_accuracy`, n is the outputs in the format, a seed's on average.
    Proportions get Wilson intervals, which do not collapse at 0 or 1; other means get normal ones. Where outcomes carry
    groups, every group counts alike and intervals are those of the effective number of items (Kish, 1965).
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
        weights = item_weights(outcomes)
        shares = [weights[outcome.item] for outcome in following]
        correct = fmean([outcome.correct for outcome in following], shares)
        metrics["knowledge_accuracy"] = wilson(
            correct, round(len(following) / num_seeds), effective(shares) / num_seeds
        )
    if all(outcome.choice_correct is not None for outcome in outcomes):
        metrics["choice_accuracy"] = _proportion(outcomes, lambda o: bool(o.choice_correct))
    if all(outcome.gold_bits is not None for outcome in outcomes):
        metrics["gold_bits_per_byte"] = _mean(outcomes, _bits_per_byte)
    return metrics


def difference(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Estimate]:
    """By metric of `FORMAT_FREE` that both have: how much better `first` does than `second` on the same items, paired
    by item. Positive is better: more right answers or choices, fewer bits."""
    values: dict[str, Callable[[Outcome], float]] = {"lenient_accuracy": lambda o: float(o.lenient_correct)}
    if all(outcome.choice_correct is not None for outcome in (*first, *second)):
        values["choice_accuracy"] = lambda o: float(bool(o.choice_correct))
    if all(outcome.gold_bits is not None for outcome in (*first, *second)):
        values["gold_bits_per_byte"] = lambda o: -_bits_per_byte(o)
    found = {}
    for metric, value in values.items():
        ahead, behind = per_item(first, value), per_item(second, value)
        found[metric] = _mean_of({item: ahead[item] - behind[item] for item in ahead}, item_weights(first))
    return found


def item_weights(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """By item: 1 without groups; with them, what makes all groups count alike. The mean weight is 1."""
    group_of = {outcome.item: outcome.group for outcome in outcomes}
    sizes = Counter(group_of.values())
    return {item: len(group_of) / (len(sizes) * sizes[group]) for item, group in group_of.items()}


def effective(weights: Sequence[float]) -> float:
    """How many equally weighted items would leave the same uncertainty (Kish, 1965)."""
    return sum(weights) ** 2 / sum(weight**2 for weight in weights)


def wilson(value: float, n: int, effective_n: float | None = None) -> Estimate:
    """Wilson's 95 % score interval of a proportion (Wilson, 1927), of `effective_n` items if they are not `n`."""
    size = effective_n or n
    centre = (value + Z_95**2 / (2 * size)) / (1 + Z_95**2 / size)
    half = Z_95 / (1 + Z_95**2 / size) * math.sqrt(value * (1 - value) / size + Z_95**2 / (4 * size**2))
    return Estimate(value, n, max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value)))


def chance_centred(accuracy: float, chance: float) -> float:
    """0 at guessing, 1 at perfect."""
    return (accuracy - chance) / (1 - chance)


def is_saturated(values: Sequence[float]) -> bool:
    """Whether a tuning curve, two points or more, has stopped rising. Noise alone may make it seem to rise."""
    return values[-1] - values[-2] <= SATURATION_TOLERANCE


def per_item(outcomes: Iterable[Outcome], value: Callable[[Outcome], float]) -> dict[str, float]:
    """Mean over seeds of `value`, by item."""
    values = defaultdict(list)
    for outcome in outcomes:
        values[outcome.item].append(float(value(outcome)))
    return {item: fmean(seeds) for item, seeds in values.items()}


def _proportion(outcomes: Sequence[Outcome], holds: Callable[[Outcome], bool]) -> Estimate:
    weights = item_weights(outcomes)
    value = fmean([holds(outcome) for outcome in outcomes], [weights[outcome.item] for outcome in outcomes])
    return wilson(value, len(weights), effective([*weights.values()]))


def _bits_per_byte(outcome: Outcome) -> float:
    return (outcome.gold_bits or 0.0) / (outcome.gold_bytes or 1)


def _mean(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> Estimate:
    return _mean_of(per_item(outcomes, value), item_weights(outcomes))


def _mean_of(values: Mapping[str, float], weights: Mapping[str, float]) -> Estimate:
    """The weighted mean of values by item, with its normal interval."""
    n, shares = len(values), [weights[item] / len(values) for item in values]
    mean = fmean(values.values(), shares)
    squares = sum((share * (found - mean)) ** 2 for share, found in zip(shares, values.values(), strict=True))
    half = Z_95 * math.sqrt(squares * n / (n - 1)) if n > 1 else math.inf
    return Estimate(mean, n, mean - half, mean + half)


def average(estimates: Iterable[Estimate | None]) -> Estimate | None:
    """Mean over benchmarks. None if it is undefined on one: a mean over fewer would compare unlike things.

    The distances to the limits add up as independent errors do (Zou & Donner, 2008), so that the interval stays
    as lopsided near 0 and 1 as its parts are.
    """
    parts = list(estimates)
    defined = [part for part in parts if part is not None]
    if not parts or len(defined) < len(parts):
        return None
    mean = sum(e.value for e in defined) / len(defined)
    low = mean - math.hypot(*(e.value - e.low for e in defined)) / len(defined)
    high = mean + math.hypot(*(e.high - e.value for e in defined)) / len(defined)
    return Estimate(mean, sum(e.n for e in defined), low, high)
