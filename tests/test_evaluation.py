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
from torch import Tensor

from softprompt import evaluation, tune
from softprompt.benchmarks import Benchmark
from softprompt.checkpoints import open_checkpoint
from softprompt.conditions import Condition
from softprompt.decode import Generation
from softprompt.errors import BadStudy
from softprompt.evaluation import Evaluation
from softprompt.loading import load_model
from softprompt.meter import Meter
from softprompt.metrics import summarise
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.progress import reporting
from softprompt.prompt import Placement, Prompt
from softprompt.protocol import PLACEMENTS, Protocol
from softprompt.ranking import rank
from softprompt.result import Result
from softprompt.rows import Rows
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


def test_before_tuning_the_cue_placement_is_the_plain_prompt(result: Result) -> None:
    at_start = result.curves["cue"][0].metrics
    for name in ("accuracy", "format_following", "lenient_accuracy", "truncated"):
        assert at_start[name].value == result.metrics["zero_shot"][name].value


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
