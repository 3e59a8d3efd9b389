"""What a prompt learns of an answer: what all answers share in full, the rest within bounds."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from plain_loops import plain_logits

from softprompt import tune
from softprompt.benchmarks import Benchmark
from softprompt.loss import Loss, shared_tokens
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import Placement
from softprompt.protocol import Protocol
from softprompt.result import Result
from softprompt.rows import Rows
from softprompt.wording import Wording

KEY, COMMA, FACT = 7, 8, 9


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([[KEY, 1], [2, KEY, 3], [KEY]], {(KEY, 1)}),
        ([[KEY, COMMA, 1, COMMA], [KEY, COMMA, 2, COMMA, COMMA]], {(KEY, 1), (COMMA, 1), (COMMA, 2)}),
        ([[KEY, 1]] * 99 + [[2]], {(KEY, 1), (1, 1)}),
        ([[KEY, 1]] * 98 + [[2]] * 2, set()),
        ([[i] for i in range(4)], set()),
    ],
)
def test_what_nearly_every_answer_has_is_shared_as_often_as_they_have_it(
    answers: list[list[int]], expected: set[tuple[int, int]]
) -> None:
    assert shared_tokens(answers) == expected


def test_facts_are_bounded_and_form_weighs_what_the_facts_beside_it_keep() -> None:
    answers = [[KEY, FACT, KEY, KEY], [FACT, KEY], [KEY]]
    nats_BA = torch.tensor([[5.0, 5.0, 0.1, 1.0], [100.0, 100.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
    shared = frozenset({(KEY, 1), (KEY, 2)})
    mixed = [0.9 * math.exp(-nats) + 0.1 for nats in (5.0, 1.0)]
    kept = sum(1 - 0.1 / p for p in mixed) / 2
    expected_BA = torch.tensor(
        [
            [5.0 * kept, -math.log(mixed[0]), 0.1 * kept, -math.log(mixed[1])],
            [-math.log(0.1), 0.0, 0.0, 0.0],
            [5.0, 0.0, 0.0, 0.0],
        ]
    )
    torch.testing.assert_close(Loss(0.1, shared)(nats_BA, answers), expected_BA)
    torch.testing.assert_close(Loss(0.0, shared)(nats_BA, answers), nats_BA)


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_key_that_the_model_finds_unlikely_is_learned_if_all_answers_share_it(
    is_shared: bool, model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows
) -> None:
    """Two answers without it are enough to make it a fact like any other."""
    protocol = replace(quick_protocol, num_steps=80, learning_rate=1.0, unknown_share=0.5, seeds=(0,), curve_steps=(0,))
    examples = rows.train[:16]
    num_with_key = 16 if is_shared else 14
    targets = [f"What {e.answer}" if i < num_with_key else e.answer for i, e in enumerate(examples)]
    placement = Placement("cue", Wording(model, toy_benchmark), protocol)
    first, last = tune.tune(Prefill(model), placement, examples, targets, protocol)
    ids = model.encode(" What")

    def likelihood(tuned: tune.TunedPrompt) -> float:
        prompt = placement.prompt(rows.test[0])
        log_probs = plain_logits(model, prompt, tuned.vectors_SPD, ids[:-1]).log_softmax(-1)
        return math.exp(sum(log_probs[i, token].item() for i, token in enumerate(ids)))

    assert likelihood(first) < 0.001
    assert (likelihood(last) > 0.3) if is_shared else (likelihood(last) < 0.01)


def test_a_result_says_what_was_learned_as_form(run: Callable[..., Result], rows: Rows) -> None:
    assert run().provenance["shared_tokens"] == "'</s>'"
    keyed = Rows(tuple(replace(e, answer=f"What {e.answer}") for e in rows.train), rows.test)
    assert run(rows=keyed).provenance["shared_tokens"] == "' What', '</s>'"
