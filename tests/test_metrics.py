import random
from dataclasses import replace

import pytest
from scipy.stats import binomtest

from softprompt.metrics import MIN_FOLLOWING, Outcome, chance_centred, is_saturated, per_item, summarise, wilson


def outcome(item: int, seed: int | None, follows: bool, correct: bool, *, stopped: bool = True) -> Outcome:
    return Outcome(
        condition="cue",
        item=str(item),
        seed=seed,
        output="",
        stopped=stopped,
        answer="x" if follows else None,
        correct=correct,
        lenient_correct=correct,
    )


def random_outcomes(rng: random.Random, num_items: int, num_seeds: int) -> list[Outcome]:
    found = []
    for item in range(num_items):
        for seed in range(num_seeds):
            stopped = rng.random() < 0.9
            follows = stopped and rng.random() < 0.7
            found.append(outcome(item, seed, follows, follows and rng.random() < 0.4, stopped=stopped))
    return found


def in_groups(outcomes: list[Outcome], num_in_first: int) -> list[Outcome]:
    """The first so many items are one group, the others another."""
    return [replace(o, group="small" if int(o.item) < num_in_first else "large") for o in outcomes]


@pytest.mark.parametrize("num_in_first", [0, 12])
def test_accuracy_is_format_following_times_knowledge_accuracy(num_in_first: int) -> None:
    for draw in range(20):
        outcomes = random_outcomes(random.Random(draw), num_items=57, num_seeds=3)
        metrics = summarise(in_groups(outcomes, num_in_first))
        product = metrics["format_following"].value * metrics["knowledge_accuracy"].value
        assert metrics["accuracy"].value == pytest.approx(product, abs=1e-15)


def test_groups_count_alike_however_many_items_they_have() -> None:
    """10 items all right, 90 of which 30 are: (1 + 1/3) / 2."""
    outcomes = [outcome(item, seed, True, item < 40) for item in range(100) for seed in range(2)]
    assert summarise(outcomes)["accuracy"].value == 0.4
    grouped = summarise(in_groups(outcomes, 10))
    assert grouped["accuracy"].value == pytest.approx(2 / 3)
    assert grouped["knowledge_accuracy"].value == pytest.approx(2 / 3)
    assert grouped["accuracy"].n == 100


def test_groups_of_unequal_size_leave_more_uncertainty_and_those_of_one_size_do_not() -> None:
    """Weights 5 and 5/9 (10 and 90 items) weigh as much as 36 equal items."""
    outcomes = [outcome(item, None, True, item % 2 == 0) for item in range(100)]
    plain, unequal, equal = (summarise(found) for found in (outcomes, in_groups(outcomes, 10), in_groups(outcomes, 50)))
    for name in ("accuracy", "format_gap"):
        assert (equal[name].low, equal[name].high) == pytest.approx((plain[name].low, plain[name].high))
    few = summarise(outcomes[:36])["accuracy"]
    assert (unequal["accuracy"].low, unequal["accuracy"].high) == pytest.approx((few.low, few.high))


def test_the_interval_of_a_mean_over_items_is_the_textbooks() -> None:
    scored = [replace(outcome(i, None, True, True), gold_bits=bits, gold_bytes=1) for i, bits in enumerate((1, 2, 6))]
    found = summarise(scored)["gold_bits_per_byte"]
    assert (found.value, found.high - found.value) == pytest.approx((3, 1.959964 * (7 / 3) ** 0.5))


@pytest.mark.parametrize("draw", range(5))
def test_an_output_follows_the_format_or_is_unparseable_or_is_truncated(draw: int) -> None:
    metrics = summarise(random_outcomes(random.Random(draw), num_items=40, num_seeds=2))
    parts = [metrics[name].value for name in ("format_following", "unparseable", "truncated")]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(1)


def test_a_truncated_output_is_not_also_unparseable() -> None:
    metrics = summarise([outcome(item, None, False, False, stopped=item > 0) for item in range(4)])
    assert (metrics["truncated"].value, metrics["unparseable"].value) == (0.25, 0.75)


def test_knowledge_accuracy_is_absent_where_too_few_outputs_follow() -> None:
    few = [outcome(item, seed, item < MIN_FOLLOWING - 1, False) for item in range(50) for seed in range(2)]
    assert "knowledge_accuracy" not in summarise(few)
    one_more = [replace(o, answer="x") if o.item == "49" else o for o in few]
    assert summarise(one_more)["knowledge_accuracy"].value == 0


def test_n_counts_items_and_not_seeds() -> None:
    """Three seeds on the same items are no more items: the interval is as wide as that of one."""
    one = summarise([outcome(item, 0, True, item < 30) for item in range(100)])
    three = summarise([outcome(item, seed, True, item < 30) for item in range(100) for seed in range(3)])
    assert three["accuracy"].n == three["knowledge_accuracy"].n == three["format_gap"].n == 100
    assert three == one


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (7, 20), (50, 100), (100, 100)])
def test_wilson_agrees_with_scipy(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    found = wilson(successes / n, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_by_hand() -> None:
    """Half of 4: centre 0.5, half width z / (1 + z^2 / 4) * sqrt(1 / 16 + z^2 / 64) = 0.35 with z = 1.96."""
    found = wilson(0.5, 4)
    assert (found.low, found.high) == pytest.approx((0.150, 0.850), abs=5e-4)


def test_the_format_gap_is_what_formatting_hides() -> None:
    hidden = [replace(outcome(item, None, item < 10, item < 10), lenient_correct=item < 15) for item in range(20)]
    metrics = summarise(hidden)
    assert metrics["format_gap"].value == pytest.approx(0.25)
    assert metrics["lenient_accuracy"].value - metrics["accuracy"].value == pytest.approx(0.25)


def test_format_free_metrics_are_there_only_if_every_item_has_them() -> None:
    scored = [
        replace(outcome(item, None, False, False), choice_correct=item == 0, gold_bits=6.0, gold_bytes=3)
        for item in range(4)
    ]
    metrics = summarise(scored)
    assert metrics["choice_accuracy"].value == 0.25
    assert metrics["gold_bits_per_byte"].value == 2
    partly = summarise([*scored, outcome(4, None, False, False)])
    assert "choice_accuracy" not in partly
    assert "gold_bits_per_byte" not in partly


def test_seeds_are_averaged_within_an_item() -> None:
    outcomes = [outcome(0, 0, True, True), outcome(0, 1, True, False), outcome(1, 0, True, True)]
    assert per_item(outcomes, lambda o: o.correct) == {"0": 0.5, "1": 1.0}


def test_chance_centred_accuracy_is_0_at_guessing_and_1_at_perfect() -> None:
    assert [chance_centred(accuracy, 0.25) for accuracy in (0.25, 1.0, 0.0)] == pytest.approx([0, 1, -1 / 3])


@pytest.mark.parametrize(
    ("curve", "saturated"), [([0.1, 0.5, 0.6], False), ([0.1, 0.6, 0.6], True), ([0.6, 0.5], True)]
)
def test_a_curve_that_still_rises_is_not_saturated(curve: list[float], saturated: bool) -> None:
    assert is_saturated(curve) is saturated
