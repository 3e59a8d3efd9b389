"""How often a ranking claims what is not so: equal variants, drawn again and again.

    OMP_WAIT_POLICY=PASSIVE python scripts/calibration.py --out docs/evidence/calibration.md

Variants are equally good; what differs is luck. Whether an item is right hangs on its difficulty, on what the variants
have in common, and on luck of the variant and of the prompt seed; each tuning of a variant on a benchmark is a little
better or worse than it should be, by a normal number whose standard deviation is the `spread of the seeds`.
"""

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import track
from scipy.special import ndtr

from softprompt.scores import Scores
from softprompt.statistics import LEVEL, Floats, holm

# Seeds, items of each benchmark, benchmarks, variants, spread of the seeds.
SETTINGS = [
    (3, 420, 1, 2, 0.0),
    (3, 420, 1, 2, 0.02),
    (3, 420, 1, 2, 0.05),
    (3, 420, 1, 2, 0.2),
    (3, 140, 3, 3, 0.02),
    (3, 500, 6, 8, 0.02),
    (3, 500, 6, 8, 0.05),
    (3, 500, 6, 8, 0.2),
    (5, 500, 6, 8, 0.05),
    (2, 500, 6, 8, 0.05),
    (1, 500, 6, 8, 0.0),
    (1, 500, 6, 8, 0.05),
    (3, 20, 1, 2, 0.02),
    (3, 5, 1, 2, 0.0),
]
ACCURACIES = (0.5, 0.9, 0.01)
SHARED = 0.5
"""Of an item's luck, between variants; of what is left, between the seeds of one."""


def draw(rng: np.random.Generator, accuracy: float, seeds: int, items: int, variants: int, spread: float) -> Floats:
    """(V, S, I) marks of equal variants on one benchmark."""
    luck_VSI = (
        rng.normal(size=items) * SHARED
        + rng.normal(size=(variants, 1, items)) * SHARED
        + rng.normal(size=(variants, seeds, items)) * (1 - 2 * SHARED**2) ** 0.5
    )
    off_VS1 = rng.normal(0, spread, (variants, seeds, 1))
    return (ndtr(luck_VSI) < accuracy + off_VS1).astype(float)


def measure(
    accuracy: float, seeds: int, items: int, benchmarks: int, variants: int, spread: float, num: int
) -> list[float]:
    """Shares of `num` rankings: with any false claim; of scores and of differences outside of their 95 % interval."""
    rng = np.random.default_rng([seeds, items, benchmarks, variants, int(1000 * spread), int(1000 * accuracy)])
    truth = np.clip(accuracy + rng.normal(0, spread, 100_000), 0, 1).mean()
    claims, scores_out, differences_out = [], [], []
    for _ in range(num):
        scores = Scores(
            variants=tuple(map(str, range(variants))),
            benchmarks=tuple(map(str, range(benchmarks))),
            chances=(0.0,) * benchmarks,
            values=tuple(draw(rng, accuracy, seeds, items, variants, spread) for _ in range(benchmarks)),
            weights=(np.ones(items),) * benchmarks,
            num_seeds=seeds,
        )
        claims.append(min(holm(scores.differences.p_values())) <= LEVEL)
        low_V, high_V = scores.means.interval()
        scores_out.append(((low_V > truth) | (high_V < truth)).mean())
        low_P, high_P = scores.differences.interval()
        differences_out.append(((low_P > 0) | (high_P < 0)).mean())
    return [float(np.mean(found)) for found in (claims, scores_out, differences_out)]


COLUMNS = (
    "seeds",
    "items a benchmark",
    "benchmarks",
    "variants",
    "spread of the seeds",
    "accuracy",
    "claims",
    "scores outside",
    "differences outside",
)


def page(rows: Sequence[str], num: int) -> str:
    said = (
        f"{datetime.date.today()}, `python scripts/calibration.py --num {num}`: {num:,} rankings of equal variants for "
        "each row. Claims: rankings that call any variant ahead of another, which is never so and may happen in 5 %. "
        "Outside: scores, and differences of two, whose 95 % interval lacks the truth. Spread of the seeds: standard "
        "deviation of what one tuning scores more or less than another, in accuracy."
    )
    why = (
        "One seed shows nothing of that spread, so that a ranking by one seed says so. Too careful where the seeds do "
        "not differ: what items and seeds have between them counts as both. A little too bold where three seeds on a "
        "single benchmark differ much, whose accuracies near 0 and 1 are lopsided."
    )
    table = [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|", *rows]
    return "\n\n".join(["# Calibration", said, "\n".join(table), why]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=1000, help="rankings for each row")
    parser.add_argument("--out", type=Path, help="write the page here")
    given = parser.parse_args()
    cases = [(accuracy, *setting) for setting in SETTINGS for accuracy in ACCURACIES if setting[-1] <= accuracy]
    rows = []
    for case in track(cases):
        found = measure(*case, num=given.num)
        accuracy, seeds, items, benchmarks, variants, spread = case
        cells = (seeds, items, benchmarks, variants, spread, accuracy, *(f"{share:.1%}" for share in found))
        rows.append(f"| {' | '.join(map(str, cells))} |")
    found = page(rows, given.num)
    print(found)
    if given.out:
        given.out.write_text(found)


if __name__ == "__main__":
    main()
