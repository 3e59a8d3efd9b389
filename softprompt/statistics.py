"""Statistics of scored variants, in plain numbers: numpy and scipy alone, nothing of ours.

Shapes: V variants, R resamples, S seeds, I items, P pairs of variants.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]

NUM_RESAMPLES = 2000
LEVEL = 0.05
"""Of every test: the chance of seeing a difference where there is none, among all pairs of a ranking at once."""


def crossed_bootstrap(values_VSI: Floats, weights_I: Floats, stream: int) -> Floats:
    """(R, V) weighted means in resamples that draw items and seeds, each with replacement and independently.

    Paired: a resample draws the same items and the same seeds for all variants, and calls with the same `stream` and
    number of items draw the same. With two crossed sources of chance this errs towards intervals that are too wide
    (Owen, 2007, "The pigeonhole bootstrap"), with three seeds it knows little of theirs. One seed is drawn always.
    """
    num_variants, num_seeds, num_items = values_VSI.shape
    items_RI, seeds_RS = draws("items", stream, num_items), draws("seeds", stream, num_seeds) / num_seeds
    flat_IX = (values_VSI * weights_I).reshape(-1, num_items).T.astype(np.float32)
    sums_RVS = (items_RI @ flat_IX).reshape(-1, num_variants, num_seeds)
    return np.einsum("rvs,rs->rv", sums_RVS, seeds_RS, dtype=np.float64) / (items_RI @ weights_I)[:, None]


@functools.lru_cache(maxsize=64)
def draws(what: str, stream: int, num: int) -> Floats:
    """(R, num) how often each of `num` units is drawn in each resample: the same for every ranking, so that a history
    of rankings draws them once."""
    rng = np.random.default_rng([("items", "seeds").index(what), stream])
    return rng.multinomial(num, np.full(num, 1 / num), NUM_RESAMPLES).astype(np.float32)


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


def p_of_differences(means_V: Floats, drawn_RV: Floats) -> list[float]:
    """(P,) two-sided p-value of each pair's difference: normal, with the standard error of the paired resamples, whose
    share beyond 0 could not tell the small values apart that many pairs ask for. Without spread: 1 for no difference,
    else 0."""
    from scipy.special import ndtr

    first, second = pairs(len(means_V))
    differences_P = means_V[first] - means_V[second]
    errors_P = np.sqrt(np.maximum(_variances_of_differences(drawn_RV), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        z_P = np.where(np.isclose(differences_P, 0.0), 0.0, np.abs(differences_P) / errors_P)
    return (2 * ndtr(-z_P)).tolist()


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


def signal_to_noise(means_V: Floats, drawn_RV: Floats) -> float:
    """Spread of the variants over the spread that chance alone would give them: 1 is nothing but chance.

    The idea is that of Heineman et al., 2025, "Signal and Noise", arXiv:2508.13144; their noise is the spread over the
    last checkpoints of one run, which needs many, ours that of items and prompt seeds: squared, the mean over pairs of
    half the variance of their paired difference.
    """
    noise = max(float(_variances_of_differences(drawn_RV).mean()) / 2, 1e-12)
    return float(np.sqrt(means_V.var(ddof=1) / noise))


def p_of_spread(signal_to_noise: float, num: int) -> float:
    """Chance that `num` equal variants would spread so far: (num - 1) times the squared ratio is chi-squared."""
    from scipy.special import chdtrc

    return float(chdtrc(num - 1, (num - 1) * signal_to_noise**2))


def p_above(means_V: Floats, drawn_RV: Floats, floor: float = 0.0) -> list[float]:
    """(V,) one-sided p-value of each mean's being no more than `floor`: normal, as in `p_of_differences`."""
    from scipy.special import ndtr

    over_V, errors_V = means_V - floor, drawn_RV.std(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z_V = np.where(errors_V > 0, over_V / errors_V, np.where(over_V > 0, np.inf, -np.inf))
    return ndtr(-z_V).tolist()


def monotonicity(curves: Sequence[Mapping[int, float]]) -> float | None:
    """Spearman's correlation of value with step, averaged over the curves of three points or more; a flat curve's
    is 0. None if there is no such curve."""
    from scipy.stats import spearmanr

    found = []
    for curve in curves:
        if len(curve) >= 3:
            steps, values = zip(*sorted(curve.items()), strict=True)
            found.append(0.0 if len(set(values)) == 1 else float(spearmanr(steps, values).statistic))
    return float(np.mean(found)) if found else None


def _variances_of_differences(drawn_RV: Floats) -> Floats:
    """(P,) from the covariances, so that no (R, P) table is made."""
    covariance_VV = np.atleast_2d(np.cov(drawn_RV, rowvar=False))
    variances_V = np.diag(covariance_VV)
    first, second = pairs(drawn_RV.shape[1])
    return variances_V[first] + variances_V[second] - 2 * covariance_VV[first, second]


def _rows(scores: Mapping[str, float], truth: Mapping[str, float]) -> tuple[Floats, Floats]:
    names = sorted(truth)
    return np.array([[scores[name] for name in names]]), np.array([[truth[name] for name in names]])
