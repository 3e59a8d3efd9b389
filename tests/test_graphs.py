"""Tuning passes recorded as CUDA graphs."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_loops import gradients, plain_gradients, training_rows

from softprompt.benchmarks import Benchmark
from softprompt.checkpoints import open_checkpoint
from softprompt.graphs import Size, few_sizes
from softprompt.loading import load_model
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import Placement
from softprompt.protocol import Protocol, Resources
from softprompt.rows import Rows
from softprompt.tune import TunedPrompt, tune
from softprompt.wording import Wording

needs_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
PLACEMENTS = ("prefix", "cue", "both")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_a_gpu)])
def elsewhere(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> LanguageModel:
    return load_model(open_checkpoint(str(tiny_checkpoint)), Resources(device=request.param, dtype="float32"))


@pytest.fixture
def prefill(elsewhere: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Prefill:
    """On a CPU its passes get the shapes that are to be recorded, and are run instead: a stand-in for a GPU."""
    prefill = Prefill(elsewhere)
    if elsewhere.device.type == "cpu":
        prefill.graphs.are_on = True
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda function, *_args, **_options: function)
    return prefill


@pytest.mark.parametrize("name", PLACEMENTS)
def test_gradients_equal_those_of_a_plain_loop(
    model: LanguageModel,
    prefill: Prefill,
    toy_benchmark: Benchmark,
    quick_protocol: Protocol,
    rows: Rows,
    name: str,
) -> None:
    """Of two batches of the same shape in turns: each is met, recorded and replayed."""
    here, there = (Placement(name, Wording(one, toy_benchmark), quick_protocol) for one in (model, prefill.model))
    for first in (0, 1, 0, 1, 0):
        batch, same = (training_rows(place, rows.train[first::6], seeds=(0, 1)) for place in (here, there))
        expected_SPD, expected_S = plain_gradients(model, here, batch, quick_protocol)
        found_SPD, found_S = gradients(prefill.model, there, same, quick_protocol, prefill=prefill)
        torch.testing.assert_close(found_SPD.cpu(), expected_SPD, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found_S.cpu(), expected_S, rtol=1e-3, atol=1e-5)
    assert prefill.graphs.num_recorded
    assert prefill.graphs.are_on


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_tuning_is_the_same_in_few_recorded_passes(
    model: LanguageModel,
    prefill: Prefill,
    toy_benchmark: Benchmark,
    quick_protocol: Protocol,
    rows: Rows,
    name: str,
) -> None:
    def last(its: Prefill) -> TunedPrompt:
        placement = Placement(name, Wording(its.model, toy_benchmark), quick_protocol)
        examples = rows.train[: quick_protocol.num_train]
        targets = [example.answer for example in examples]
        return list(tune(its, placement, examples, targets, quick_protocol))[-1]

    expected, found = last(Prefill(model)), last(prefill)
    torch.testing.assert_close(found.vectors_SPD.cpu(), expected.vectors_SPD, rtol=1e-3, atol=1e-4)
    assert prefill.graphs.num_recorded == 1


@pytest.mark.parametrize("breaks_off", [False, True])
def test_what_is_recorded_has_fewer_kernels_and_the_network_is_its_own_again(
    prefill: Prefill,
    toy_benchmark: Benchmark,
    quick_protocol: Protocol,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    breaks_off: bool,
) -> None:
    norm, seen = prefill.model.network.model.norm, []

    def record(function: Callable[..., Any], *_args: Any, **_options: Any) -> Callable[..., Any]:
        seen.append("forward" in vars(norm) and not gc.isenabled())
        if breaks_off:
            raise RuntimeError("operation not permitted when stream is capturing")
        return function

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    place = Placement("prefix", Wording(prefill.model, toy_benchmark), quick_protocol)
    batch = training_rows(place, rows.train[::6], seeds=(0, 1))
    gradients(prefill.model, place, batch, quick_protocol, prefill=prefill)
    assert seen == [True]
    assert "forward" not in vars(norm)
    assert gc.isenabled()


def test_a_size_is_chosen_if_its_recording_takes_less_than_the_padding_that_it_saves() -> None:
    """A recording takes as long as ten passes; a tenth more of 50 passes is five, of 150 fifteen."""

    def sizes(num: int) -> list[Size]:
        return [*[Size(100, 10, 10)] * num, Size(110, 11, 11)]

    assert few_sizes(sizes(50)) == [Size(110, 11, 11)]
    assert few_sizes(sizes(150)) == [Size(100, 10, 10), Size(110, 11, 11)]


def test_every_pass_is_held_by_a_chosen_size() -> None:
    sizes = [Size(100 + i % 7 * i, 10 + i % 5, 1 + i % 3) for i in range(80)]
    chosen = few_sizes(sizes)
    assert all(any(all(map(int.__ge__, room, size)) for room in chosen) for size in sizes)
    assert len(chosen) < 10


def test_what_cannot_be_recorded_is_run(
    prefill: Prefill, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that looks at a value, which no graph can."""

    def fail(*_args: Any, **_options: Any) -> Callable[..., Any]:
        raise RuntimeError("operation not permitted when stream is capturing")

    if prefill.model.device.type == "cpu":
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    mlp = prefill.model.network.model.layers[0].mlp
    monkeypatch.setattr(mlp, "forward", lambda x, own=mlp.forward: own(x) if x.sum().item() else x)
    place = Placement("prefix", Wording(prefill.model, toy_benchmark), quick_protocol)
    batch = training_rows(place, rows.train[::6], seeds=(0, 1))
    first, second = (gradients(prefill.model, place, batch, quick_protocol, prefill=prefill) for _ in range(2))
    torch.testing.assert_close(first, second)
    assert not prefill.graphs.are_on
