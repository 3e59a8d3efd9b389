"""Tuning against a plain loop, its batches, its rate and what it learns from."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from plain_loops import gradients, plain_gradients, training_rows
from torch import Tensor

from softprompt import tune
from softprompt.benchmarks import Benchmark
from softprompt.graphs import Size
from softprompt.loss import occurrences
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import Placement, Prompt
from softprompt.protocol import PLACEMENTS, Protocol
from softprompt.result import Result
from softprompt.rows import Rows
from softprompt.wording import Wording


@pytest.mark.parametrize(("unknown_share", "has_shared"), [(0.0, False), (0.1, False), (0.1, True)])
@pytest.mark.parametrize("name", PLACEMENTS)
def test_gradients_equal_those_of_a_plain_loop_over_full_sequences(
    model: LanguageModel,
    toy_benchmark: Benchmark,
    quick_protocol: Protocol,
    rows: Rows,
    name: str,
    unknown_share: float,
    has_shared: bool,
) -> None:
    quick_protocol = replace(quick_protocol, unknown_share=unknown_share)
    placement = Placement(name, Wording(model, toy_benchmark), quick_protocol)
    batch = training_rows(placement, rows.train[:9:2], seeds=(0, 1))
    assert len({len(prompt) for prompt, _ in batch}) > 1
    assert len({len(ids) for _, ids in batch}) > 1

    shared = frozenset(list(occurrences(batch[0][1]))[1:] if has_shared else ())
    expected_SPD, expected_S = plain_gradients(model, placement, batch, quick_protocol, shared)
    found_SPD, losses_S = gradients(model, placement, batch, quick_protocol, shared=shared)
    torch.testing.assert_close(losses_S, expected_S, rtol=0, atol=1e-5)
    torch.testing.assert_close(found_SPD, expected_SPD, rtol=1e-4, atol=1e-6)
    assert found_SPD.abs().max() > 1e-3


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_seed_has_the_same_gradient_alone_as_together_with_others(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, name: str
) -> None:
    placement = Placement(name, Wording(model, toy_benchmark), quick_protocol)
    together = training_rows(placement, rows.train[:4], seeds=(0, 1))
    found_SPD, losses_S = gradients(model, placement, together, quick_protocol, micro_batch=3)
    for number, seed in enumerate(quick_protocol.seeds):
        alone = training_rows(placement, rows.train[:4], seeds=(0,))
        own_SPD, own_S = gradients(model, placement, alone, replace(quick_protocol, seeds=(seed,)))
        torch.testing.assert_close(found_SPD[number], own_SPD[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(losses_S[number], own_S[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_train", "batch_size"), [(24, 4), (23, 4), (5, 8), (24, 1)])
def test_every_seed_meets_every_sample_once_an_epoch(
    rows: Rows, quick_protocol: Protocol, num_train: int, batch_size: int
) -> None:
    examples = rows.train[:num_train]
    protocol = replace(quick_protocol, num_steps=200, batch_size=batch_size, seeds=(0, 1, 2))
    steps = list(tune.batches(examples, protocol))
    assert len(steps) == 200
    for seed in range(3):
        met = [i for step in steps for i in step[seed]]
        epochs = [met[start : start + num_train] for start in range(0, len(met) - num_train, num_train)]
        assert all(sorted(epoch) == list(range(num_train)) for epoch in epochs)
        assert len(epochs) >= 2
        assert max(len(step[seed]) for step in steps) <= batch_size
    assert steps != [[step[0]] * 3 for step in steps]  # each in an order of its own


def test_the_batches_of_all_seeds_are_of_like_length_at_every_step(rows: Rows, quick_protocol: Protocol) -> None:
    """Two seeds of four: out of eight samples that stand side by side in the order of their lengths."""
    lengths = [len(example.question) + len(example.answer) for example in rows.train]
    ranks = {i: place for place, i in enumerate(sorted(range(24), key=lambda i: (lengths[i], i)))}
    for step in tune.batches(rows.train, quick_protocol):
        assert len({ranks[i] // 8 for i in itertools.chain(*step)}) == 1


def test_lengths_come_in_mixed_order_and_in_another_one_each_epoch(rows: Rows, quick_protocol: Protocol) -> None:
    lengths = [len(example.question) + len(example.answer) for example in rows.train]
    steps = list(tune.batches(rows.train, replace(quick_protocol, num_steps=12)))
    order = [max(lengths[i] for i in itertools.chain(*step)) for step in steps]
    assert order[:6] not in (sorted(order[:6]), order[6:])


def test_a_tuned_answer_ends_with_the_terminator_unless_stopping_is_not_to_be_learned(
    run: Callable[..., Result], quick_protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    healthy = tune.answer_losses

    def losses(prefill: Prefill, rows: Sequence[tuple[Prompt, list[int]]], *rest: Tensor, packed: bool) -> Tensor:
        seen.update(prefill.model.tokenizer.decode(ids) for _, ids in rows)
        return healthy(prefill, rows, *rest, packed=packed)

    monkeypatch.setattr(tune, "answer_losses", losses)
    run()
    assert " Oslo</s>" in seen
    assert all(text.startswith(" ") and text.endswith("</s>") for text in seen)
    seen.clear()
    run(protocol=replace(quick_protocol, learn_stop=False))
    assert " Oslo" in seen
    assert not any("</s>" in text for text in seen)


@pytest.mark.parametrize("name", ["prefix", "both"])
def test_a_packed_step_looks_at_no_value(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, name: str
) -> None:
    """For which a host would have to wait until its GPU has come to it; AdamW's count of steps lies with the host."""
    protocol, looked = replace(quick_protocol, num_steps=4, curve_steps=()), Counter[str]()
    placement = Placement(name, Wording(model, toy_benchmark), protocol)
    targets = [example.answer for example in rows.train]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        list(tune.tune(Prefill(model), placement, rows.train, targets, protocol))
    for event in profile.key_averages():
        looked[event.key] += event.count
    assert looked["aten::index_copy"]
    assert not any(looked[f"aten::{name}"] for name in ("nonzero", "masked_select", "is_nonzero", "equal"))


@pytest.mark.parametrize("name", ["prefix", "both"])
@pytest.mark.parametrize("spoilt", [0, 1])
@pytest.mark.parametrize("is_padded", [False, True])
def test_a_seed_that_is_not_finite_touches_no_other(
    model: LanguageModel,
    toy_benchmark: Benchmark,
    quick_protocol: Protocol,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    spoilt: int,
    is_padded: bool,
) -> None:
    """Their rows lie in one pass; also where it is padded as for a recording."""
    prefill = Prefill(model)
    if is_padded:
        monkeypatch.setattr(prefill.graphs, "room", lambda _rows, size: Size(*(number + 5 for number in size)))
    placement = Placement(name, Wording(model, toy_benchmark), quick_protocol)
    batch = training_rows(placement, rows.train[:6], seeds=(0, 1))
    expected_SPD, expected_S = gradients(model, placement, batch, quick_protocol, prefill=prefill)
    vectors_SPD = placement.initial_vectors(quick_protocol.seeds)
    vectors_SPD[spoilt] = torch.nan
    monkeypatch.setattr(placement, "initial_vectors", lambda _seeds: vectors_SPD)
    found_SPD, found_S = gradients(model, placement, batch, quick_protocol, prefill=prefill)
    assert found_S[spoilt].isnan()
    torch.testing.assert_close(found_SPD[1 - spoilt], expected_SPD[1 - spoilt], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found_S[1 - spoilt], expected_S[1 - spoilt])


def test_the_learning_rate_rises_then_falls_to_nothing(quick_protocol: Protocol) -> None:
    protocol = replace(quick_protocol, num_steps=40, num_warmup_steps=4)
    shares = [tune.share_of_rate(step, protocol) for step in range(41)]
    assert shares[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert shares[4:] == sorted(shares[4:], reverse=True)
    assert shares[40] == pytest.approx(0)


def test_a_step_is_adamw_without_decay_on_gradients_that_each_seed_clips_alone(
    model: LanguageModel,
    toy_benchmark: Benchmark,
    quick_protocol: Protocol,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Norms above and below 1, so that neither a clip is missed nor one seed's norm counts for the other."""
    protocol = replace(quick_protocol, num_steps=2)
    placement = Placement("prefix", Wording(model, toy_benchmark), protocol)
    start_SPD = placement.initial_vectors(protocol.seeds)
    direction_SPD = torch.nn.functional.normalize(
        torch.linspace(-1, 1, start_SPD.numel()).view_as(start_SPD), dim=(1, 2)
    )
    norms_ES = torch.tensor([[5.0, 0.1], [0.5, 0.4]])
    steps = iter(norms_ES)

    def gradient(*_: object) -> tuple[Tensor, Tensor]:
        return torch.zeros(2), next(steps)[:, None, None] * direction_SPD

    monkeypatch.setattr(tune, "_gradient", gradient)
    targets = [example.answer for example in rows.train]
    *_, tuned = tune.tune(Prefill(model), placement, rows.train, targets, protocol)

    expected_SPD, mean_SPD, square_SPD = start_SPD.clone(), 0.0, 0.0
    for step, norms_S in enumerate(norms_ES):
        gradient_SPD = norms_S.clamp(max=1.0)[:, None, None] * direction_SPD
        mean_SPD = 0.9 * mean_SPD + 0.1 * gradient_SPD
        square_SPD = 0.999 * square_SPD + 0.001 * gradient_SPD**2
        rate = protocol.learning_rate * model.embedding_rms * tune.share_of_rate(step, protocol)
        unbiased_SPD = (square_SPD / (1 - 0.999 ** (step + 1))).sqrt()
        expected_SPD -= rate * (mean_SPD / (1 - 0.9 ** (step + 1))) / (unbiased_SPD + 1e-8)
    torch.testing.assert_close(tuned.vectors_SPD, expected_SPD, rtol=1e-4, atol=1e-5)
