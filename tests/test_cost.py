"""What a result says it cost, against PyTorch's own counts; memory that is scarce changes batches, never a score."""

import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from softprompt import memory
from softprompt.checkpoints import open_checkpoint
from softprompt.cost import Cost, Phase
from softprompt.errors import OutOfMemory
from softprompt.loading import load_model
from softprompt.meter import Meter
from softprompt.models import LanguageModel
from softprompt.prefill import POSITIONS_AHEAD, POSITIONS_OF_A_PASS
from softprompt.protocol import Protocol, Resources
from softprompt.result import Result

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
SHAPE |= {"num_key_value_heads": 2, "intermediate_size": 48, "eos_token_id": 2}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SHAPE),
    "gpt2": transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, bos_token_id=1, eos_token_id=2),
    "mixtral": transformers.MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def result(run: Callable[..., Result]) -> Result:
    return run()


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_are_those_of_the_matrix_products_that_pytorch_counts(name: str) -> None:
    """Twenty tokens, logits at the last three of each row. No product of attention among them: it is one operation."""
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(CONFIGS[name], experts_implementation="eager")
    model = LanguageModel(network.eval().requires_grad_(False), None)
    assert model.last_mlp.weights  # found out by a pass, which must not be counted below
    embeds_BTD = model.embed(torch.arange(20).view(2, 10)).requires_grad_()
    with FlopCounterMode(display=False) as forward:
        logits, _ = model.forward(inputs_embeds=embeds_BTD, mask_BT=torch.ones(2, 10, dtype=torch.long), num_logits=3)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(logits.sum(), embeds_BTD)

    meter = Meter()
    meter.count(model, num_tokens=20, num_logits=6)
    assert meter.cost(model).flops == forward.get_total_flops()
    meter.count(model, num_tokens=20, num_logits=6, backward=True)
    assert meter.cost(model).flops == 2 * forward.get_total_flops() + backward.get_total_flops()


def test_seconds_go_to_the_innermost_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]), None)
    Meter().cost(model)  # the matrix rate is measured now, not under the clock below
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    meter = Meter()
    now[0] = 1
    with meter("tune"):
        now[0] = 3
        with meter("prefill"):
            now[0] = 7
        now[0] = 15
    now[0] = 31
    cost = meter.cost(model)
    assert {name: phase.seconds for name, phase in cost.phases.items()} == {"other": 17, "tune": 10, "prefill": 4}
    assert cost.seconds == 31


def test_a_result_knows_what_each_phase_read(
    result: Result, run: Callable[..., Result], quick_protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding is no work that had to be done: row by row there is none. What rows of one pass share is left out here:
    vectors in front, and the words that questions begin with."""
    monkeypatch.setitem(POSITIONS_OF_A_PASS, "cpu", 10_000)
    assert result.cost.phases.keys() == {"load", "tune", "prefill", "decode", "score", "other"}
    tokens = {name: phase.tokens for name, phase in result.cost.phases.items() if phase.tokens}
    assert tokens.keys() == {"tune", "prefill", "decode", "score"}
    cue = replace(quick_protocol, placements=("cue",))
    together, alone = (run(protocol=cue, resources=Resources(device="cpu", micro_batch=rows)) for rows in (96, 1))
    assert [alone.cost.phases[name].tokens for name in tokens] == [together.cost.phases[name].tokens for name in tokens]
    assert alone.cost.flops == together.cost.flops
    assert 0 < result.cost.matrix_share() < 1
    assert 50e6 < result.cost.peak_bytes < 5e9


def test_truncation_saves_work(run: Callable[..., Result], quick_protocol: Protocol) -> None:
    full, truncated = (
        run(protocol=replace(quick_protocol, placements=("prefix",), prefix_gradient=gradient)).cost.phases["tune"]
        for gradient in ("full", "truncated")
    )
    assert 0.5 < truncated.flops / full.flops < 0.8


def test_the_cost_of_processes_is_that_of_the_job() -> None:
    first = Cost(phases={"tune": Phase(seconds=2, tokens=10, flops=40)}, peak_bytes=5, matrix_rate=20)
    second = Cost(phases={"tune": Phase(seconds=3, tokens=20, flops=80)}, peak_bytes=7, matrix_rate=40)
    both = Cost.of_processes([first, second])
    assert both.phases["tune"] == Phase(seconds=2, tokens=30, flops=120)
    assert (both.peak_bytes, both.matrix_share()) == (7, 1.0)
    assert (
        str(both.with_seconds("log", 0.25))
        == "2.2 s (tune 2.0, log 0.2), 1.2e-10 TFLOP at 100 % of the matrix rate, 0.0 GB"
    )


# Memory


def rows_of_passes(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """From now on a pass of more than `most` rows runs out of memory: a stand-in for a GPU that would."""
    seen: list[int] = []
    healthy = LanguageModel.forward

    def forward(self: LanguageModel, *, mask_BT: torch.Tensor, **inputs: Any) -> Any:
        seen.append(mask_BT.shape[0])
        if mask_BT.shape[0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return healthy(self, mask_BT=mask_BT, **inputs)

    monkeypatch.setattr(LanguageModel, "forward", forward)
    return seen


@pytest.mark.parametrize(("micro_batch", "num_ahead"), [(None, 2000), (12, 0)])
def test_out_of_memory_halves_the_batch_and_changes_no_score(
    result: Result, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, micro_batch: int | None, num_ahead: int
) -> None:
    monkeypatch.setitem(POSITIONS_AHEAD, "cpu", num_ahead)
    seen = rows_of_passes(monkeypatch, most=3)
    found = run(resources=Resources(device="cpu", micro_batch=micro_batch))
    assert max(seen) > 3
    assert sum(rows > 3 for rows in seen) < sum(rows <= 3 for rows in seen)
    for placement, vectors in result.vectors.items():
        assert abs(found.vectors[placement] - vectors).max() < 1e-4
    assert [replace(o, gold_bits=None) for o in found.outcomes] == [replace(o, gold_bits=None) for o in result.outcomes]


def test_a_row_that_never_fits_is_an_error_that_says_what_to_do(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    run()  # so that the model has been loaded
    rows_of_passes(monkeypatch, most=0)
    with pytest.raises(OutOfMemory, match=r"One row does not fit .*CUDA out of memory.* devices_per_process"):
        run()


def test_a_model_makes_room_before_another_is_loaded(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(folder: Path) -> LanguageModel:
        return load_model(open_checkpoint(str(folder)), Resources(device="cpu"))

    before = weakref.ref(load(tiny_checkpoint).last_mlp)  # a hook, which the network holds and by which it is held
    alive = []
    healthy = transformers.AutoModelForCausalLM.from_pretrained

    def from_pretrained(*arguments: Any, **options: Any) -> Any:
        alive.append(before())
        return healthy(*arguments, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    load(shutil.copytree(tiny_checkpoint, tmp_path / "other"))
    assert alive == [None]


def test_a_model_that_does_not_fit_is_an_error_that_says_what_to_do(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def to(*_arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(transformers.LlamaForCausalLM, "to", to)
    with pytest.raises(OutOfMemory, match=r"step-100 does not fit .*CUDA out of memory.* devices_per_process"):
        run(resources=Resources(device="cpu", micro_batch=1))


def test_other_errors_are_not_taken_for_it() -> None:
    def fail(_chunk: object) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(memory.MicroBatches([torch.device("cpu")]).run([1, 2], float, fail))


def test_a_pass_takes_as_many_rows_as_fit_into_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """By estimate, each as long as the longest, a power of two where memory decides."""
    monkeypatch.setattr(memory, "free_bytes", lambda _devices: 200)

    def chunks(rows: list[int], most: int | None = None) -> list[list[int]]:
        return list(memory.MicroBatches([torch.device("cpu")], most).run(rows, float, list))

    assert chunks([20, 20, 20, 20, 20, 20, 5, 5, 5]) == [[20] * 4, [20, 20, 5, 5, 5]]
    assert chunks([300, 1]) == [[300], [1]]
    assert [len(chunk) for chunk in chunks([0] * 100)] == [96, 4]
    assert [len(chunk) for chunk in chunks([20] * 9, most=7)] == [7, 2]


def test_a_container_has_only_what_its_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    files = {"max": "1000", "current": "700", "stat": "anon 500\ninactive_file 150"}
    for name, text in files.items():
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    assert memory.free_bytes([torch.device("cpu")]) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes([torch.device("cpu")]) > 10e6


def test_what_pytorch_holds_idle_on_a_gpu_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is spread can take of every GPU what the fullest has."""
    free, reserved, used = ({"cuda:0": a, "cuda:1": b} for a, b in ((100, 40), (50, 300), (20, 290)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[str(device)], 500))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved[str(device)])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: used[str(device)])
    assert memory.free_bytes([torch.device(name) for name in free]) == 2 * 50
