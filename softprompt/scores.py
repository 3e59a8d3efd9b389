"""What variants score at one step, with the resamples that say how sure that is.

Shapes: B benchmarks, V variants, R resamples, S seeds, I items.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from softprompt import statistics
from softprompt.errors import BadStudy
from softprompt.metrics import Estimate, chance_centred, item_weights
from softprompt.result import Result
from softprompt.statistics import Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """Chance-centred accuracies of variants that have every benchmark. A variant's score is their mean."""

    variants: tuple[str, ...]
    benchmarks: tuple[str, ...]
    num_items: int
    """Of all benchmarks together."""
    means_BV: Floats
    drawn_BRV: Floats
    """Of each benchmark in each resample of items and seeds, drawn alike for all variants."""

    @property
    def mean_V(self) -> Floats:
        return self.means_BV.mean(0)

    @property
    def drawn_RV(self) -> Floats:
        return self.drawn_BRV.mean(0)

    def of(self, variants: Sequence[str]) -> tuple[Floats, Floats]:
        """(1, V) scores and (R, V) resamples of the variants named."""
        places = [self.variants.index(variant) for variant in variants]
        return self.mean_V[None, places], self.drawn_RV[:, places]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far scores order variants as a target does; n counts pairs. Intervals are of items and prompt seeds: they say
    nothing of what other variants, or other pre-trainings of the same, would do."""

    tau: Estimate
    """Kendall's tau-b."""
    decision_accuracy: Estimate
    """Share of the pairs ordered as in the target."""


def score(results: Iterable[Result], benchmarks: Sequence[str], condition: str) -> Scores:
    """Scores under `condition`. `results` are of one step and protocol, one for each variant and benchmark.

    Raises:
        BadStudy: a variant lacks a benchmark or the condition, or variants were given different items; see `by_place`.
    """
    found = by_place(results)
    variants = tuple(sorted({variant for variant, _ in found}))
    means, drawn, num_items = [], [], 0
    for stream, benchmark in enumerate(benchmarks):
        lacking = [v for v in variants if (v, benchmark) not in found or condition not in found[v, benchmark].metrics]
        if lacking:
            raise BadStudy(f"There is no result under {condition} on {benchmark} for {', '.join(lacking)}.")
        values_VSI, weights_I = _values([found[variant, benchmark] for variant in variants], condition)
        num_items += len(weights_I)
        means.append(np.average(values_VSI.mean(1), axis=1, weights=weights_I))
        drawn.append(statistics.crossed_bootstrap(values_VSI, weights_I, stream))
    return Scores(
        variants=variants,
        benchmarks=tuple(benchmarks),
        num_items=num_items,
        means_BV=np.array(means),
        drawn_BRV=np.array(drawn),
    )


def by_place(results: Iterable[Result]) -> dict[tuple[str, str], Result]:
    """Results of one step and protocol by variant and benchmark.

    Raises:
        BadStudy: there are several for one place, or several versions of a benchmark.
    """
    found: dict[tuple[str, str], Result] = {}
    versions: dict[str, str] = {}
    for result in results:
        if found.setdefault((result.variant, result.benchmark), result).job_key != result.job_key:
            raise BadStudy(
                f"Found two results of {result.variant} on {result.benchmark} at step {result.step}, of different "
                "weights or versions of the benchmark; expected one. Leave out the older one."
            )
        version = result.provenance.get("benchmark_fingerprint", "")
        if versions.setdefault(result.benchmark, version) != version:
            raise BadStudy(
                f"Found results of several versions of {result.benchmark}, expected those of one; scores of different "
                "versions are never compared. Evaluate all variants on the same one."
            )
    return found


def agreement(scores: Scores, target: "Scores | Mapping[str, float]") -> Agreement:
    """Of the variants that both know. A target of scores is resampled with them; one of numbers, a truth, is fixed."""
    known = target.variants if isinstance(target, Scores) else tuple(target)
    variants = sorted(set(scores.variants) & set(known))
    point_1V, drawn_RV = scores.of(variants)
    if isinstance(target, Scores):
        target_1V, target_RV = target.of(variants)
    else:
        target_1V = target_RV = np.array([[target[variant] for variant in variants]])
    point = statistics.concordance(point_1V, target_1V)
    drawn = statistics.concordance(drawn_RV, target_RV)
    num_pairs = len(variants) * (len(variants) - 1) // 2
    tau, accuracy = (
        Estimate(float(value[0]), num_pairs, *map(float, np.quantile(draws, [0.025, 0.975])))
        for value, draws in zip(point, drawn, strict=True)
    )
    return Agreement(tau=tau, decision_accuracy=accuracy)


def _values(results: Sequence[Result], condition: str) -> tuple[Floats, Floats]:
    """(V, S, I) chance-centred accuracy of each variant, seed and item, and the items' (I,) weights, in one order."""
    asked = [[outcome for outcome in result.outcomes if outcome.condition == condition] for result in results]
    tables = [
        {(o.seed, o.item): chance_centred(float(o.correct), result.chance) for o in outcomes}
        for result, outcomes in zip(results, asked, strict=True)
    ]
    weights = item_weights(asked[0])
    items, seeds = sorted(weights), sorted({seed for seed, _ in tables[0]}, key=str)
    for result, table in zip(results, tables, strict=True):
        if table.keys() != tables[0].keys():
            raise BadStudy(
                f"{result.variant} and {results[0].variant} were given different items of {result.benchmark} at step "
                f"{result.step}; variants are compared on the same items only. Evaluate both again from the same rows."
            )
    values = [[[table[seed, item] for item in items] for seed in seeds] for table in tables]
    return np.array(values), np.array([weights[item] for item in items])
