"""Statistics of scored variants, in plain numbers: numpy and scipy alone, nothing of ours.

Shapes: X means, V variants, P pairs of variants, S prompt seeds, I items, R resamples.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]

NUM_RESAMPLES = 2000
LEVEL = 0.05
"""Of every test: the chance of seeing a difference where there is none, among all pairs of a ranking at once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Means:
    """Means over items and prompt seeds, and how sure they are: a score depends on which items were asked and on which
    seeds were tuned.

    Both sources of chance add up to a mean's variance. Few seeds say little of theirs: the degrees of freedom are those
    of a sum of variances (Satterthwaite, 1946), and intervals and tests are Student's. One seed says nothing of it.

    Where all items agree the sample has no spread, and still is one. So a few are added, as many at the one end of what
    an item can be as at the other: two for means (Agresti & Coull, 1998), one for differences of paired items (Bonett &
    Price, 2012). `centre_X` is the mean with them.
    """

    value_X: Floats
    centre_X: Floats
    variance_X: Floats
    freedom_X: Floats
    below_X: Floats
    above_X: Floats
    """Standard errors on either side of the value: those of a share near 0 or 1 are lopsided."""
    least: float
    most: float
    """The ends."""

    @classmethod
    def of_variants(cls, values_VSI: Floats, weights_I: Floats, least: float, most: float) -> Self:
        """(V,) means of values from `least` to `most`, items weighted by `weights_I`, whose mean is 1."""
        return cls._of(values_VSI, weights_I, least, most, num_added=2)

    @classmethod
    def of_differences(cls, values_VSI: Floats, weights_I: Floats, least: float, most: float) -> Self:
        """(P,) differences of the same, in the order of `pairs`: paired by item and by seed."""
        first, second = pairs(len(values_VSI))
        far = most - least
        return cls._of(values_VSI[first] - values_VSI[second], weights_I, -far, far, num_added=1)

    @classmethod
    def _of(cls, values_XSI: Floats, weights_I: Floats, least: float, most: float, *, num_added: int) -> Self:
        from scipy.special import stdtrit

        by_item_XI, by_seed_XS = values_XSI.mean(1), values_XSI @ weights_I / len(weights_I)
        num_seeds, num_items = by_seed_XS.shape[1], len(weights_I) + 2 * num_added
        sum_X = by_item_XI @ weights_I
        centre_X = (sum_X + num_added * (least + most)) / num_items
        squares_X = (np.square(by_item_XI - centre_X[:, None]) * np.square(weights_I)).sum(1)
        squares_X += num_added * (np.square(least - centre_X) + np.square(most - centre_X))
        items_X = squares_X / (num_items * (num_items - 1))
        seeds_X = by_seed_XS.var(axis=1, ddof=1) / num_seeds if num_seeds > 1 else np.zeros_like(items_X)
        freedom_X = np.square(items_X + seeds_X) / (
            np.square(items_X) / (num_items - 1) + np.square(seeds_X) / max(num_seeds - 1, 1)
        )
        value_X, variance_X = sum_X / len(weights_I), items_X + seeds_X
        off_X = (centre_X - value_X) / stdtrit(freedom_X, 0.975)
        return cls(
            value_X=value_X,
            centre_X=centre_X,
            variance_X=variance_X,
            freedom_X=freedom_X,
            below_X=np.maximum(np.sqrt(variance_X) - off_X, 0.0),
            above_X=np.maximum(np.sqrt(variance_X) + off_X, 0.0),
            least=least,
            most=most,
        )

    @classmethod
    def average(cls, parts: Sequence[Self]) -> Self:
        """Of independent parts, such as benchmarks. Errors on a side add up as variances do (Zou & Donner, 2008)."""
        variances = [part.variance_X / len(parts) ** 2 for part in parts]
        variance_X = np.sum(variances, axis=0)
        shares = [np.square(v) / part.freedom_X for v, part in zip(variances, parts, strict=True)]
        return cls(
            value_X=np.mean([part.value_X for part in parts], axis=0),
            centre_X=np.mean([part.centre_X for part in parts], axis=0),
            variance_X=variance_X,
            freedom_X=np.square(variance_X) / np.sum(shares, axis=0),
            below_X=np.linalg.norm([part.below_X for part in parts], axis=0) / len(parts),
            above_X=np.linalg.norm([part.above_X for part in parts], axis=0) / len(parts),
            least=float(np.mean([part.least for part in parts])),
            most=float(np.mean([part.most for part in parts])),
        )

    def interval(self) -> tuple[Floats, Floats]:
        """(X,) and (X,) limits of the 95 % interval, nothing of which lies beyond the ends."""
        from scipy.special import stdtrit

        quantile_X = stdtrit(self.freedom_X, 0.975)
        low_X, high_X = self.value_X - quantile_X * self.below_X, self.value_X + quantile_X * self.above_X
        return np.maximum(low_X, self.least), np.minimum(high_X, self.most)

    def p_values(self) -> list[float]:
        """(X,) two-sided p-values of their being 0."""
        from scipy.special import stdtr

        return (2 * stdtr(self.freedom_X, -np.abs(self.centre_X) / np.sqrt(self.variance_X))).tolist()

    def p_above(self) -> list[float]:
        """(X,) one-sided p-values of their being no more than 0; of the values as they are, which added items might
        lift above it."""
        from scipy.special import stdtr

        return stdtr(self.freedom_X, -self.value_X / np.sqrt(self.variance_X)).tolist()


def crossed_bootstrap(values_VSI: Floats, weights_I: Floats, stream: int) -> Floats:
    """(R, V) weighted means in resamples that draw items and seeds, each with replacement and independently: for what
    has no variance to calculate, such as Kendall's tau.

    Paired: a resample draws the same items and the same seeds for all variants, and calls with the same `stream` and
    number of items draw the same. With two crossed sources of chance this errs towards intervals that are too wide
    (Owen, 2007, "The pigeonhole bootstrap"). Of S seeds S - 1 are drawn, whose variance is that of the seeds without
    bias; one seed is drawn always.
    """
    num_variants, num_seeds, num_items = values_VSI.shape
    num_drawn = max(num_seeds - 1, 1)
    items_RI = draws("items", stream, num_items, num_items)
    seeds_RS = draws("seeds", stream, num_seeds, num_drawn) / num_drawn
    flat_IX = (values_VSI * weights_I).reshape(-1, num_items).T.astype(np.float32)
    sums_RVS = (items_RI @ flat_IX).reshape(-1, num_variants, num_seeds)
    return np.einsum("rvs,rs->rv", sums_RVS, seeds_RS, dtype=np.float64) / (items_RI @ weights_I)[:, None]


@functools.lru_cache(maxsize=64)
def draws(what: str, stream: int, num: int, num_drawn: int) -> Floats:
    """(R, num) how often each of `num` units is among `num_drawn` in each resample. Kept for the next score of the same
    items: 8 kB an item."""
    rng = np.random.default_rng([("items", "seeds").index(what), stream])
    return rng.multinomial(num_drawn, np.full(num, 1 / num), NUM_RESAMPLES).astype(np.float32)


def pairs(num: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(P,) and (P,) the two places of every pair, the first the smaller."""
    first, second = np.triu_indices(num, 1)
    return first, second


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted so that the chance of any false rejection among them all stays below the level (Holm, 1979)."""
    order = np.argsort(p_values, kind="stable")
    num = len(order)
    scaled = np.asarray(p_values, dtype=float)[order] * (num - np.arange(num))
    adjusted = np.empty(num)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()


def level_groups(p_adjusted: Sequence[float], num: int) -> list[tuple[int, int]]:
    """Runs (first, last) of two or more places in a ranking that cannot be told apart, best first; runs may overlap.

    Two are told apart only if all pairs that enclose them in the ranking are, too (as in stepwise range tests), so
    that a group is a run and nothing inside it is claimed to differ.
    """
    apart = np.ones((num, num), dtype=bool)
    apart[pairs(num)] = np.asarray(p_adjusted) <= LEVEL
    last_with = [max([i, *np.flatnonzero(~apart[i, i:]) + i]) for i in range(num)]
    runs, reach = [], -1
    for i in range(num):
        if last_with[i] > max(i, reach):
            runs.append((i, int(last_with[i])))
        reach = max(reach, last_with[i])
    return runs


def concordance(scores_RV: Floats, target_RV: Floats) -> tuple[Floats, Floats]:
    """(R,) Kendall's tau-b and (R,) decision accuracy of each row of scores against the target's.

    Decision accuracy is the share of pairs that are ordered as in the target (Magnusson et al., 2025, "DataDecide",
    arXiv:2504.11393); a tie in the scores counts half, pairs that the target ties are left out. Where all are tied,
    tau is 0 and decision accuracy one half.
    """
    first, second = pairs(scores_RV.shape[1])
    ours_RP = np.sign(scores_RV[:, first] - scores_RV[:, second])
    theirs_RP = np.sign(target_RV[:, first] - target_RV[:, second])
    agreement_R = (ours_RP * theirs_RP).sum(1)
    num_ours_R, num_theirs_R = np.abs(ours_RP).sum(1), np.abs(theirs_RP).sum(1)
    tau_R = agreement_R / np.maximum(np.sqrt(num_ours_R * num_theirs_R), 1.0)
    return tau_R, 0.5 + 0.5 * agreement_R / np.maximum(num_theirs_R, 1.0)


def kendall_tau(scores: Mapping[str, float], truth: Mapping[str, float]) -> float:
    """Kendall's tau-b between two scorings of the same variants: 1 same order, -1 reversed; 0 if one ties them all."""
    return float(concordance(*_rows(scores, truth))[0][0])


def decision_accuracy(scores: Mapping[str, float], truth: Mapping[str, float]) -> float:
    """Share of the pairs of variants that are ordered as in `truth`; see `concordance`."""
    return float(concordance(*_rows(scores, truth))[1][0])


def signal_to_noise(means_V: Floats, differences: Means) -> float:
    """Spread of the variants over the spread that chance alone would give them: 1 is nothing but chance.

    The idea is that of Heineman et al., 2025, "Signal and Noise", arXiv:2508.13144; their noise is the spread over the
    last checkpoints of one run, which needs many, ours that of items and prompt seeds: squared, the mean over pairs of
    half the variance of their paired difference.
    """
    return float(np.sqrt(means_V.var(ddof=1) / (differences.variance_X.mean() / 2)))


def p_of_spread(signal_to_noise: float, differences: Means, num: int) -> float:
    """Chance that `num` equal variants would spread so far: the squared ratio is one of two variances (Fisher's F)."""
    from scipy.special import fdtrc

    return float(fdtrc(num - 1, differences.freedom_X.mean(), signal_to_noise**2))


def monotonicity(curves: Sequence[Mapping[int, float]]) -> tuple[float, float] | None:
    """Spearman's correlation of value with step, averaged over the curves of three points or more, a flat one's being
    0; and the chance of one so low where values come in any order. None if there is no such curve."""
    from scipy.special import ndtr

    found, variances = [], []
    for curve in curves:
        if len(curve) >= 3:
            ranks = _ranks([curve[step] for step in sorted(curve)])
            found.append(float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1]) if ranks.any() else 0.0)
            variances.append(1 / (len(curve) - 1))
    return (float(np.mean(found)), float(ndtr(np.sum(found) / np.sqrt(np.sum(variances))))) if found else None


def _ranks(values: Sequence[float]) -> Floats:
    """Ranks about their mean, equal values sharing one: here, since importing `scipy.stats` takes a second."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place] - (len(values) + 1) / 2


def _rows(scores: Mapping[str, float], truth: Mapping[str, float]) -> tuple[Floats, Floats]:
    names = sorted(truth)
    return np.array([[scores[name] for name in names]]), np.array([[truth[name] for name in names]])
