"""Rows side by side on several cores: the same results, and the caller's settings as they were."""

import threading
from collections.abc import Iterator, Sequence

import pytest
import torch
from plain_loops import gradients, plain_gradients, plain_output, training_rows

from softprompt import Protocol, cores
from softprompt.benchmarks import Benchmark
from softprompt.conditions import PLACEMENTS
from softprompt.cores import side_by_side
from softprompt.decode import answer
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import Placement, plain_prompts
from softprompt.rows import Rows
from softprompt.wording import Wording

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many threads, however small the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(cores, "MIN_FLOPS", 1e-9)
    yield
    torch.set_num_threads(before)


def test_parts_are_done_on_other_threads_one_core_each_and_come_back_in_order() -> None:
    together = threading.Barrier(2, timeout=30)

    def work(rows: Sequence[int]) -> tuple[list[int], int, bool]:
        together.wait()  # broken unless both parts are at work at once
        return list(rows), torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        assert side_by_side(CPU, range(5), [1.0] * 5, work) == [([0, 1], 1, False), ([2, 3, 4], 1, False)]
        assert side_by_side(CPU, range(5), [1.0, 1, 2, 2, 3], work) == [([0, 1, 2], 1, False), ([3, 4], 1, False)]
        assert side_by_side(CPU, range(3), [9.0, 1, 1], work) == [([0], 1, False), ([1, 2], 1, False)]
    assert torch.get_num_threads() == 2


def test_small_work_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "MIN_FLOPS", 1.0)
    for rows, flops in (([1, 2, 3], [0.6] * 3), ([1], [9.0])):
        assert side_by_side(CPU, rows, flops, lambda _: threading.current_thread()) == [threading.current_thread()]


def test_a_failure_is_raised_after_every_part_has_ended() -> None:
    ended = []

    def work(rows: Sequence[int]) -> None:
        if rows[0] == 0:
            raise MemoryError("no more")
        threading.Event().wait(0.2)
        ended.append(rows[0])

    with pytest.raises(MemoryError, match="no more"):
        side_by_side(CPU, range(2), [1.0] * 2, work)
    assert ended == [1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", PLACEMENTS)
def test_gradients_on_two_cores_equal_those_of_a_plain_loop(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, name: str
) -> None:
    placement = Placement(name, Wording(model, toy_benchmark), quick_protocol)
    batch = training_rows(placement, rows.train[:9:2], seeds=(0, 1))
    expected_SPD, expected_S = plain_gradients(model, placement, batch, quick_protocol)
    found_SPD, losses_S = gradients(model, placement, batch, quick_protocol)
    torch.testing.assert_close(losses_S, expected_S, rtol=0, atol=1e-5)
    torch.testing.assert_close(found_SPD, expected_SPD, rtol=1e-4, atol=1e-6)


def test_answers_on_two_cores_are_those_of_a_plain_loop(
    model: LanguageModel, toy_benchmark: Benchmark, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softprompt.prefill.POSITIONS_OF_A_PASS", {"cpu": 64})
    prompts = plain_prompts(Wording(model, toy_benchmark), rows.test)
    nothing_SPD = torch.zeros(1, 1, model.network.config.hidden_size)
    expected = [plain_output(model, prompt, nothing_SPD, ("\n",), 6) for prompt in prompts]
    found, _ = answer(Prefill(model), prompts, stop=("\n",), max_new_tokens=6)
    assert [(generation.text, generation.stopped) for generation in found] == expected
