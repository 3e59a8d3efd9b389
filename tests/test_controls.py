"""The controls: conditions that say what a soft prompt has learned."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from softprompt.benchmarks import Benchmark, Example
from softprompt.conditions import CONTROLS, Condition
from softprompt.controls import has_learned, in_words, learned_task, shuffled_answers, with_instruction
from softprompt.errors import BadBenchmark, BadStudy
from softprompt.metrics import Outcome
from softprompt.models import LanguageModel
from softprompt.prompt import Placement, plain_prompts, random_vectors
from softprompt.protocol import Protocol
from softprompt.result import Result
from softprompt.rows import Rows
from softprompt.wording import Wording


@pytest.fixture(scope="module")
def result(run: Callable[..., Result], quick_protocol: Protocol) -> Result:
    """The tiny checkpoint under every control of both placements."""
    shares: list[float] = []
    protocol = replace(quick_protocol, controls=CONTROLS)
    found = run(protocol=protocol, progress=lambda _what, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert shares[-2] < 1
    return found


def outputs(result: Result, condition: str) -> list[tuple[str, str, float | None]]:
    """Item, output and the gold answer's bits, in the order of items and seeds."""
    found = [o for o in result.outcomes if o.condition == condition]
    return [(o.item, o.output, o.gold_bits and round(o.gold_bits, 3)) for o in sorted(found, key=lambda o: o.item)]


def test_every_control_is_a_condition_like_the_others(result: Result) -> None:
    own = ("", "_untuned", "_random", "_shuffled", "_few_shot")
    by_placement = [placement + control for placement in ("cue", "prefix") for control in own]
    assert list(result.metrics) == ["zero_shot", "few_shot", "instruction", *by_placement]
    assert {m["gold_bits_per_byte"].n for m in result.metrics.values()} == {12}
    assert list(result.curves) == list(result.vectors) == ["cue", "cue_shuffled", "prefix", "prefix_shuffled"]
    num_outcomes = Counter(outcome.condition for outcome in result.outcomes)
    assert {num_outcomes[c] for c in by_placement} == {2 * 12}
    assert {num_outcomes[c] for c in ("zero_shot", "few_shot", "instruction")} == {12}


def test_controls_change_no_other_condition(result: Result, run: Callable[..., Result]) -> None:
    alone = run()
    for condition in alone.metrics:
        assert outputs(alone, condition) == outputs(result, condition)


def test_an_untuned_cue_is_the_plain_prompt(result: Result) -> None:
    assert outputs(result, "cue_untuned")[::2] == outputs(result, "zero_shot")
    assert outputs(result, "prefix_untuned")[::2] != outputs(result, "zero_shot")


def test_each_control_answers_in_its_own_way(result: Result) -> None:
    for placement in ("cue", "prefix"):
        ways = [
            outputs(result, placement + control) for control in ("", "_untuned", "_random", "_shuffled", "_few_shot")
        ]
        assert all(first != second for i, first in enumerate(ways) for second in ways[:i])


def test_the_curve_of_shuffled_answers_starts_where_that_of_true_ones_does(result: Result) -> None:
    true, shuffled = result.curves["prefix"], result.curves["prefix_shuffled"]
    assert true[0].metrics == shuffled[0].metrics
    assert true[0].loss != shuffled[0].loss


def test_with_solved_examples_the_vectors_stand_where_they_stood(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows
) -> None:
    """In front of everything, or instead of the last cue alone."""
    shots, example = rows.train[:2], rows.test[0]
    (plain,) = plain_prompts(Wording(model, toy_benchmark), [example], shots)
    front = Placement("prefix", Wording(model, toy_benchmark), quick_protocol).prompt(example, shots)
    num_bos = len(model.bos_ids)
    assert front.slots[num_bos : num_bos + 4] == [0, 1, 2, 3]
    assert front.ids[num_bos + 4 :] == plain.ids[num_bos:]
    back = Placement("cue", Wording(model, toy_benchmark), quick_protocol)
    prompt = back.prompt(example, shots)
    assert prompt.slots[-len(back.cue_ids) :] == list(range(len(back.cue_ids)))
    assert [*prompt.head.ids, *back.cue_ids] == plain.ids


def test_random_vectors_keep_their_lengths_and_nothing_else() -> None:
    tuned = torch.arange(1.0, 49.0).reshape(2, 3, 8)
    drawn = random_vectors(tuned, [5, 6])
    torch.testing.assert_close(drawn.norm(dim=-1), tuned.norm(dim=-1))
    assert torch.equal(drawn, random_vectors(tuned, [5, 6]))
    assert torch.equal(drawn[1], random_vectors(tuned.flip(0) * 0 + tuned[1], [6, 5])[0])
    assert torch.cosine_similarity(drawn, tuned, dim=-1).abs().max() < 0.95


def items(*answers: str, options: Callable[[int], tuple[str, ...]] = lambda _i: ()) -> list[Example]:
    return [Example(question=f"{i}?", answer=a, golds=(a,), options=options(i)) for i, a in enumerate(answers)]


def test_free_answers_are_permuted_among_the_items() -> None:
    numbers = items(*map(str, range(20)))
    shuffled = shuffled_answers(numbers)
    assert sorted(shuffled) == sorted(example.answer for example in numbers)
    assert sum(s == e.answer for s, e in zip(shuffled, numbers, strict=True)) < 5
    assert shuffled == shuffled_answers(numbers)


def test_an_item_with_options_gets_one_of_its_own() -> None:
    """An answer that is none of the options listed in the question would teach another format."""
    letters = shuffled_answers(items(*"ABBBBBBB", options=lambda _i: ("A", "B")))
    assert Counter(letters) == {"A": 1, "B": 7}
    texts = items(*(f"right {i}" for i in range(20)), options=lambda i: (f"right {i}", f"wrong {i}"))
    shuffled = shuffled_answers(texts)
    assert all(answer in e.options for answer, e in zip(shuffled, texts, strict=True))
    assert 5 < sum(s == e.answer for s, e in zip(shuffled, texts, strict=True)) < 15


def test_the_instruction_states_the_format_in_front_of_the_question(toy_benchmark: Benchmark, rows: Rows) -> None:
    prompt = with_instruction(replace(toy_benchmark, instruction="Capitals.")).prompt(rows.test[0])
    assert prompt.startswith("Capitals.\nAnswer with the right option in its own words and nothing else.\n\nQuestion:")
    silent = replace(toy_benchmark, grammar=SimpleNamespace(strict=str, lenient=str, is_right=bool))
    with pytest.raises(BadBenchmark, match="its grammar SimpleNamespace has no `instruction`"):
        with_instruction(silent)


def test_a_benchmark_too_long_with_its_controls_is_refused(
    run: Callable[..., Result], quick_protocol: Protocol, rows: Rows
) -> None:
    """240 tokens of questions fit into a context of 256, a line of instruction more does not."""
    ask = 200 * "?"
    long = replace(rows, test=(replace(rows.test[0], question=ask),))
    protocol = replace(quick_protocol, num_shots=0, num_steps=1, curve_steps=())
    run(protocol=protocol, rows=long)
    told = replace(protocol, controls=("instruction",))
    with pytest.raises(BadBenchmark, match="exceed the model's context of 256"):
        run(protocol=told, rows=long)


def test_learned_task_worked_by_hand() -> None:
    """True answers chose right on 3 of 4 items, shuffled ones on 1 and the plain prompt on 2 of the same."""

    def outcomes(condition: str, right: str, bits: float) -> list[Outcome]:
        return [
            Outcome(
                condition=condition,
                item=str(i),
                seed=None if condition == "zero_shot" else 0,
                output="x",
                stopped=True,
                answer="x",
                correct=False,
                lenient_correct=True,
                choice_correct=r == "1",
                gold_bits=bits,
                gold_bytes=4,
            )
            for i, r in enumerate(right)
        ]

    conditions = [Condition(), Condition("cue"), Condition("cue", "shuffled")]
    others = [*outcomes("zero_shot", "1010", 12), *outcomes("cue_shuffled", "1000", 8)]
    (excess,) = learned_task(conditions, [*outcomes("cue", "1110", 6), *others]).values()
    assert excess["choice_accuracy"].value == pytest.approx(0.25)  # over the plain prompt
    assert excess["choice_accuracy"].low == pytest.approx(0.25 - 1.95996 * 0.25, abs=1e-4)
    assert excess["gold_bits_per_byte"].value == excess["gold_bits_per_byte"].low == pytest.approx(0.5)  # over shuffled
    assert excess["lenient_accuracy"].value == 0
    assert not has_learned(excess)
    assert in_words(excess) == (
        "no sign of learned task: over shuffled answers or the plain prompt, whichever is better, "
        "+0.000 lenient_accuracy (+0.000 to +0.000), +0.250 choice_accuracy (-0.240 to +0.740)"
    )
    above = {"gold_bits_per_byte": excess["gold_bits_per_byte"]}
    assert has_learned(above)
    assert in_words(above) == (
        "true answers beat shuffled ones and the plain prompt by +0.500 gold_bits_per_byte (+0.500 to +0.500): so much "
        "at most is learned task"
    )
    # Five items ahead of the plain prompt, eight ahead of shuffled answers and two behind: more, and less sure.
    others = [*outcomes("zero_shot", "1" * 13 + "0" * 7, 12), *outcomes("cue_shuffled", "1" * 10 + "0" * 8 + "11", 8)]
    (excess,) = learned_task(conditions, [*outcomes("cue", "1" * 18 + "00", 6), *others]).values()
    assert excess["choice_accuracy"].value == pytest.approx(0.3)
    assert excess["choice_accuracy"].low == pytest.approx(0.3 - 1.96 * (0.41 / 19) ** 0.5, abs=1e-3)
    assert learned_task([Condition("cue")], []) == {}


def test_what_a_tuning_learned_of_the_task_is_kept_with_the_result(result: Result, tmp_path: Path) -> None:
    assert list(result.learned_task) == ["cue", "prefix"]
    assert set(result.learned_task["cue"]) == {"lenient_accuracy", "choice_accuracy", "gold_bits_per_byte"}
    assert Result.load(result.save(tmp_path)).learned_task == result.learned_task


def test_the_few_shot_control_needs_examples() -> None:
    with pytest.raises(BadStudy, match="num_shots is 0; expected 1 or more for the control 'few_shot'"):
        Protocol(num_shots=0, controls=("few_shot",))
