import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from softprompt.cost import Cost
from softprompt.errors import BadStudy
from softprompt.metrics import Outcome, summarise
from softprompt.protocol import Protocol
from softprompt.ranking import ONE_SEED, Ranking, history, matched_steps, rank
from softprompt.result import CurvePoint, Result

CHANCE = {"quiz": 0.25, "cloze": 0.0}


def result(
    variant: str, benchmark: str, *marks: str, step: int = 100, items: Sequence[str] = (), **changes: Any
) -> Result:
    """A result from its marks by item, one text of 1s and 0s per seed: '1101' is three of four right."""
    outcomes = tuple(
        Outcome(
            condition="cue",
            item=items[i] if items else f"item-{i}",
            seed=seed,
            output="x",
            stopped=True,
            answer="x",
            correct=mark == "1",
            lenient_correct=mark == "1",
        )
        for seed, row in enumerate(marks)
        for i, mark in enumerate(row)
    )
    values: dict[str, Any] = {
        "job_key": f"{variant} {benchmark} {step}",
        "variant": variant,
        "step": step,
        "tokens": None,
        "benchmark": benchmark,
        "chance": CHANCE[benchmark],
        "protocol": Protocol(),
        "metrics": {"cue": summarise(outcomes)},
        "curves": {},
        "diverged": {},
        "cost": Cost(),
        "provenance": {},
        "outcomes": outcomes,
    }
    return Result(**{**values, **changes})


def with_format_following(found: Result, share: float) -> Result:
    """`found` with a tuning curve, and with so large a share of outputs in the right format."""
    metrics = {**found.metrics["cue"]}
    metrics["format_following"] = replace(metrics["format_following"], value=share)
    return replace(found, metrics={"cue": metrics}, curves={"cue": (CurvePoint(step=0, loss=1.0, metrics=metrics),)})


def test_where_outcomes_carry_groups_the_ranking_averages_over_groups() -> None:
    """A is right on the large group, B on the small one and a little of the large one."""
    marks = {"A": "00111111", "B": "11110000"}

    def grouped(variant: str) -> Result:
        found = result(variant, "cloze", marks[variant])
        outcomes = tuple(
            replace(o, group="small" if o.item in ("item-0", "item-1") else "large") for o in found.outcomes
        )
        return replace(found, outcomes=outcomes, metrics={"cue": summarise(outcomes)})

    by_items = rank([result(v, "cloze", m) for v, m in marks.items()], ["cloze"])
    assert by_items.scores == {"A": 0.75, "B": 0.5}
    by_groups = rank([grouped("A"), grouped("B")], ["cloze"])
    assert by_groups.scores == pytest.approx({"B": 2 / 3, "A": 0.5})
    for standing in by_groups.standings:
        assert standing.low < standing.score < standing.high
        assert standing.accuracy["cloze"] == pytest.approx(standing.score)


def test_a_ranking_worked_by_hand() -> None:
    """quiz has chance 1/4, so that an accuracy a counts (a - 1/4) / (3/4); cloze has none.

    | variant | quiz | centred | cloze | score |
    |---|---|---|---|---|
    | A | 3/4 | 2/3 | 1/5 | 13/30 = 0.433 |
    | B | 1/4 | 0   | 4/5 | 2/5 = 0.400 |
    | C | 4/4 | 1   | 2/5 | 7/10 = 0.700 |

    Without centring B (0.525) would be ahead of A (0.475).
    """
    ranking = rank(
        [
            result("A", "quiz", "1101"),
            result("A", "cloze", "10000"),
            result("B", "quiz", "1000"),
            result("B", "cloze", "11110"),
            result("C", "quiz", "1111"),
            result("C", "cloze", "11000"),
        ],
        ["quiz", "cloze"],
    )
    assert [(s.rank, s.variant) for s in ranking.standings] == [(1, "C"), (2, "A"), (3, "B")]
    assert ranking.scores == pytest.approx({"C": 7 / 10, "A": 13 / 30, "B": 2 / 5})
    assert ranking.standings[1].accuracy == {"quiz": 0.75, "cloze": 0.2}
    assert (ranking.num_items, ranking.step, ranking.condition, ranking.incomplete) == (9, 100, "cue", {})
    assert [(c.ahead, c.behind) for c in ranking.comparisons] == [("C", "A"), ("A", "B")]
    assert [c.difference for c in ranking.comparisons] == pytest.approx([4 / 15, 1 / 30])


def test_seeds_are_averaged_and_not_counted_as_items() -> None:
    ranking = rank([result("A", "cloze", "1100", "1000")], ["cloze"])
    assert ranking.scores == {"A": 3 / 8}
    assert ranking.num_items == 4


def test_identical_variants_are_not_distinguishable() -> None:
    ranking = rank([result(variant, "cloze", "1100" * 25) for variant in "AB"], ["cloze"])
    (comparison,) = ranking.comparisons
    assert [standing.rank for standing in ranking.standings] == [1, 1]
    assert (comparison.difference, comparison.p_value) == (0, 1)
    assert ranking.sentences() == [
        "A and B are not distinguishable yet (+0.000, 95 % interval -0.028 to +0.028, p = 1.000 among all pairs)",
        ONE_SEED,
    ]


def test_a_single_seed_is_told_where_vectors_were_tuned() -> None:
    several = rank([result("A", "cloze", "10", "11")], ["cloze"])
    tuned = rank([result("A", "cloze", "10")], ["cloze"])
    plain = result("A", "cloze", "10")
    outcomes = tuple(replace(o, condition="zero_shot", seed=None) for o in plain.outcomes)
    in_words = replace(plain, outcomes=outcomes, metrics={"zero_shot": plain.metrics["cue"]})
    said = [r.cautions() for r in (several, tuned, rank([in_words], ["cloze"], condition="zero_shot"))]
    assert said == [[], [ONE_SEED], []]


def test_variants_are_compared_item_by_item() -> None:
    """Both pairs stand at 0.58 against 0.50. The first differs on 8 items of 100, all in one's favour; the second
    shares hardly anything, and so small a difference may be luck. Unpaired, both intervals would be
    2 * 1.96 * sqrt(0.58 * 0.42 / 100 + 0.50 * 0.50 / 100) = 0.28 wide."""
    half = result("half", "cloze", "1" * 50 + "0" * 50)
    alike = rank([result("more", "cloze", "1" * 58 + "0" * 42), half], ["cloze"]).comparisons[0]
    unlike = rank([result("more", "cloze", "0" * 42 + "1" * 58), half], ["cloze"]).comparisons[0]
    assert alike.difference == unlike.difference == pytest.approx(0.08)
    assert alike.high - alike.low < 0.28 / 2
    assert unlike.high - unlike.low > 0.28
    assert str(alike).startswith("more is ahead of half (+0.080")
    assert str(unlike).startswith("more and half are not distinguishable yet (+0.080")


def test_a_pair_is_claimed_only_if_all_that_enclose_it_are() -> None:
    """A and B differ on nine items, all in A's favour; C, behind both, is right on others: A and C may be level."""
    marks = {"A": "1" * 59 + "0" * 41, "B": "1" * 50 + "0" * 50, "C": "0" * 51 + "1" * 49}
    ranking = rank([result(variant, "cloze", row) for variant, row in marks.items()], ["cloze"])
    assert ranking.groups == (("A", "B", "C"),)
    assert ranking.comparisons[0].p_value < 0.05
    assert not ranking.comparisons[0].distinguishable


def test_the_order_is_of_tiers_that_can_be_told_apart() -> None:
    """Whoever comes first by luck inside a tier changes nothing of it."""
    for first, second in (("1110", "1101"), ("1101", "1110")):
        marks = {"C": "1111" * 25, "B": first * 25, "A": second * 24 + "1111", "D": "0000" * 25}
        ranking = rank([result(variant, "cloze", row) for variant, row in marks.items()], ["cloze"])
        assert ranking.tiers == (("C",), ("A", "B"), ("D",))
        assert ranking.order == "C > A, B > D"
    assert rank([result("A", "cloze", "10")], ["cloze"]).order == "A"
    assert rank([result("A", "quiz", "10")], ["quiz", "cloze"]).order == ""


def test_a_variant_without_a_benchmark_is_incomplete_and_never_averaged_over_the_rest() -> None:
    ranking = rank(
        [result("A", "quiz", "1100"), result("A", "cloze", "1100"), result("B", "quiz", "1111")], ["quiz", "cloze"]
    )
    assert list(ranking.scores) == ["A"]
    assert ranking.incomplete == {"B": ("cloze",)}
    assert "B is incomplete at step 100: no cloze" in ranking.sentences()


def test_a_variant_that_is_not_at_the_step_yet_lacks_every_benchmark() -> None:
    results = [result("A", "cloze", "10", step=200), result("B", "cloze", "11", step=100)]
    assert rank(results, ["cloze"], step=200).incomplete == {"B": ("cloze",)}


def test_nothing_complete_is_a_ranking_without_standings() -> None:
    ranking = rank([result("A", "quiz", "10")], ["quiz", "cloze"])
    assert ranking.standings == ()
    assert ranking.incomplete == {"A": ("cloze",)}


def test_scores_of_different_protocols_are_refused() -> None:
    results = [result("A", "cloze", "10"), result("B", "cloze", "11", protocol=Protocol(num_steps=40))]
    with pytest.raises(BadStudy, match="results of 2 protocols"):
        rank(results, ["cloze"])


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("benchmark_fingerprint", "several versions of cloze"),
        ("rows_fingerprint", "several versions of the rows of cloze"),
    ],
)
def test_results_of_different_versions_of_a_benchmark_or_its_rows_are_refused(of: str, message: str) -> None:
    first, second = (result(v, "cloze", "10", provenance={of: v}) for v in "AB")
    with pytest.raises(BadStudy, match=message):
        rank([first, second], ["cloze"])


def test_two_results_for_one_place_are_refused() -> None:
    results = [result("A", "cloze", "10"), result("A", "cloze", "11", job_key="of other weights")]
    with pytest.raises(BadStudy, match="two results of A on cloze at step 100"):
        rank(results, ["cloze"])


def test_no_results_are_refused() -> None:
    with pytest.raises(BadStudy, match="no results to rank yet"):
        rank([], ["cloze"])


def test_variants_that_were_given_different_items_are_refused() -> None:
    results = [result("A", "cloze", "10"), result("B", "cloze", "11", items=("item-0", "item-7"))]
    with pytest.raises(BadStudy, match="B and A were given different items of cloze"):
        rank(results, ["cloze"])


def test_the_order_of_outcomes_does_not_matter() -> None:
    first, second = result("A", "cloze", "1100"), result("B", "cloze", "1000")
    turned = replace(second, outcomes=second.outcomes[::-1])
    assert rank([first, turned], ["cloze"]) == rank([first, second], ["cloze"])


def test_the_ranked_step_is_the_latest_of_those_where_most_variants_are_complete() -> None:
    results = [
        *(result(variant, "cloze", "10", step=step) for variant in "AB" for step in (100, 200)),
        result("A", "cloze", "11", step=300),
    ]
    assert matched_steps(results, ["cloze"]) == [300, 100, 200]
    assert rank(results, ["cloze"]).step == 200
    assert [ranking.step for ranking in history(results, ["cloze"])] == [100, 200, 300]


def test_a_variant_that_holds_the_ranking_back_is_named_with_the_step_that_it_lacks() -> None:
    def cautions(steps: dict[str, tuple[int, ...]], **how: Any) -> list[str]:
        results = [result(v, "cloze", "10", "11", step=step) for v, its in steps.items() for step in its]
        return rank(results, ["cloze"], **how).cautions()

    level = {"A": (400, 800), "B": (400, 800), "C": (400, 800)}
    assert cautions(level) == []
    assert cautions({**level, "E": (400,)}) == [
        "Ranked at step 400, the last that all of A, B, C, E have; A, B, C can be ranked at step 800 (`--step 800`), "
        "without E"
    ]
    assert cautions({"A": (400, 800), "B": (400,)}) == []  # as it is most of the time
    assert cautions({"A": (400, 800, 1200), "B": (400,)}) == [
        "Ranked at step 400, the last that all of A, B have; A can be ranked at step 1200 (`--step 1200`), without B"
    ]
    assert cautions({**level, "E": (400,)}, step=800) == ["E is incomplete at step 800: no cloze"]
    assert cautions({"A": (400, 800), "B": (400,)}) == []  # one alone cannot be ranked
    assert Ranking.from_dict(json.loads(json.dumps(rank([result("A", "cloze", "1")], ["cloze"]).to_dict()))).notes == ()


def test_a_ranking_says_where_variants_have_not_seen_as_many_tokens() -> None:
    def cautions(*tokens: int | None) -> list[str]:
        found = [result(v, "cloze", "10", "11", tokens=seen) for v, seen in zip("ABC", tokens, strict=True)]
        return rank(found, ["cloze"]).cautions()

    assert cautions(None, None, None) == cautions(1_000, 1_005, None) == []
    assert cautions(2_000_000, 1_000_000, None) == [
        "At step 100 the variants have not seen as many training tokens: A 2,000,000, B 1,000,000"
    ]


def test_the_history_leaves_out_steps_at_which_no_variant_is_complete() -> None:
    results = [result("A", "quiz", "10", step=100), result("A", "quiz", "10", step=200), result("A", "cloze", "10")]
    assert [ranking.step for ranking in history(results, ["quiz", "cloze"])] == [100]


def test_reasons_to_distrust_a_score_stand_beside_it() -> None:
    def warnings(*found: Result) -> tuple[str, ...]:
        return rank(found, ["cloze"]).standings[0].warnings

    good = result("A", "cloze", "1" * 40)
    assert warnings(good) == ()
    assert warnings(with_format_following(good, 0.97)) == ()
    assert warnings(with_format_following(good, 0.6)) == ("format-following is only 0.60 on cloze",)
    assert warnings(replace(good, diverged={"cue": (0, 2)})) == ("tuning diverged on cloze (seeds 0, 2)",)
    rising = tuple(
        CurvePoint(step=step, loss=1.0, metrics=result("A", "cloze", marks).metrics["cue"])
        for step, marks in ((0, "1000"), (80, "1100"))
    )
    assert "still rises" in warnings(replace(good, curves={"cue": rising}))[0]


def test_a_tuning_that_recalls_less_than_the_plain_prompt_is_told() -> None:
    def tuned(marks: str, plain: str) -> Result:
        found = with_format_following(result("A", "cloze", marks), 1.0)
        return replace(found, metrics={**found.metrics, "zero_shot": result("A", "cloze", plain).metrics["cue"]})

    lost = tuned("1" * 10 + "0" * 40, plain="1" * 40 + "0" * 10)
    (warning,) = rank([lost], ["cloze"]).standings[0].warnings
    assert warning == (
        "the tuning may have lost recall on cloze: the right answer is found in 0.20 of its outputs, "
        "in 0.80 of the plain prompt's"
    )
    assert lost.to_dict()["loss_of_recall"] == {"cue": warning}
    for within_errors in (tuned("1" * 35 + "0" * 15, plain="1" * 40 + "0" * 10), tuned("1" * 50, plain="0" * 50)):
        assert rank([within_errors], ["cloze"]).standings[0].warnings == ()


def test_a_ranking_is_the_same_every_time() -> None:
    def once() -> Ranking:
        return rank([result("A", "quiz", "1101" * 9), result("B", "quiz", "1001" * 9)], ["quiz"])

    assert once() == once()
