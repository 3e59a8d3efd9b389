"""The heavy half against plain loops: what is batched, cached, padded and shared must change nothing."""

import hashlib
import itertools
import json
import math
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CPU
from plain_loops import (
    as_tokens,
    gradients,
    mixed_prompts,
    plain_output,
    plain_score,
)
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from softprompt import evaluation, tune
from softprompt.benchmarks import Benchmark, Rows
from softprompt.checkpoints import open_checkpoint
from softprompt.conditions import Condition
from softprompt.decode import Generation, answer
from softprompt.errors import BadStudy
from softprompt.evaluation import Evaluation
from softprompt.loading import load_model
from softprompt.meter import Meter
from softprompt.metrics import summarise
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.progress import reporting
from softprompt.prompt import TOKEN, Placement, Prompt, TrainingRow, plain_prompt
from softprompt.protocol import PLACEMENTS, Protocol
from softprompt.ranking import rank
from softprompt.result import Result
from softprompt.wording import Wording


@pytest.fixture(scope="module")
def result(run: Callable[..., Result]) -> Result:
    return run()


def weights_hash(model: LanguageModel) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(model.network.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()


# What a result holds


def test_outcomes_worked_by_hand(
    model: LanguageModel,
    toy_benchmark: Benchmark,
    quick_protocol: Protocol,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gold, other = "Oslo", "Wellington"
    item = replace(rows.test[0], answer=gold, golds=(gold,), options=(other, gold))
    outputs = [(gold, True), (gold, False), (other, True), (f"It is {gold}.", True)]
    nats = [[-3.0, -2.0], [-3.0, -2.0], [-2.0, -3.0], [-4.0, -2.0]]  # of whole options: no share of a longer one's
    generations = [Generation(text, stopped) for text, stopped in outputs]
    items = [replace(item, id=str(i)) for i in range(len(outputs))]
    monkeypatch.setattr(evaluation, "answer", lambda *_, **__: (generations, nats))
    work = Evaluation(Wording(model, toy_benchmark), quick_protocol, CPU, [], [], items, Meter(), lambda *_: None)
    found = work.outcomes(Condition())
    assert [(o.stopped, o.answer, o.correct, o.lenient_correct) for o in found] == [
        (True, gold, True, True),
        (False, None, False, True),  # cut off: it does not follow the format, whatever it says
        (True, other, False, False),
        (True, None, False, True),
    ]
    assert [o.choice_correct for o in found] == [True, True, False, True]
    assert [o.gold_bits for o in found] == pytest.approx([num / math.log(2) for num in (2, 2, 3, 2)])
    assert {o.gold_bytes for o in found} == {4}


def test_a_result_holds_every_condition_metric_and_curve(
    result: Result, quick_protocol: Protocol, tiny_checkpoint: Path
) -> None:
    assert list(result.metrics) == ["zero_shot", "few_shot", "cue", "prefix"]
    for metrics in result.metrics.values():
        assert {"accuracy", "format_following", "choice_accuracy", "gold_bits_per_byte"} <= metrics.keys()
        assert {estimate.n for name, estimate in metrics.items() if name != "knowledge_accuracy"} == {12}
    assert {name: [p.step for p in curve] for name, curve in result.curves.items()} == {
        "cue": [0, 3, 6],
        "prefix": [0, 3, 6],
    }
    assert len(result.outcomes) == 12 * (1 + 1 + 2 + 2)
    assert result.vectors["prefix"].shape == (2, quick_protocol.num_vectors, 32)
    assert (result.variant, result.step, result.status) == (tiny_checkpoint.parent.name, 100, "ok")


def test_every_point_of_a_curve_is_of_the_same_first_items(
    run: Callable[..., Result], quick_protocol: Protocol
) -> None:
    short = run(protocol=replace(quick_protocol, placements=("cue",), num_curve=5))
    assert [point.metrics["accuracy"].n for point in short.curves["cue"]] == [5, 5, 5]
    outcomes = [outcome for outcome in short.outcomes if outcome.condition == "cue"]
    first = [outcome.item for outcome in outcomes[:5]]
    assert short.curves["cue"][-1].metrics == summarise([o for o in outcomes if o.item in first])


def test_tuning_lowers_the_loss(run: Callable[..., Result], quick_protocol: Protocol) -> None:
    """Of the same samples: one batch holds all of them."""
    protocol = replace(quick_protocol, num_steps=20, batch_size=16, curve_steps=(0,), placements=PLACEMENTS)
    for curve in run(protocol=protocol).curves.values():
        assert curve[-1].loss < 0.8 * curve[0].loss


def test_progress_rises_to_the_end(run: Callable[..., Result]) -> None:
    shares: list[float] = []
    run(progress=lambda _what, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert len(shares) > 2 + 2 * 3


def test_a_notebook_without_widgets_shows_a_bar_in_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its streams are no terminals, as those of a job in a file, where there is no bar."""
    for config, shown in (({}, False), ({"IPKernelApp": {}}, True)):
        shell = SimpleNamespace(config=config)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        with reporting(None, "svamp") as report:
            report("cue: answering", 0.5)
        said = capsys.readouterr()
        assert ("svamp   0 % |" in said.out) is shown
        assert said.err == ""


def test_a_saved_result_is_read_back_as_it_was(result: Result, tmp_path: Path) -> None:
    read = Result.load(Result.load(result.save(tmp_path)).save(tmp_path))
    assert read == result
    assert read.vectors.keys() == result.vectors.keys()
    for name, vectors in read.vectors.items():
        np.testing.assert_array_equal(vectors, result.vectors[name])
    for part in (Result.load(tmp_path, with_items=False), Result.load(tmp_path, condition="cue")):
        with pytest.raises(BadStudy, match=r"holds no items of .*zero_shot; to save it, load it whole"):
            part.save(tmp_path)


def test_a_result_knows_the_rows_that_it_was_given(result: Result, run: Callable[..., Result], rows: Rows) -> None:
    edited = replace(rows, test=(replace(rows.test[0], question="Which city is it?"), *rows.test[1:]))
    found = [each.provenance["rows_fingerprint"] for each in (result, run(), run(rows=edited))]
    assert found[0] == found[1] != found[2]


def test_all_files_of_a_saved_result_can_be_read_by_whoever_can_read_one(result: Result, tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        result.save(tmp_path)
    finally:
        os.umask(umask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("result.json", "items.parquet", "vectors.safetensors"), 0o644)


def test_a_notebook_shows_a_result_as_tables(result: Result) -> None:
    page = result._repr_html_()
    for condition, metrics in result.metrics.items():
        assert condition in page
        assert f"{metrics['accuracy'].value:.3f}" in page


def test_a_result_is_printed_in_a_line(result: Result) -> None:
    accuracy = result.metrics["cue"]["accuracy"].value
    assert str(result).startswith(f"{result.variant} at step 100 on toy_capitals: cue accuracy {accuracy:.3f} (")


def test_a_result_on_a_single_item_can_be_saved(
    run: Callable[..., Result], quick_protocol: Protocol, tmp_path: Path
) -> None:
    """Its intervals are unbounded."""
    alone = run(protocol=replace(quick_protocol, num_test=1))
    assert Result.load(alone.save(tmp_path)).metrics["cue"]["accuracy"] == alone.metrics["cue"]["accuracy"]
    json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)


def test_a_benchmark_may_average_over_groups(
    run: Callable[..., Result], toy_benchmark: Benchmark, rows: Rows, tmp_path: Path
) -> None:
    grouped = replace(rows, test=tuple(replace(e, group="N" if "No" in e.question else "other") for e in rows.test))
    macro = run(benchmark=replace(toy_benchmark, macro_average=True), rows=grouped)
    assert {outcome.group for outcome in macro.outcomes} == {"N", "other"}
    assert Result.load(macro.save(tmp_path)).outcomes == macro.outcomes
    assert {outcome.group for outcome in run(rows=grouped).outcomes} == {""}


# What a result must not depend on


def test_the_backbone_is_bit_identical_afterwards(model: LanguageModel, run: Callable[..., Result]) -> None:
    before = weights_hash(model)
    run()
    assert load_model(open_checkpoint(model.network.name_or_path), CPU) is model  # the one that was evaluated
    assert weights_hash(model) == before
    assert all(weight.grad is None for weight in model.network.parameters())


def test_the_same_job_gives_the_same_result_to_the_bit(result: Result, run: Callable[..., Result]) -> None:
    again = run()
    assert again.outcomes == result.outcomes
    assert again.job_key == result.job_key
    for name, vectors in result.vectors.items():
        np.testing.assert_array_equal(again.vectors[name], vectors)


def test_seeds_start_and_end_apart(result: Result) -> None:
    for vectors in result.vectors.values():
        assert np.abs(vectors[0] - vectors[1]).max() > 0.01


@pytest.mark.parametrize("micro_batch", [1, 5])
def test_the_micro_batch_changes_neither_vectors_nor_outcomes(
    result: Result, run: Callable[..., Result], micro_batch: int
) -> None:
    other = run(resources=replace(CPU, micro_batch=micro_batch))
    for name, vectors in result.vectors.items():
        np.testing.assert_allclose(other.vectors[name], vectors, atol=1e-4)
    for ours, theirs in zip(result.outcomes, other.outcomes, strict=True):
        assert ours.gold_bits is not None
        assert theirs == replace(ours, gold_bits=theirs.gold_bits)
        assert theirs.gold_bits == pytest.approx(ours.gold_bits, abs=1e-3)


def test_evaluations_in_threads_wait_for_one_another(run: Callable[..., Result], quick_protocol: Protocol) -> None:
    short = replace(quick_protocol, num_steps=2, num_test=2, curve_steps=())
    at_work: list[int] = []

    def go(number: int) -> None:
        run(protocol=short, progress=lambda *_: at_work.append(number))

    threads = [threading.Thread(target=go, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in itertools.groupby(at_work)) == [0, 1]


# Decoding and scoring


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_batched_greedy_decoding_equals_a_plain_loop_without_a_cache(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.train, placement)
    stop = ("\n", "s", "is", "y", "try")  # of two in one token, the first counts

    expected = [plain_output(model, prompt, vectors_SPD, stop, 12) for prompt in prompts]
    for micro_batch in (7, 100):
        found, _ = answer(Prefill(model), prompts, vectors_SPD, stop=stop, max_new_tokens=12, micro_batch=micro_batch)
        assert [(generation.text, generation.stopped) for generation in found] == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_likelihoods_of_candidates_equal_those_of_full_forward_passes(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.test, placement)
    candidates = [
        [model.encode("a"), *(model.encode(f" {option}") for option in example.options[: i % 4])]
        for i, example in enumerate(rows.test)
    ]
    assert {len(ids) for found in candidates for ids in found} > {1, 2, 3}
    _, scores = answer(Prefill(model), prompts, vectors_SPD, max_new_tokens=1, candidates=candidates, micro_batch=5)
    for prompt, options, found in zip(prompts, candidates, scores, strict=True):
        for ids, score in zip(options, found, strict=True):
            assert score == pytest.approx(plain_score(model, prompt, vectors_SPD, ids), abs=1e-4)


def test_positions_are_counted_from_the_first_token_behind_the_padding(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows
) -> None:
    """A model with learned positions notices what one with rotary positions forgives."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(model.tokenizer), n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    gpt = LanguageModel(GPT2LMHeadModel(config).train(False).requires_grad_(False), model.tokenizer)
    prompts, vectors_SPD = mixed_prompts(gpt, toy_benchmark, quick_protocol, rows.test, "prefix")
    candidates = [[gpt.encode(f" {option}") for option in example.options] for example in rows.test]
    options = {"max_new_tokens": 6, "candidates": candidates}
    alone, alone_scores = answer(Prefill(gpt), prompts, vectors_SPD, micro_batch=1, **options)
    together, scores = answer(Prefill(gpt), prompts, vectors_SPD, micro_batch=64, **options)
    assert together == alone
    np.testing.assert_allclose(scores, alone_scores, atol=1e-4)
    assert len(set(together)) > 1


def test_padding_behind_a_short_answer_needs_no_place_in_the_context(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows
) -> None:
    """A long prompt with a short answer beside a short prompt with a long one, in a model with learned positions."""
    texts = [("Name the capital of Norway. " * 6, " Oslo"), ("Cities:", " Oslo Lima Cairo Quito Delhi Tunis")]
    examples = [replace(rows.train[0], question=question) for question, _ in texts]
    answers = [model.encode(text) for _, text in texts]
    prompts = Placement("cue", Wording(model, toy_benchmark), quick_protocol).prompts(examples)
    first, second = (len(prompt) + len(ids) for prompt, ids in zip(prompts, answers, strict=True))
    shape = {"vocab_size": len(model.tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 4}
    gpt = GPT2LMHeadModel(GPT2Config(**shape, n_positions=max(first, second))).train(False).requires_grad_(False)
    tight = LanguageModel(gpt, model.tokenizer)
    where = Placement("cue", Wording(tight, toy_benchmark), quick_protocol)
    batch = [TrainingRow(*row) for row in zip(prompts, answers, strict=True)]
    options = {"max_new_tokens": 1, "candidates": [[ids] for ids in answers]}

    def found(micro_batch: int) -> list[Tensor]:
        _, scores = answer(Prefill(tight), prompts, where.initial_vectors((0,)), micro_batch=micro_batch, **options)
        one_seed = replace(quick_protocol, seeds=(0,))
        return [torch.tensor(scores), *gradients(tight, where, batch, one_seed, micro_batch=micro_batch)]

    torch.testing.assert_close(found(2), found(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_vectors_that_are_rows_of_the_vocabulary_act_as_their_tokens(
    model: LanguageModel, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows, placement: str
) -> None:
    """The initial vectors are such rows: BOS, drawn tokens if any, question, cue."""
    prompts, vectors_SPD = mixed_prompts(model, toy_benchmark, quick_protocol, rows.test, placement)
    plain_prompts = as_tokens(model, prompts, vectors_SPD)
    for example, prompt in zip(rows.test, plain_prompts, strict=True):
        text = model.tokenizer.decode(prompt.ids)
        assert text.startswith("<s>")
        assert text.endswith(toy_benchmark.prompt(example))
    candidates = [[model.encode(f" {option}") for option in example.options] for example in rows.test]
    soft, soft_scores = answer(
        Prefill(model), prompts, vectors_SPD, max_new_tokens=8, candidates=candidates, micro_batch=64
    )
    hard, hard_scores = answer(Prefill(model), plain_prompts, max_new_tokens=8, candidates=candidates, micro_batch=64)
    assert soft == hard
    np.testing.assert_allclose(soft_scores, hard_scores, atol=1e-4)


def test_before_tuning_the_cue_placement_is_the_plain_prompt(result: Result) -> None:
    at_start = result.curves["cue"][0].metrics
    for name in ("accuracy", "format_following", "lenient_accuracy", "truncated"):
        assert at_start[name].value == result.metrics["zero_shot"][name].value


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


# What goes wrong


def poisoned_after(num_calls: int, seed: int) -> Callable[..., Tensor]:
    """The tuning's loss, NaN for one seed once it was computed so often."""
    count, healthy = itertools.count(), tune.answer_losses

    def losses(prefill: Prefill, rows: Sequence[tuple[Prompt, list[int]]], *rest: Tensor, packed: bool) -> Tensor:
        found_BA = healthy(prefill, rows, *rest, packed=packed)
        if next(count) < num_calls:
            return found_BA
        return found_BA * torch.tensor([[math.nan if prompt.seed == seed else 1.0] for prompt, _ in rows])

    return losses


def test_a_seed_that_diverges_is_a_status_and_leaves_the_others_alone(
    result: Result,
    run: Callable[..., Result],
    quick_protocol: Protocol,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    only_prefix = replace(quick_protocol, placements=("prefix",))
    monkeypatch.setattr(tune, "answer_losses", poisoned_after(4, seed=1))
    spoilt = run(protocol=only_prefix)
    assert (spoilt.status, spoilt.diverged) == ("diverged", {"prefix": (1,)})
    np.testing.assert_array_equal(spoilt.vectors["prefix"][0], result.vectors["prefix"][0])
    assert np.isfinite(spoilt.vectors["prefix"]).all()
    (standing,) = rank([spoilt], [spoilt.benchmark]).standings
    assert "tuning diverged on toy_capitals (seeds 1)" in standing.warnings
    assert Result.load(spoilt.save(tmp_path)).status == "diverged"


def test_a_seed_has_diverged_as_soon_as_its_loss_says_so(
    model: LanguageModel,
    toy_benchmark: Benchmark,
    quick_protocol: Protocol,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tune, "answer_losses", poisoned_after(0, seed=1))
    placement, answers = Placement("cue", Wording(model, toy_benchmark), quick_protocol), [e.answer for e in rows.train]
    steps = tune.tune(Prefill(model), placement, rows.train, answers, quick_protocol)
    assert [(tuned.step, tuned.diverged) for tuned in steps] == [(0, (1,)), (3, (1,)), (6, (1,))]


def test_a_tokenizer_may_lie_elsewhere(
    result: Result,
    run: Callable[..., Result],
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "step-100"))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert run(folder, tokenizer=tiny_checkpoint).outcomes == result.outcomes
    assert capsys.readouterr().err == ""  # nor a bar of transformers
