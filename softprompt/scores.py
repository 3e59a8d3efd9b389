"""What variants score at one step, and how sure that is.

Shapes: V variants, P pairs of variants, S seeds, I items, R resamples.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from softprompt import statistics
from softprompt.errors import BadStudy
from softprompt.metrics import Estimate, chance_centred, item_weights
from softprompt.result import Result
from softprompt.statistics import Floats, Means

SCORE_IN_WORDS = (
    "Score: chance-centred accuracy, averaged over the benchmarks. Under a benchmark's name: accuracy as it is, not "
    "centred on chance."
)
"""For below a table of a ranking."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """Chance-centred accuracies of variants that have every benchmark. A variant's score is their mean."""

    variants: tuple[str, ...]
    """Best first."""
    benchmarks: tuple[str, ...]
    chances: tuple[float, ...]
    """Of the benchmarks, as the next two."""
    values: tuple[Floats, ...]
    """(V, S, I) each."""
    weights: tuple[Floats, ...]
    """(I,) each."""
    num_seeds: int
    """Prompt seeds; 0 where nothing was tuned."""

    @property
    def num_items(self) -> int:
        """Of all benchmarks together."""
        return sum(map(len, self.weights))

    @functools.cached_property
    def by_benchmark(self) -> list[Means]:
        """(V,) each."""
        return [Means.of_variants(*part) for part in self._parts]

    @functools.cached_property
    def differences_by_benchmark(self) -> list[Means]:
        """(P,) each, of the better variant to the worse."""
        return [Means.of_differences(*part) for part in self._parts]

    @property
    def means(self) -> Means:
        """(V,) scores."""
        return Means.average(self.by_benchmark)

    @property
    def differences(self) -> Means:
        """(P,) of the better variant to the worse."""
        return Means.average(self.differences_by_benchmark)

    def drawn(self, variants: Sequence[str]) -> tuple[Floats, Floats]:
        """(1, V) scores of the variants named and (R, V) of them in resamples of items and seeds, drawn alike for all
        variants and all scores of the same items."""
        places = [self.variants.index(variant) for variant in variants]
        resampled = [
            statistics.crossed_bootstrap(values_VSI[places], weights_I, stream)
            for stream, (values_VSI, weights_I) in enumerate(zip(self.values, self.weights, strict=True))
        ]
        return self.means.value_X[None, places], np.mean(resampled, axis=0)

    @property
    def _parts(self) -> Iterable[tuple[Floats, Floats, float, float]]:
        for chance, values_VSI, weights_I in zip(self.chances, self.values, self.weights, strict=True):
            yield values_VSI, weights_I, chance_centred(0.0, chance), 1.0


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
    variants = np.array(sorted({variant for variant, _ in found}))
    values, weights, chances = [], [], []
    for benchmark in benchmarks:
        lacking = [v for v in variants if (v, benchmark) not in found or condition not in found[v, benchmark].metrics]
        if lacking:
            raise BadStudy(f"There is no result under {condition} on {benchmark} for {', '.join(lacking)}.")
        its = [found[variant, benchmark] for variant in variants]
        values_VSI, weights_I = _values(its, condition)
        values.append(values_VSI)
        weights.append(weights_I)
        chances.append(its[0].chance)
    mean_V = np.mean([np.average(v.mean(1), axis=1, weights=w) for v, w in zip(values, weights, strict=True)], axis=0)
    order = np.argsort(-mean_V, kind="stable")
    return Scores(
        variants=tuple(variants[order].tolist()),
        benchmarks=tuple(benchmarks),
        chances=tuple(chances),
        values=tuple(values_VSI[order] for values_VSI in values),
        weights=tuple(weights),
        num_seeds=len({o.seed for o in next(iter(found.values())).outcomes if o.condition == condition} - {None}),
    )


def by_place(results: Iterable[Result]) -> dict[tuple[str, str], Result]:
    """Results of one step and protocol by variant and benchmark.

    Raises:
        BadStudy: they are of several steps, protocols, versions of a benchmark or of its rows; or there are several for
            one place.
    """
    found: dict[tuple[str, str], Result] = {}
    versions: dict[str, str] = {}

    def one(what: str, version: str | None, remedy: str) -> None:
        if version is not None and versions.setdefault(what, version) != version:
            raise BadStudy(
                f"Found results of several {what}, such as {versions[what]} and {version}, expected those of one; "
                f"scores of several are never compared. {remedy}"
            )

    for result in results:
        benchmark, known = result.benchmark, result.provenance
        one("steps", str(result.step), "Choose those of one step.")
        one("protocols", result.protocol.fingerprint, "Choose those of one protocol.")
        if found.setdefault((result.variant, benchmark), result).job_key != result.job_key:
            both = [str(each.provenance.get("checkpoint")) for each in (found[result.variant, benchmark], result)]
            raise BadStudy(
                f"Found two results of {result.variant} on {benchmark} at step {result.step}, of {' and '.join(both)}; "
                "expected one. Leave out the older one; where they are of two variants, say so in `metadata.json`."
            )
        alike = "Evaluate all variants on the same one."
        one(f"versions of {benchmark}", known.get("benchmark_fingerprint"), alike)
        one(f"versions of the rows of {benchmark}", known.get("rows_fingerprint"), alike)
    return found


def agreement(scores: Scores, target: "Scores | Mapping[str, float]") -> Agreement:
    """Of the variants that both know. A target of scores is resampled with them; one of numbers, a truth, is fixed.

    Raises:
        BadStudy: they have no two variants in common.
    """
    known = target.variants if isinstance(target, Scores) else tuple(target)
    variants = sorted(set(scores.variants) & set(known))
    if len(variants) < 2:
        raise BadStudy(
            f"Scores are of {', '.join(scores.variants)}, the target of {', '.join(known)}; expected two variants or "
            "more in common."
        )
    point_1V, drawn_RV = scores.drawn(variants)
    if isinstance(target, Scores):
        target_1V, target_RV = target.drawn(variants)
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
