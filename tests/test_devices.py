"""The same numbers in another type and spread over several places."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_loops import gradients, mixed_prompts, training_rows
from transformers import AutoModelForCausalLM

from softprompt.benchmarks import Benchmark
from softprompt.checkpoints import open_checkpoint
from softprompt.decode import answer
from softprompt.errors import BadStudy
from softprompt.loading import load_model
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import Placement
from softprompt.protocol import Protocol, Resources
from softprompt.result import Result
from softprompt.rows import Rows
from softprompt.wording import Wording

Run = Callable[..., Result]


def assert_nearly_the_same(found: Result, expected: Result) -> None:
    """bfloat16 keeps 8 bits, so that a few greedy outputs of so small a model differ; likelihoods stay close."""
    for ours, theirs in zip(found.outcomes, expected.outcomes, strict=True):
        assert ours.gold_bits == pytest.approx(theirs.gold_bits, rel=0.1, abs=0.5)
    for condition, metrics in expected.metrics.items():
        for name in ("accuracy", "format_following", "choice_accuracy"):
            assert found.metrics[condition][name].value == pytest.approx(metrics[name].value, abs=0.2), (
                condition,
                name,
            )


def test_bfloat16_finds_nearly_the_same_on_a_cpu(run: Run) -> None:
    found, expected = (run(resources=Resources(device="cpu", dtype=dtype)) for dtype in ("bfloat16", "float32"))
    assert (found.provenance["dtype"], expected.provenance["dtype"]) == ("bfloat16", "float32")
    assert {vectors.dtype for vectors in found.vectors.values()} == {np.dtype("float32")}
    assert_nearly_the_same(found, expected)


@pytest.mark.parametrize("name", ["cue", "prefix", "truncated"])
def test_a_model_part_of_which_lies_elsewhere_computes_the_same(
    tiny_checkpoint: Path, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, tmp_path: Path, name: str
) -> None:
    """Its second layer lies on the disk: a stand-in for a second GPU, with the same hooks around every part."""
    whole = load_model(open_checkpoint(str(tiny_checkpoint)), Resources(device="cpu"))
    parts = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
    network = AutoModelForCausalLM.from_pretrained(
        tiny_checkpoint, device_map=dict.fromkeys(parts, "cpu") | {"model.layers.1": "disk"}, offload_folder=tmp_path
    )
    spread = LanguageModel(network.eval().requires_grad_(False), whole.tokenizer)
    assert any(weight.is_meta for weight in network.parameters())

    placement, protocol = name, quick_protocol
    if name == "truncated":
        placement, protocol = "prefix", Protocol.from_dict({**protocol.to_dict(), "prefix_gradient": "truncated"})
    prompts, vectors_SPD = mixed_prompts(whole, toy_benchmark, protocol, rows.train, placement)
    options = {"max_new_tokens": 4, "candidates": [[[5, 6], [7]]] * len(prompts)}
    (outputs, scores), (same, nearly) = (answer(Prefill(m), prompts, vectors_SPD, **options) for m in (spread, whole))
    assert outputs == same
    np.testing.assert_allclose(scores, nearly, atol=1e-4)
    where = Placement(placement, Wording(whole, toy_benchmark), protocol)
    batch = training_rows(where, rows.train[::7], seeds=(0, 1))
    for found, expected in zip(*(gradients(m, where, batch, protocol) for m in (spread, whole)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_study_may_ask_for_a_spread_model(run: Run) -> None:
    """Without a GPU there is one place to spread it over."""
    found = run(resources=Resources(devices_per_process=2, dtype="float32"))
    assert found.outcomes == run(resources=Resources(dtype="float32")).outcomes


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (Resources(device="cuda"), "device is 'cuda', but PyTorch finds no such GPU; set it to auto or cpu, or"),
        (Resources(device="cuda:1"), "device is 'cuda:1', but PyTorch finds no such GPU"),
        (Resources(devices=("0", "1")), "devices are 0, 1, but PyTorch finds no such GPU; set device to cpu, or"),
    ],
)
def test_a_gpu_that_is_not_there_is_named(run: Run, resources: Resources, message: str) -> None:
    with pytest.raises(BadStudy, match=message):
        run(resources=resources)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_spread_over_two_gpus_finds_nearly_the_same(run: Run) -> None:
    found = run(resources=Resources(devices_per_process=2))
    assert found.provenance["device"] == "cuda:0, cuda:1"
    assert_nearly_the_same(found, run(resources=Resources(device="cuda:0")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_gpu_finds_nearly_the_same_as_a_cpu(run: Run, dtype: str) -> None:
    assert_nearly_the_same(
        run(resources=Resources(device="cuda", dtype=dtype)), run(resources=Resources(device="cpu", dtype="float32"))
    )
