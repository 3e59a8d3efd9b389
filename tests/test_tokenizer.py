"""A checkpoint's tokenizer cuts text as its file says, whatever transformers makes of the names around it."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from softprompt.checkpoints import open_checkpoint
from softprompt.loading import load_model
from softprompt.protocol import Resources
from softprompt.tokenizer import load_tokenizer

TEXT = "In 2024 there were 12345 people"


@pytest.fixture
def own(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with a tokenizer that keeps digits apart."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "A" / "step-1"))
    rules = Tokenizer.from_file(str(folder / "tokenizer.json"))
    digits = pre_tokenizers.Digits(individual_digits=False)
    rules.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    PreTrainedTokenizerFast(tokenizer_object=rules, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("network", "name"), [("qwen2", None), ("qwen3", "Qwen2Tokenizer"), ("llama", "GPT2Tokenizer")]
)
def test_a_name_puts_no_other_rules_in_place_of_the_files(own: Path, network: str, name: str | None) -> None:
    expected = load_tokenizer(own)
    change(own / "config.json", model_type=network)
    if name:
        change(own / "tokenizer_config.json", tokenizer_class=name)
    found = load_tokenizer(own)
    assert (found(TEXT).input_ids, len(found)) == (expected(TEXT).input_ids, len(expected))
    assert found.bos_token_id == expected.bos_token_id == found("").input_ids[0]


def test_a_bos_that_only_the_files_rules_know_stands_in_front(own: Path) -> None:
    (own / "tokenizer_config.json").unlink()
    model = load_model(open_checkpoint(own), Resources(device="cpu"))
    assert model.tokenizer.bos_token_id is None
    assert model.bos_ids == [model.tokenizer.convert_tokens_to_ids("<s>")]


def test_an_ordinary_token_that_a_config_calls_the_end_ends_no_answer(own: Path) -> None:
    """Llama's config calls 2 the end unless it is told otherwise."""
    change(own / "generation_config.json", eos_token_id=[0, 2])
    weights = load_file(own / "model.safetensors")
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    model = load_model(open_checkpoint(own), Resources(device="cpu"))
    assert model.tokenizer.convert_ids_to_tokens(2) == "!"
    assert model.eos_ids == {0}


def test_a_mark_without_a_row_of_the_embedding_is_none_of_a_texts_tokens(own: Path) -> None:
    """As Gemma 3's, which stands for an image."""
    tokenizer = load_tokenizer(own)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(own)
    model = load_model(open_checkpoint(own), Resources(device="cpu"))
    assert (len(model.tokenizer), model.num_tokens) == (321, 320)
    assert math.isfinite(model.embedding_rms)
