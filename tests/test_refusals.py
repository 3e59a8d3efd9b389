"""What cannot be evaluated is refused in one sentence that names it."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from softprompt.benchmarks import Benchmark
from softprompt.errors import BadBenchmark, BadCheckpoint, BadStudy, SoftPromptError, in_short
from softprompt.protocol import Protocol
from softprompt.result import Result
from softprompt.rows import Rows


def change_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def spoil_weights(folder: Path) -> None:
    nan = np.full((64, 32), np.nan, dtype=np.float32)
    change_weights(folder, lambda weights: {**weights, "model.layers.1.mlp.up_proj.weight": nan})


def overflow(folder: Path) -> None:
    huge = np.full(32, 3e38, dtype=np.float32)
    change_weights(folder, lambda weights: {**weights, "model.norm.weight": huge})


def spoil_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"[new {i}]" for i in range(10)])
    tokenizer.save_pretrained(folder)


def remove_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no such model"}')


def ask_for_another_head(folder: Path) -> None:
    """What transformers says of it lists all that it knows."""
    (folder / "config.json").write_text('{"model_type": "vit"}')


def cut_config(folder: Path) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text()[:100])


def cut_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:1000])


def spoil_shape(folder: Path) -> None:
    change_config(folder, hidden_size=64)


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def lose_a_weight(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    change_weights(folder, lambda weights: {n: weight for n, weight in weights.items() if n != name})


def wrap(folder: Path) -> None:
    change_weights(folder, lambda weights: {f"_orig_mod.{name}": weight for name, weight in weights.items()})


def add_biases(folder: Path) -> None:
    """As if the trainer's Llama had biases and its config did not say so."""
    bias = np.ones(32, dtype=np.float32)
    change_weights(folder, lambda weights: {**weights, "model.layers.0.self_attn.q_proj.bias": bias})


def forget_a_layer(folder: Path) -> None:
    change_config(folder, num_hidden_layers=1)


def cut_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [0,')


def leave_numbers_out(folder: Path) -> None:
    """Of a vocabulary as long as the embedding, whose last token has a number beyond it."""
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(re.sub(r": 319\b", ": 400", text, count=1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weights, "the weights model.layers.1.mlp.up_proj.weight hold NaN or infinity; the pre-training has"),
        (overflow, r"LlamaForCausalLM, gives infinite logits or none in torch.float32, though its weights are finite"),
        (spoil_tokenizer, "the tokenizer has 330 tokens, the embedding only 320 rows; .* as `tokenizer` in the study"),
        (remove_tokenizer, r"has no tokenizer \(yet\); if it never gets one, name one as `tokenizer`"),
        (spoil_config, r"has the architecture 'no such model', which transformers [\d.]+ does not know; .*--trust-rem"),
        (ask_for_another_head, r"\(ValueError: Unrecognized configuration class .*\w,? \.\.\.\); save config, weights"),
        (cut_config, "/config.json is half written or no JSON; upload it again"),
        (cut_tokenizer, "/tokenizer.json is half written or no JSON; upload it again"),
        (spoil_shape, r"the weights lm_head.weight are 320 x 32, its config asks for 320 x 64; config and weights"),
        (lose_a_weight, "lacks the weights model.layers.1.mlp.up_proj.weight, which would be random; save the"),
        (wrap, r"which would be random; it has _orig_mod\.lm_head\.weight in its place, a wrapper's name for it: save"),
        (
            add_biases,
            r"has the weights model.layers.0.self_attn.q_proj.bias, which LlamaForCausalLM with its config do",
        ),
        (
            forget_a_layer,
            r"has the weights model.layers.1.input_layernorm.weight, .* not read: another network than the",
        ),
        (cut_generation_config, "/generation_config.json is half written or no JSON; upload it again"),
        (leave_numbers_out, "the tokenizer has 401 tokens, the embedding only 320 rows"),
        (shutil.rmtree, "There is no checkpoint at"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_refused_in_one_sentence(
    run: Callable[..., Result], tiny_checkpoint: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "spoilt"))
    spoil(folder)
    with pytest.raises(BadCheckpoint, match=message) as caught:
        run(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"protocol": {"num_test": 5}}, "protocol is a dict; expected a Protocol: Protocol.from_dict makes one of"),
        ({"resources": {}}, "resources is a dict; expected a Resources: Resources.from_dict makes one of plain values"),
        ({"rows": []}, "rows is a list; expected a Rows: leave it out to have them loaded"),
        ({"rows": Rows(train=(), test=())}, "The train split has 0 usable items"),
        ({"benchmark": "suite:core"}, "'suite:core' is a suite, which a study or the command line may name; name one"),
    ],
)
def test_an_argument_of_another_kind_is_refused_with_what_is_expected(
    run: Callable[..., Result], change: dict[str, object], says: str
) -> None:
    with pytest.raises(SoftPromptError, match=f"^{says}"):
        run(**change)


@pytest.mark.parametrize("place", ["/no/such/folder", "./words", "../words", "~/words"])
def test_a_tokenizers_folder_that_is_not_there_is_named(run: Callable[..., Result], place: str) -> None:
    with pytest.raises(BadStudy, match=f"^There is no folder {place} to read the tokenizer from; correct `tokenizer`"):
        run(tokenizer=place)


@pytest.mark.parametrize("question", ["Which city? " * 100, "город " * 60], ids=["in characters", "in tokens only"])
def test_a_question_that_does_not_fit_into_the_context_is_named(
    run: Callable[..., Result], rows: Rows, question: str
) -> None:
    """The second is shorter than another one that does fit, but its letters are two tokens each."""
    longest = replace(rows.test[3], question="capital of " * 36, id="longest")
    long = replace(rows.test[3], question=question, id="long")
    with pytest.raises(
        BadBenchmark, match=r"'toy_capitals', item long: \d+ tokens .* exceed the model's context of 256"
    ):
        run(rows=replace(rows, test=(longest, long)))


def test_an_option_that_does_not_fit_into_the_context_is_named(run: Callable[..., Result], rows: Rows) -> None:
    """It is scored, however few tokens the model may say."""
    long = replace(rows.test[3], options=("Oslo", "Oslo " * 250), id="long")
    with pytest.raises(BadBenchmark, match=r"'toy_capitals', item long: .* exceed the model's context of 256"):
        run(rows=replace(rows, test=(long,)))


def test_a_cue_that_does_not_fit_into_the_context_is_refused(
    run: Callable[..., Result], quick_protocol: Protocol
) -> None:
    with pytest.raises(BadBenchmark, match=r"exceed the model's context of 256"):
        run(protocol=replace(quick_protocol, cue_text="\nOne word and nothing else: " * 20))


def test_a_training_answer_that_does_not_fit_into_the_context_is_named(
    run: Callable[..., Result], rows: Rows, quick_protocol: Protocol
) -> None:
    train = tuple(replace(example, answer="Oslo " * 250, options=()) for example in rows.train)
    with pytest.raises(BadBenchmark, match=r"'toy_capitals', item 1-2: .* exceed the model's context of 256"):
        run(rows=replace(rows, train=train), protocol=replace(quick_protocol, num_shots=0))


def test_vectors_need_room_only_where_they_stand_in_front(run: Callable[..., Result], quick_protocol: Protocol) -> None:
    many = replace(quick_protocol, num_vectors=250, num_steps=1, curve_steps=())
    run(protocol=replace(many, placements=("cue",)))
    for placement in ("prefix", "both"):
        with pytest.raises(BadBenchmark, match=r"exceed the model's context of 256"):
            run(protocol=replace(many, placements=("cue", placement)))


def test_shots_that_do_not_fit_into_the_context_are_named(run: Callable[..., Result], quick_protocol: Protocol) -> None:
    with pytest.raises(BadBenchmark, match=r"with 14 shots .* exceed the model's context of 256. Lower num_shots"):
        run(protocol=replace(quick_protocol, num_shots=14))


def test_a_benchmark_without_a_cue_cannot_be_tuned_in_its_place(
    run: Callable[..., Result], toy_benchmark: Benchmark
) -> None:
    with pytest.raises(BadBenchmark, match="cue"):
        run(benchmark=replace(toy_benchmark, cue=""))


def test_a_librarys_words_are_cut_between_words_or_within_one_that_leaves_no_others() -> None:
    assert in_short("no  such\nhost", 20) == "no such host"
    assert in_short("no such host is known here", 20) == "no such host is ..."
    assert in_short(f"at https://host/{'x' * 40}: refused", 20) == "at https://host/ ..."
