"""Statistics, each worked by hand."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from test_ranking import result

from softprompt import statistics
from softprompt.diagnosis import diagnose
from softprompt.errors import BadStudy
from softprompt.ranking import Ranking, rank
from softprompt.result import Result
from softprompt.scores import agreement, score

RNG = np.random.default_rng(7)


# Bootstrap over items and seeds


def bootstrapped(values: object) -> np.ndarray:
    array = np.array(values, dtype=float)
    return statistics.crossed_bootstrap(array, np.ones(array.shape[-1]), 0)


def test_with_one_seed_the_items_alone_are_drawn() -> None:
    """A mean of 400 coin throws has the standard error sqrt(0.5 * 0.5 / 400) = 0.025."""
    drawn_R1 = bootstrapped([[[0, 1] * 200]])
    assert drawn_R1.std() == pytest.approx(0.025, rel=0.1)
    assert drawn_R1.mean() == pytest.approx(0.5, abs=0.003)


def test_seeds_that_disagree_widen_the_interval() -> None:
    """Two seeds, all right and all wrong: half of the resamples draw one of each, a quarter each the same twice, so
    that the standard deviation is sqrt(1/4 * (1/2)^2 * 2) = 0.354, whatever the items."""
    drawn_R1 = bootstrapped([[[1] * 50, [0] * 50]])
    assert set(np.round(drawn_R1[:, 0], 6)) == {0.0, 0.5, 1.0}
    assert drawn_R1.std() == pytest.approx(0.354, rel=0.05)


def test_variants_draw_the_same_items_and_the_same_seeds() -> None:
    """One variant is right wherever the other is, and on one item in ten more: what both share cancels out."""
    base_SI = RNG.random((3, 200)) < 0.5
    more_SI = base_SI | (np.arange(200) % 10 == 0)
    drawn_RV = bootstrapped([more_SI, base_SI])
    assert (drawn_RV[:, 0] - drawn_RV[:, 1]).std() < 0.6 * drawn_RV[:, 0].std()
    assert (drawn_RV[:, 0] >= drawn_RV[:, 1]).all()


def test_weights_count_items_more_or_less() -> None:
    drawn_R1 = statistics.crossed_bootstrap(np.array([[[1.0] * 10 + [0.0] * 30]]), np.array([3.0] * 10 + [1.0] * 30), 0)
    assert drawn_R1.mean() == pytest.approx(0.5, abs=0.01)


# Which variants can be told apart


def test_holm_worked_by_hand() -> None:
    """0.01 * 4 = 0.04; 0.02 * 3 = 0.06; 0.03 * 2 = 0.06; 0.005 is the smallest of four... see the order."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_the_p_value_of_a_difference_worked_by_hand() -> None:
    """Differences of 0.06 whose paired error is 0.03 lie two errors from 0: p = 0.0455."""
    noise_R = RNG.normal(0, 0.03, 200_000)
    drawn_RV = np.stack([noise_R, np.zeros_like(noise_R)], axis=1)
    assert statistics.p_of_differences(np.array([0.56, 0.50]), drawn_RV) == [pytest.approx(0.0455, abs=0.001)]
    same_RV = np.stack([noise_R, noise_R], axis=1)
    assert statistics.p_of_differences(np.array([0.5, 0.5]), same_RV) == [1.0]
    assert statistics.p_of_differences(np.array([0.6, 0.5]), same_RV) == [0.0]


@pytest.mark.parametrize(
    ("apart", "groups"),
    [
        ((), [(0, 3)]),
        (((0, 3),), [(0, 2), (1, 3)]),
        (((0, 1), (0, 2), (0, 3)), [(1, 3)]),
        (((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)), []),
        (((1, 2),), [(0, 3)]),  # enclosed by pairs that are not told apart, so not claimed
    ],
)
def test_groups_are_runs_of_the_ranking(apart: Sequence[tuple[int, int]], groups: list[tuple[int, int]]) -> None:
    p_values = [0.01 if pair in apart else 0.5 for pair in zip(*statistics.pairs(4), strict=True)]
    assert statistics.level_groups(p_values, 4) == groups


def test_more_pairs_ask_for_more_evidence() -> None:
    """Of two variants a difference of 9 items in 100 against 1 counts (p = 0.02); with five more pairs it does not."""
    close = [result("A", "cloze", "1" * 59 + "0" * 41), result("B", "cloze", "1" * 51 + "0" * 8 + "0" * 40 + "1")]
    alone = rank(close, ["cloze"]).comparisons[0]
    among = rank([*close, *(result(v, "cloze", "10" * 50) for v in "CD")], ["cloze"])
    assert alone.p_value < 0.05 < among.comparisons[0].p_value
    assert alone.distinguishable and not among.comparisons[0].distinguishable
    assert "A, B, C, D cannot be told apart" in among.sentences()
    assert Ranking.from_dict(among.to_dict()) == among


# Orders


def test_concordance_worked_by_hand() -> None:
    """Of six pairs the scores order four as the truth does, one the other way and tie one: tau-b = 3 / sqrt(5 * 6)."""
    truth = dict(zip("ABCD", (4.0, 3.0, 2.0, 1.0), strict=True))
    scores = dict(zip("ABCD", (9.0, 7.0, 8.0, 7.0), strict=True))
    assert statistics.kendall_tau(scores, truth) == pytest.approx(3 / 30**0.5)
    assert statistics.kendall_tau(scores, truth) == pytest.approx(
        stats.kendalltau(list(scores.values()), list(truth.values())).statistic
    )
    assert statistics.decision_accuracy(scores, truth) == pytest.approx(4.5 / 6)


@pytest.mark.parametrize(
    ("scores", "tau", "accuracy"),
    [
        ((3, 2, 1), 1, 1),
        ((1, 2, 3), -1, 0),
        ((2, 3, 1), pytest.approx(1 / 3), pytest.approx(2 / 3)),
        ((1, 1, 1), 0, 0.5),
    ],
)
def test_orders_are_compared_by_pairs(scores: tuple[float, ...], tau: float, accuracy: float) -> None:
    truth = {"A": 0.9, "B": 0.7, "C": 0.5}
    ours = dict(zip("ABC", scores, strict=True))
    assert (statistics.kendall_tau(ours, truth), statistics.decision_accuracy(ours, truth)) == (tau, accuracy)


def test_an_agreement_with_the_truth_is_as_sure_as_the_items_make_it() -> None:
    """A and B are 30 items apart, B and C one: the draws disagree about the second pair alone."""
    results = [
        result("A", "cloze", "1" * 90 + "0" * 10),
        result("B", "cloze", "1" * 60 + "0" * 40),
        result("C", "cloze", "0" * 20 + "1" * 59 + "0" * 21),
    ]
    scores = score(results, ["cloze"], "cue")
    found = agreement(scores, {"A": 0.9, "B": 0.6, "C": 0.59})
    assert (found.tau.value, found.tau.n, found.decision_accuracy.value) == (1.0, 3, 1.0)
    assert (found.tau.low, found.decision_accuracy.low) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found.tau.high == 1
    itself = agreement(scores, scores)
    assert itself.tau.low == itself.tau.high == 1  # the same resamples on both sides


def test_scores_that_lack_a_benchmark_are_refused() -> None:
    with pytest.raises(BadStudy, match="no result under cue on quiz for B"):
        score([result("A", "quiz", "10"), result("B", "cloze", "10")], ["quiz"], "cue")


# Benchmarks


def test_the_spread_of_equal_variants_is_one_noise() -> None:
    """Means of five equal variants, drawn from the very distribution that their resamples have."""
    errors = np.array([0.01, 0.02, 0.02, 0.02, 0.03])
    drawn_RV = RNG.normal(0, errors, (20_000, 5))
    ratios = [statistics.signal_to_noise(RNG.normal(0.5, errors), drawn_RV) for _ in range(300)]
    assert np.mean(np.square(ratios)) == pytest.approx(1, abs=0.15)
    assert np.mean([statistics.p_of_spread(ratio, 5) < 0.05 for ratio in ratios]) < 0.12


def test_signal_to_noise_worked_by_hand() -> None:
    """Scores 0.4, 0.5, 0.6 spread by 0.1; independent errors of 0.02 are the noise: 5 to 1."""
    drawn_RV = RNG.normal(0, 0.02, (200_000, 3))
    ratio = statistics.signal_to_noise(np.array([0.4, 0.5, 0.6]), drawn_RV)
    assert ratio == pytest.approx(5, rel=0.01)
    assert statistics.p_of_spread(1.0, 3) == pytest.approx(np.exp(-1))  # chi-squared with two degrees of freedom


def test_above_chance_worked_by_hand() -> None:
    """0.06 above chance with an error of 0.03: one-sided p = 0.023. Without any spread the sign decides."""
    drawn_RV = np.stack([RNG.normal(0.06, 0.03, 200_000), np.zeros(200_000)], axis=1)
    assert statistics.p_above(np.array([0.06, 0.0]), drawn_RV) == [pytest.approx(0.0228, abs=0.0005), 1.0]


def test_monotonicity_worked_by_hand() -> None:
    """Ranks 1 2 3 against 1 3 2: 1 - 6 * 2 / (3 * 8) = 0.5. The second curve is too short to count."""
    assert statistics.monotonicity([{100: 0.1, 200: 0.3, 300: 0.2}, {100: 0.5}]) == pytest.approx(0.5)
    assert statistics.monotonicity([{100: 0.2, 200: 0.2, 300: 0.2}]) == 0
    assert statistics.monotonicity([{100: 0.1, 200: 0.2}]) is None


# The diagnosis


def training(**marks: Sequence[int]) -> list[Result]:
    """Variants over the steps 100, 200, ...; marks are shares of 200 items, in percent."""
    return [
        result(variant, "cloze", "1" * 2 * share + "0" * (200 - 2 * share), step=100 * (number + 1))
        for variant, shares in marks.items()
        for number, share in enumerate(shares)
    ]


def diagnosed(results: Sequence[Result]) -> tuple[Ranking, list[str]]:
    rankings = [rank(results, ["cloze"], step=step) for step in sorted({r.step for r in results})]
    found = diagnose(rankings[-1], rankings)
    return rankings[-1], found.sentences()


def test_the_order_has_settled_where_it_stays_as_it_ends() -> None:
    """C overtakes B between 200 and 300; D, which cannot be told from B at the end, may change places with it."""
    results = training(A=[10, 50, 70, 90], B=[20, 30, 40, 50], C=[10, 20, 60, 70], D=[21, 29, 41, 49])
    rankings = [rank(results, ["cloze"], step=step) for step in (100, 200, 300, 400)]
    found = diagnose(rankings[-1], rankings)
    assert rankings[-1].groups == (("B", "D"),)
    assert (found.num_apart, found.settled_at) == (5, 300)
    assert [m.step for m in found.moments] == [100, 200, 300, 400]
    assert found.moments[-1].decision_accuracy == 1
    assert found.moments[1].decision_accuracy == pytest.approx(4 / 6)
    assert found.moments[3].tau_before == pytest.approx(4 / 6)
    assert "The 5 pairs that can be told apart have been in this order since step 300 of 400" in found.sentences()


def test_an_order_that_is_new_has_not_settled() -> None:
    assert "has not settled" in diagnosed(training(A=[10, 90], B=[20, 40]))[1][0]
    assert "No two variants can be told apart yet" in diagnosed(training(A=[10, 40], B=[20, 40]))[1][0]
    assert diagnosed(training(A=[10], B=[20]))[1] == []


def test_a_benchmark_is_better_left_out_for_a_reason() -> None:
    def reasons(**marks: Sequence[int]) -> str:
        results = [replace(r, chance=0.5) for r in training(**marks)]
        return " ".join(diagnosed(results)[1])

    good = reasons(A=[55, 70, 90], B=[50, 60, 70])
    assert "left out" not in good
    assert "no variant is above chance yet" in reasons(A=[40, 45, 50], B=[35, 42, 44])
    assert "differ no more than chance" in reasons(A=[60, 65, 80], B=[61, 66, 80])
    assert "does not rise over training (Spearman's correlation with the step -1.00)" in reasons(
        A=[90, 85, 80], B=[70, 65, 60]
    )
