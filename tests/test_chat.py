"""Questions through a chat template, on the tiny checkpoint's tokenizer."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from softprompt.benchmarks import Benchmark
from softprompt.checkpoints import open_checkpoint
from softprompt.errors import BadCheckpoint
from softprompt.loading import load_model
from softprompt.models import LanguageModel
from softprompt.protocol import Protocol, Resources
from softprompt.result import Result
from softprompt.rows import Rows
from softprompt.wording import Wording

TURNS = (
    "{% for turn in messages %}[{{ turn.role }}]\n{{ turn.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


@pytest.fixture
def model(tiny_checkpoint: Path) -> LanguageModel:
    """With a tokenizer of its own, so that a test may give it a template."""
    from transformers import AutoTokenizer

    loaded = load_model(open_checkpoint(str(tiny_checkpoint)), Resources(device="cpu"))
    return LanguageModel(loaded.network, AutoTokenizer.from_pretrained(tiny_checkpoint))


@pytest.mark.parametrize("template", [TURNS, "{{ bos_token }}" + TURNS], ids=["without BOS", "with BOS"])
def test_the_question_is_the_users_turn_and_the_cue_starts_the_assistants(
    model: LanguageModel, toy_benchmark: Benchmark, rows: Rows, template: str
) -> None:
    model.tokenizer.chat_template = template
    asked = Wording(model, toy_benchmark, chat=True).ask(rows.test[0], rows.train[:1])
    assert asked.prompt == (
        "[user]\n"
        "Question: What is the capital of Norway?\nAnswer: Oslo\n\n"
        "Question: Name the capital of Norway.</s>\n"
        "[assistant]\n"
        "Answer:"
    )
    assert asked.cue == "Answer:"
    ids = [*model.bos_ids, *model.encode(asked.prompt)]
    assert ids.count(model.tokenizer.bos_token_id) == 1
    assert ids.count(model.tokenizer.eos_token_id) == 1  # the template's marks are tokens, not letters


def test_a_bos_that_the_tokenizer_would_not_add_is_kept(
    model: LanguageModel, toy_benchmark: Benchmark, rows: Rows
) -> None:
    model.tokenizer.chat_template = "{{ bos_token }}" + TURNS
    model.tokenizer.backend_tokenizer.post_processor = None
    assert model.bos_ids == []
    assert Wording(model, toy_benchmark, chat=True).ask(rows.test[0]).prompt.startswith("<s>[user]")


def test_without_a_chat_the_text_is_the_benchmarks_own(
    model: LanguageModel, toy_benchmark: Benchmark, rows: Rows
) -> None:
    for shots in ((), rows.train[:2]):
        asked = Wording(model, toy_benchmark).ask(rows.test[0], shots)
        assert asked.prompt == toy_benchmark.prompt(rows.test[0], shots)
        assert asked.cue == toy_benchmark.cue


@pytest.mark.parametrize(("mark", "expected"), [("</s>", "</s>"), ("<s>", "<s>"), ("", "</s>")])
def test_a_turn_ends_as_its_template_says_if_that_ends_an_answer(
    model: LanguageModel, toy_benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, mark: str, expected: str
) -> None:
    tokenizer = model.tokenizer
    ends = [tokenizer.eos_token_id, tokenizer.bos_token_id]
    monkeypatch.setattr(model.network.generation_config, "eos_token_id", ends)
    tokenizer.chat_template = TURNS.replace("</s>", mark)
    assert Wording(model, toy_benchmark, chat=True).terminator_id == tokenizer.convert_tokens_to_ids(expected)


def test_a_tokenizer_without_a_template_is_named(model: LanguageModel, toy_benchmark: Benchmark, rows: Rows) -> None:
    with pytest.raises(BadCheckpoint, match=r"step-100 has no chat template; set chat = false"):
        Wording(model, toy_benchmark, chat=True).ask(rows.test[0])


def test_a_chat_model_is_tuned_and_evaluated_through_its_template(
    model: LanguageModel,
    run: Callable[..., Result],
    tiny_checkpoint: Path,
    quick_protocol: Protocol,
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "chat"))
    model.tokenizer.chat_template = TURNS
    model.tokenizer.save_pretrained(folder)
    plainly = replace(quick_protocol, unknown_share=0.0)  # whose loss a few steps lower
    chat, plain = (run(folder, protocol=replace(plainly, chat=chat)) for chat in (True, False))
    outputs = [[o.output for o in result.outcomes if o.condition == "zero_shot"] for result in (chat, plain)]
    assert outputs[0] != outputs[1]
    assert chat.protocol.fingerprint != plain.protocol.fingerprint
    assert chat.curves["cue"][0].metrics["accuracy"] == chat.metrics["zero_shot"]["accuracy"]
    assert chat.curves["cue"][-1].loss < chat.curves["cue"][0].loss
