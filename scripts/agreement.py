"""How far two scorings of the same variants agree, and how surely: bootstrap over items and prompt seeds.

Shapes: R resamples, V variants, S prompt seeds, I items, P pairs of variants. Row 0 of R is the data as they are.
"""

from collections.abc import Sequence

import numpy as np

NUM_RESAMPLES = 2000


def resamples(sizes: Sequence[int], num_seeds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(R, I) how often each item is drawn, within benchmarks of these sizes, and (R, S) each prompt seed."""
    rng = np.random.default_rng(seed)

    def drawn(num: int) -> np.ndarray:
        rows = rng.multinomial(num, np.full(num, 1 / num), NUM_RESAMPLES)
        return np.concatenate([np.ones((1, num), dtype=rows.dtype), rows])

    return np.concatenate([drawn(size) for size in sizes], axis=1), drawn(num_seeds)


def means(values_VSI: np.ndarray, items_RI: np.ndarray, seeds_RS: np.ndarray) -> np.ndarray:
    """(R, V) mean over seeds and items. What was not tuned has one seed, of which nothing is drawn."""
    by_seed_RVS = np.einsum("vsi,ri->rvs", values_VSI, items_RI, optimize=True) / items_RI.sum(1)[:, None, None]
    if values_VSI.shape[1] == 1:
        return by_seed_RVS[:, :, 0]
    return np.einsum("rvs,rs->rv", by_seed_RVS, seeds_RS) / seeds_RS.sum(1)[:, None]


def tau(scores_RV: np.ndarray, target_RV: np.ndarray) -> np.ndarray:
    """(R,) Kendall's tau-b; 0 where one side ties all variants."""
    ours_RP, theirs_RP = _signs(scores_RV), _signs(target_RV)
    scale_R = np.sqrt((ours_RP**2).sum(1) * (theirs_RP**2).sum(1))
    return np.divide((ours_RP * theirs_RP).sum(1), scale_R, out=np.zeros(len(scale_R)), where=scale_R > 0)


def decision_accuracy(scores_RV: np.ndarray, target_RV: np.ndarray, at_least: float = 0.0) -> np.ndarray:
    """(R,) share of the pairs that the target tells apart which the scores order alike; a tie of the scores is half
    right. Only those pairs count that lie `at_least` so far apart in the target as it is."""
    first, second = np.triu_indices(target_RV.shape[1], 1)
    far_P = np.abs(target_RV[0, first] - target_RV[0, second]) >= at_least
    ours_RP, theirs_RP = _signs(scores_RV)[:, far_P], _signs(target_RV)[:, far_P]
    num_R = (theirs_RP != 0).sum(1)
    right_R = (0.5 * (1 + ours_RP * theirs_RP) * (theirs_RP != 0)).sum(1)
    return np.divide(right_R, num_R, out=np.full(len(num_R), 0.5), where=num_R > 0)


def interval(values_R: np.ndarray) -> tuple[float, float, float]:
    """Value, and the 95 % percentile interval of its resamples."""
    low, high = np.percentile(values_R[1:], [2.5, 97.5])
    return float(values_R[0]), float(low), float(high)


def _signs(scores_RV: np.ndarray) -> np.ndarray:
    """(R, P) of each pair's difference; means that differ by rounding alone are a tie."""
    first, second = np.triu_indices(scores_RV.shape[1], 1)
    differences_RP = scores_RV[:, first] - scores_RV[:, second]
    return np.sign(np.where(np.abs(differences_RP) < 1e-9, 0.0, differences_RP))
