"""Statistics, each worked by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_ranking import result

from softprompt import statistics
from softprompt.diagnosis import diagnose
from softprompt.errors import BadStudy
from softprompt.protocol import Protocol
from softprompt.ranking import Ranking, rank
from softprompt.result import Result
from softprompt.scores import agreement, score
from softprompt.statistics import Means

RNG = np.random.default_rng(7)


# Means over items and seeds


def means(values: object, **settings: Any) -> Means:
    """Of marks from 0 to 1, (V, S, I)."""
    array = np.array(values, dtype=float)
    return Means.of_variants(array, settings.get("weights", np.ones(array.shape[-1])), 0.0, 1.0)


def differences(values: object) -> Means:
    array = np.array(values, dtype=float)
    return Means.of_differences(array, np.ones(array.shape[-1]), 0.0, 1.0)


def test_a_mean_worked_by_hand() -> None:
    """Agresti and Coull: two right and two wrong items are added, so that 300 of 396 count as 302 of 400."""
    found = means([[[1] * 300 + [0] * 96]])
    error = np.sqrt(0.755 * 0.245 / 399)
    low, high = 0.755 - stats.t.ppf(0.975, 399) * error, 0.755 + stats.t.ppf(0.975, 399) * error
    assert found.value_X.tolist() == [pytest.approx(300 / 396)]
    assert [limit.item() for limit in found.interval()] == pytest.approx([low, high])


def test_an_interval_is_never_empty_and_never_beyond_what_can_be() -> None:
    (low, high), (lowest, highest) = (means([[[mark] * 100]]).interval() for mark in (0, 1))
    assert low == 0 and highest == 1
    assert 0.03 < high < 0.06 and 0.94 < lowest < 0.97  # no more than 3 in 100 are likely (Hanley & Lippman-Hand, 1983)


def test_a_difference_worked_by_hand() -> None:
    """Bonett and Price: of 100 items the first alone is right on 14, the second alone on 5; one more of each is added,
    so that the difference is 9 / 102 and the variance of an item's (15 + 6 - 81 / 102) / 101."""
    found = differences([[[1] * 14 + [0] * 5 + [1] * 81], [[0] * 14 + [1] * 5 + [1] * 81]])
    error = np.sqrt((21 - 81 / 102) / 101 / 102)
    assert found.value_X.tolist() == [pytest.approx(0.09)]
    assert found.p_values() == [pytest.approx(2 * stats.t.sf(9 / 102 / error, 101))]
    half = stats.t.ppf(0.975, 101) * error
    assert [limit.item() for limit in found.interval()] == pytest.approx([9 / 102 - half, 9 / 102 + half])


def test_few_items_in_a_row_prove_little() -> None:
    """A sign test asks for six items, all in favour of the same."""
    p_values = [differences([[[1] * num], [[0] * num]]).p_values()[0] for num in (1, 4, 7)]
    assert p_values[0] > p_values[1] > 0.05 > p_values[2]


def test_seeds_that_disagree_count_as_so_few_as_they_are() -> None:
    """Three seeds right on 40, 50 and 60 % of very many items: the mean of three numbers, Student's t with two degrees
    of freedom."""
    shares = np.array([0.4, 0.5, 0.6])
    found = means([[np.arange(100_000) < 100_000 * share for share in shares]])
    half = stats.t.ppf(0.975, 2) * shares.std(ddof=1) / np.sqrt(3)
    assert found.freedom_X.item() == pytest.approx(2, rel=0.01)
    assert [limit.item() for limit in found.interval()] == pytest.approx([0.5 - half, 0.5 + half], abs=0.002)


def test_what_variants_share_cancels_out_of_their_difference() -> None:
    """One variant is right wherever the other is, and on one item in ten more."""
    base_SI = RNG.random((3, 200)) < 0.5
    more_SI = base_SI | (np.arange(200) % 10 == 0)
    assert differences([more_SI, base_SI]).variance_X.item() < 0.5 * means([more_SI]).variance_X.item()


def test_weights_count_items_more_or_less() -> None:
    weights = np.array([3.0] * 10 + [1.0] * 30) * 40 / 60
    found = means([[[1] * 10 + [0] * 30]], weights=weights)
    assert found.value_X.tolist() == [pytest.approx(0.5)]
    assert found.variance_X.item() > means([[[1] * 20 + [0] * 20]]).variance_X.item()


def test_benchmarks_are_averaged_with_their_errors() -> None:
    """Two alike halve the variance. Where nothing is right the error lies on one side."""
    half, none = means([[[0, 1] * 50]]), means([[[0] * 100]])
    both = Means.average([half, half])
    assert both.variance_X.item() == pytest.approx(half.variance_X.item() / 2)
    assert both.freedom_X.item() == pytest.approx(2 * half.freedom_X.item())
    low, high = Means.average([none] * 10).interval()
    assert low == 0 and high < none.interval()[1]


# Resamples of items and seeds


def bootstrapped(values: object) -> np.ndarray:
    array = np.array(values, dtype=float)
    return statistics.crossed_bootstrap(array, np.ones(array.shape[-1]), 0)


def test_with_one_seed_the_items_alone_are_drawn() -> None:
    """A mean of 400 coin throws has the standard error sqrt(0.5 * 0.5 / 400) = 0.025."""
    drawn_R1 = bootstrapped([[[0, 1] * 200]])
    assert drawn_R1.std() == pytest.approx(0.025, rel=0.1)
    assert drawn_R1.mean() == pytest.approx(0.5, abs=0.003)


def test_as_many_seeds_are_drawn_as_give_their_variance() -> None:
    """Three seeds, one all right and two all wrong: their mean has the variance ((2/3)^2 + 2 (1/3)^2) / 2 / 3 = 1/9."""
    drawn_R1 = bootstrapped([[[1] * 50, [0] * 50, [0] * 50]])
    assert set(np.round(drawn_R1[:, 0], 6)) == {0.0, 0.5, 1.0}
    assert drawn_R1.std() == pytest.approx(1 / 3, rel=0.05)


def test_variants_draw_the_same_items_and_the_same_seeds() -> None:
    base_SI = RNG.random((3, 200)) < 0.5
    more_SI = base_SI | (np.arange(200) % 10 == 0)
    drawn_RV = bootstrapped([more_SI, base_SI])
    assert (drawn_RV[:, 0] - drawn_RV[:, 1]).std() < 0.6 * drawn_RV[:, 0].std()
    assert (drawn_RV[:, 0] >= drawn_RV[:, 1]).all()


# Which variants can be told apart


def test_holm_worked_by_hand() -> None:
    """0.01 * 4 = 0.04; 0.02 * 3 = 0.06; 0.03 * 2 = 0.06; 0.005 is the smallest of four... see the order."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


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


def test_scores_of_several_steps_or_protocols_are_refused_and_agreement_of_one_variant() -> None:
    first = result("A", "cloze", "10")
    for other in ({"step": 200}, {"protocol": Protocol(num_steps=40)}):
        with pytest.raises(BadStudy, match=f"several {next(iter(other))}s, such as .* never compared"):
            score([first, result("B", "cloze", "10", **other)], ["cloze"], "cue")
    scores = score([first, result("B", "cloze", "11")], ["cloze"], "cue")
    with pytest.raises(BadStudy, match=r"Scores are of B, A, the target of A, b; expected two variants or more in c"):
        agreement(scores, {"A": 0.9, "b": 0.8})


def test_scores_that_lack_a_benchmark_are_refused() -> None:
    with pytest.raises(BadStudy, match="no result under cue on quiz for B"):
        score([result("A", "quiz", "10"), result("B", "cloze", "10")], ["quiz"], "cue")


# Benchmarks


def test_the_spread_of_equal_variants_is_one_noise() -> None:
    """Five variants that throw the same coin."""
    ratios, few = [], 0
    for _ in range(300):
        values_VSI = RNG.random((5, 3, 200)) < 0.5
        apart = differences(values_VSI)
        ratios.append(statistics.signal_to_noise(means(values_VSI).value_X, apart))
        few += statistics.p_of_spread(ratios[-1], apart, 5) < 0.05
    assert 0.4 < np.mean(np.square(ratios)) < 1.05
    assert few / 300 < 0.08


def test_signal_to_noise_worked_by_hand() -> None:
    """Variants at 0.4, 0.5 and 0.6 spread by 0.1; the errors of their differences are the noise, twice."""
    values_VSI = np.array([[RNG.permutation(1000) < 10 * share] for share in (40, 50, 60)])
    apart = differences(values_VSI)
    ratio = statistics.signal_to_noise(means(values_VSI).value_X, apart)
    assert ratio == pytest.approx(0.1 / np.sqrt(apart.variance_X.mean() / 2))
    many = replace(apart, freedom_X=np.full(3, 1e9))
    assert statistics.p_of_spread(1.0, many, 3) == pytest.approx(np.exp(-1))  # chi-squared, two degrees of freedom


def test_above_chance_worked_by_hand() -> None:
    """330 of 1,200 against a chance of a quarter: 0.025 above, two standard errors. Nothing right is not above 0."""
    found = means([[[1] * 330 + [0] * 870], [[0] * 1200]])
    error = np.sqrt(found.variance_X[0])
    over_chance = replace(found, value_X=found.value_X - 0.25)
    assert over_chance.p_above()[0] == pytest.approx(stats.t.sf(0.025 / error, found.freedom_X[0]))
    assert found.p_above()[1] == 0.5


def test_monotonicity_worked_by_hand() -> None:
    """Ranks 1 2 3 against 1 3 2: 1 - 6 * 2 / (3 * 8) = 0.5. The second curve is too short to count. In any order the
    correlation of three has the variance 1/2."""
    assert statistics.monotonicity([{100: 0.1, 200: 0.3, 300: 0.2}, {100: 0.5}]) == (
        pytest.approx(0.5),
        pytest.approx(stats.norm.cdf(0.5 * 2**0.5)),
    )
    assert statistics.monotonicity([{100: 0.2, 200: 0.2, 300: 0.2}]) == (0, 0.5)
    assert statistics.monotonicity([{100: 0.1, 200: 0.2}]) is None


def test_monotonicity_is_spearmans() -> None:
    values = [0.1, 0.3, 0.3, 0.2, 0.3, 0.9, 0.1]
    found = statistics.monotonicity([dict(enumerate(values))])
    assert found is not None
    assert found[0] == pytest.approx(stats.spearmanr(range(len(values)), values).statistic)


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
    assert "left out" not in reasons(A=[90, 91, 90], B=[70, 69, 68])
    assert "falls over training (Spearman's correlation with the step -1.00, p = 0.023)" in reasons(
        A=[90, 85, 80], B=[70, 65, 60]
    )
