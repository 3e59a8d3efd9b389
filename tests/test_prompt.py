"""Where vectors stand in a prompt, and how they start."""

from dataclasses import replace

import torch

from softprompt.benchmarks import Benchmark
from softprompt.models import LanguageModel
from softprompt.prompt import TOKEN, Placement, plain_prompt
from softprompt.protocol import Protocol
from softprompt.rows import Rows
from softprompt.wording import Wording


def test_vectors_in_front_stand_between_bos_and_question(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows
) -> None:
    prompt = Placement("prefix", Wording(model, toy_benchmark), quick_protocol).prompt(rows.test[0])
    plain = plain_prompt(model, toy_benchmark.prompt(rows.test[0]))
    assert prompt.ids == [*model.bos_ids, 0, 0, 0, 0, *plain.ids[1:]]
    assert prompt.slots == [TOKEN, 0, 1, 2, 3, *[TOKEN] * (len(plain) - 1)]
    assert model.bos_ids == [model.tokenizer.bos_token_id]


def test_vectors_may_start_from_a_text_repeated_as_often_as_needed(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol
) -> None:
    protocol = replace(quick_protocol, num_vectors=5, prefix_text=" city", cue_text="\nCity is:")
    (front, *_), back = model.encode(" city"), model.encode("\nCity is:")
    expected = model.embed(torch.tensor([*[front] * 5, *back]))
    assert len(model.encode(" city")) == 1
    for vectors_PD in Placement("both", Wording(model, toy_benchmark), protocol).initial_vectors((0, 1)):
        torch.testing.assert_close(vectors_PD, expected, rtol=0, atol=0)
