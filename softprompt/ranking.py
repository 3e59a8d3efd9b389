"""Ranking variants at matched steps, with the uncertainty that the items leave."""

import functools
import itertools
import typing
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from softprompt import controls
from softprompt.errors import BadStudy
from softprompt.metrics import Outcome, chance_centred, item_weights, per_item
from softprompt.result import Result

NUM_RESAMPLES = 2000
FORMAT_LEARNED = 0.95
"""Below this share of outputs in the right format, `accuracy` still measures format."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A variant's place. `score` is its chance-centred accuracy averaged over the benchmarks, with a 95 % interval."""

    rank: int
    variant: str
    score: float
    low: float
    high: float
    accuracy: dict[str, float]
    """By benchmark, not centred."""
    limits: dict[str, tuple[float, float]]
    """By benchmark, the 95 % interval of that accuracy."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A variant against the one ranked next: difference of their scores, with its paired 95 % interval."""

    ahead: str
    behind: str
    difference: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        return self.low > 0

    def __str__(self) -> str:
        by = f"{self.difference:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f}"
        if self.distinguishable:
            return f"{self.ahead} is ahead of {self.behind} ({by})"
        return f"{self.ahead} and {self.behind} are not distinguishable yet ({by})"


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Variants that have every benchmark at `step`, best first; those that do not are `incomplete`."""

    step: int
    condition: str
    benchmarks: tuple[str, ...]
    num_items: int
    standings: tuple[Standing, ...]
    comparisons: tuple[Comparison, ...]
    incomplete: dict[str, tuple[str, ...]]
    """Variant -> benchmarks that it lacks at this step."""

    @property
    def scores(self) -> dict[str, float]:
        return {standing.variant: standing.score for standing in self.standings}

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sentences": self.sentences()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` gave, from JSON or not."""
        standings = (
            Standing(
                **{
                    **standing,
                    "limits": {b: tuple(limits) for b, limits in standing["limits"].items()},
                    "warnings": tuple(standing["warnings"]),
                }
            )
            for standing in values["standings"]
        )
        return cls(
            **{
                **{name: values[name] for name in cls.__dataclass_fields__},
                "benchmarks": tuple(values["benchmarks"]),
                "standings": tuple(standings),
                "comparisons": tuple(Comparison(**comparison) for comparison in values["comparisons"]),
                "incomplete": {variant: tuple(absent) for variant, absent in values["incomplete"].items()},
            }
        )

    def sentences(self) -> list[str]:
        """What the ranking says, in so many words."""
        return [
            *map(str, self.comparisons),
            *(f"{v} is incomplete at step {self.step}: no {', '.join(b)}" for v, b in sorted(self.incomplete.items())),
            *(f"{s.variant}: {warning}" for s in self.standings for warning in s.warnings),
        ]


class Measured(typing.Protocol):
    """What is known of a result without opening it."""

    @property
    def variant(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def benchmark(self) -> str: ...


def rank(
    results: Sequence[Result],
    benchmarks: Sequence[str],
    *,
    condition: str | None = None,
    step: int | None = None,
    variants: Iterable[str] = (),
) -> Ranking:
    """Rank variants by `condition` (default: the protocol's headline) at `step` (default: see `matched_steps`).

    Only results at that step are used. `variants` names others that are to be called incomplete if they lack it.

    The score's intervals come from a bootstrap over items, stratified by benchmark and paired: every resample draws the
    same items for all variants (Efron & Tibshirani, 1993). Seeds are averaged within an item.

    Raises:
        BadStudy: there are no results, they are of several protocols, or variants were given different items.
    """
    fingerprints = {result.protocol.fingerprint for result in results}
    if len(fingerprints) != 1:
        raise BadStudy(
            f"Found results of {len(fingerprints)} protocols, expected those of one; scores of different protocols are "
            "never compared."
            if results
            else "There are no results to rank yet; evaluate checkpoints first."
        )
    condition = condition or results[0].headline
    steps = matched_steps(results, benchmarks)
    step = steps[-1] if step is None else step
    found = {(r.variant, r.benchmark): r for r in results if r.step == step and condition in r.metrics}
    variants = sorted({result.variant for result in results}.union(variants))
    missing = {v: tuple(b for b in benchmarks if (v, b) not in found) for v in variants}
    complete = [v for v in variants if not missing[v]]
    incomplete = {v: absent for v, absent in missing.items() if absent}
    if not complete:
        return Ranking(
            step=step,
            condition=condition,
            benchmarks=tuple(benchmarks),
            num_items=0,
            standings=(),
            comparisons=(),
            incomplete=incomplete,
        )

    mean_V = np.zeros(len(complete))
    resampled_RV = np.zeros((NUM_RESAMPLES, len(complete)))
    num_items = 0
    for number, benchmark in enumerate(benchmarks):
        values_VI, weights_I = _item_values([found[v, benchmark] for v in complete], condition)
        num_items += values_VI.shape[1]
        counts_RI = _resamples(number, values_VI.shape[1])
        mean_V += np.average(values_VI, axis=1, weights=weights_I) / len(benchmarks)
        drawn_RV = counts_RI @ (values_VI * weights_I).T / (counts_RI @ weights_I)[:, None]
        resampled_RV += drawn_RV / len(benchmarks)

    order = np.argsort(-mean_V, kind="stable")
    low_V, high_V = np.quantile(resampled_RV, [0.025, 0.975], axis=0)
    standings = tuple(
        Standing(
            rank=place + 1,
            variant=complete[i],
            score=float(mean_V[i]),
            low=float(low_V[i]),
            high=float(high_V[i]),
            accuracy={b: found[complete[i], b].metrics[condition]["accuracy"].value for b in benchmarks},
            limits={b: _limits(found[complete[i], b], condition) for b in benchmarks},
            warnings=_warnings([found[complete[i], b] for b in benchmarks], condition),
        )
        for place, i in enumerate(order)
    )
    comparisons = []
    for i, j in itertools.pairwise(order):
        low, high = np.quantile(resampled_RV[:, i] - resampled_RV[:, j], [0.025, 0.975])
        comparisons.append(
            Comparison(
                ahead=complete[i],
                behind=complete[j],
                difference=float(mean_V[i] - mean_V[j]),
                low=float(low),
                high=float(high),
            )
        )
    return Ranking(
        step=step,
        condition=condition,
        benchmarks=tuple(benchmarks),
        num_items=num_items,
        standings=standings,
        comparisons=tuple(comparisons),
        incomplete=incomplete,
    )


def matched_steps(results: Iterable[Measured], benchmarks: Sequence[str]) -> list[int]:
    """Steps at which variants can be compared, the best to rank at last: first those at which fewer variants have all
    benchmarks, then the earlier ones."""
    done: dict[int, dict[str, set[str]]] = {}
    for result in results:
        done.setdefault(result.step, {}).setdefault(result.variant, set()).add(result.benchmark)
    wanted = set(benchmarks)
    num_complete = {step: sum(wanted <= found for found in by.values()) for step, by in done.items()}
    return sorted(done, key=lambda step: (num_complete[step], step))


def history(results: Sequence[Result], benchmarks: Sequence[str], condition: str | None = None) -> list[Ranking]:
    """The ranking at every step at which any variant has all benchmarks, in the order of training."""
    rankings = [rank(results, benchmarks, condition=condition, step=s) for s in sorted({r.step for r in results})]
    return [ranking for ranking in rankings if ranking.standings]


def kendall_tau(scores: dict[str, float], truth: dict[str, float]) -> float:
    """Kendall's tau-b between two scorings of the same variants: 1 same order, -1 reversed; 0 if one ties them all."""
    from scipy.stats import kendalltau

    names = sorted(truth)
    tau = float(kendalltau([scores[n] for n in names], [truth[n] for n in names]).statistic)
    return tau if tau == tau else 0.0


@functools.lru_cache(maxsize=32)
def _resamples(number: int, num_items: int) -> np.ndarray:
    """(R, I) how often each item of the benchmark of that number is drawn in each resample. The same for every ranking,
    so that a history of rankings draws them once."""
    rng = np.random.default_rng([0, number])
    return rng.multinomial(num_items, np.full(num_items, 1 / num_items), NUM_RESAMPLES).astype(np.float32)


def _item_values(results: Sequence[Result], condition: str) -> tuple[np.ndarray, np.ndarray]:
    """(V, I) chance-centred accuracy of each variant on each item, and the items' (I,) weights, in one order."""
    tables = []
    weights: dict[str, float] = {}
    for result in results:
        outcomes = [outcome for outcome in result.outcomes if outcome.condition == condition]
        tables.append(per_item(outcomes, lambda o: _centred(o, result.chance)))  # noqa: B023 (used at once)
        weights = item_weights(outcomes)
    items = sorted(tables[0])
    for result, table in zip(results, tables, strict=True):
        if sorted(table) != items:
            raise BadStudy(
                f"{result.variant} and {results[0].variant} were given different items of {result.benchmark} at step "
                f"{result.step}; variants are compared on the same items only. Evaluate both again from the same rows."
            )
    return np.array([[table[item] for item in items] for table in tables]), np.array([weights[i] for i in items])


def _centred(outcome: Outcome, chance: float) -> float:
    return chance_centred(float(outcome.correct), chance)


def _limits(result: Result, condition: str) -> tuple[float, float]:
    accuracy = result.metrics[condition]["accuracy"]
    return accuracy.low, accuracy.high


def _warnings(results: Sequence[Result], condition: str) -> tuple[str, ...]:
    """Reasons to distrust a variant's score."""
    found = []
    for result in results:
        if result.diverged.get(condition):
            found.append(
                f"tuning diverged on {result.benchmark} (seeds {', '.join(map(str, result.diverged[condition]))})"
            )
        if result.saturated(condition, "accuracy") is False:
            found.append(f"accuracy still rises at the end of the tuning on {result.benchmark} (not saturated)")
        excess = result.learned_task.get(condition, {})
        if controls.learned(excess):
            found.append(f"on {result.benchmark}, {controls.in_words(excess)}")
        following = result.metrics[condition]["format_following"].value
        if condition in result.curves and following < FORMAT_LEARNED:
            found.append(f"format-following is only {following:.2f} on {result.benchmark}")
    return tuple(found)
