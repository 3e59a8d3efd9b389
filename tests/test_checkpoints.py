"""Discovery on local folders: what counts as a checkpoint, what does not yet, and why."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from softprompt.checkpoints import discover, open_checkpoint
from softprompt.errors import BadBucket, BadCheckpoint, IncompleteCheckpoint
from softprompt.layout import Layout

LAYOUT = "{variant}/step-{step}"


def write_checkpoint(folder: Path, value: float = 1.0, *, num_shards: int = 1, metadata: Any = None) -> Path:
    """The smallest folder in the Hugging Face layout, all weights `value`."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    if num_shards == 1:
        save_file({"weight": np.full(100, value, np.float32)}, folder / "model.safetensors")
    else:
        shards = {f"weight_{i}": f"model-{i}-of-{num_shards}.safetensors" for i in range(num_shards)}
        for name, file in shards.items():
            save_file({name: np.full(100, value, np.float32)}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    if metadata is not None:
        (folder / "metadata.json").write_text(metadata if isinstance(metadata, str) else json.dumps(metadata))
    return folder


def cut(file: Path, num_bytes: int) -> None:
    file.write_bytes(file.read_bytes()[:num_bytes])


def found(bucket: Path, layout: str = LAYOUT) -> list[tuple[str, int]]:
    discovery = discover(str(bucket), layout)
    assert discovery.rejected == {}
    return [(checkpoint.variant, checkpoint.step) for checkpoint in discovery.checkpoints]


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        ("{variant}/step-{step}", "big/step-200"),
        ("{variant}/step-{step}/", "big/step-0200"),
        ("{variant}/{step}/hf", "big/200/hf"),
        ("{variant}-{step}", "big-200"),
        ("runs/{variant}/checkpoints/global_step{step}", "runs/big/checkpoints/global_step200"),
        ("step{step}/{variant}", "step200/big"),
    ],
)
def test_a_layout_says_where_variant_and_step_stand(tmp_path: Path, layout: str, path: str) -> None:
    write_checkpoint(tmp_path / path)
    assert found(tmp_path, layout) == [("big", 200)]


@pytest.mark.parametrize("layout", ["{variant}", "step-{step}", "{variant}/{variant}/{step}", ""])
def test_a_layout_must_name_variant_and_step_once(layout: str) -> None:
    with pytest.raises(BadBucket, match=r"must name \{variant\} and \{step\} once each"):
        Layout(layout)


def test_what_the_layout_does_not_match_is_ignored(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "big" / "step-100")
    write_checkpoint(tmp_path / "big" / ".writing-x")
    write_checkpoint(tmp_path / "step-300")
    (tmp_path / "big" / "logs").mkdir()
    (tmp_path / "big" / "step-500").write_text("a file")
    (tmp_path / "README.md").write_text("a file")
    assert found(tmp_path) == [("big", 100)]


@pytest.mark.parametrize("path", ["../step-1", ".hidden/step-1", "a/../step-1", "a/step-1/..", "/step-1"])
def test_paths_that_lead_elsewhere_are_no_checkpoints(path: str) -> None:
    assert Layout(LAYOUT).match(path) is None


@pytest.mark.parametrize("variant", ["a::b", "a?versionId=1", "a\nb"])
def test_names_that_a_store_would_read_as_something_else_are_refused(variant: str) -> None:
    with pytest.raises(BadCheckpoint, match="in its name; rename it"):
        Layout(LAYOUT).match(f"{variant}/step-1")


def test_a_checkpoint_in_shards_is_one_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "big" / "step-100", num_shards=3)
    assert found(tmp_path) == [("big", 100)]


def half_written(folder: Path) -> None:
    cut(folder / "model-1-of-2.safetensors", 300)


def too_long(folder: Path) -> None:
    with (folder / "model-1-of-2.safetensors").open("ab") as file:
        file.write(b"more")


def cut_in_the_header(folder: Path) -> None:
    cut(folder / "model-1-of-2.safetensors", 30)


def zero_bytes(folder: Path) -> None:
    cut(folder / "model-1-of-2.safetensors", 0)


def without_a_shard(folder: Path) -> None:
    (folder / "model-1-of-2.safetensors").unlink()


def without_weights(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()


def with_pickles_only(folder: Path) -> None:
    without_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def with_weights_of_another_save(folder: Path) -> None:
    shutil.copy(folder / "model-1-of-2.safetensors", folder / "model.safetensors")


def with_half_an_index(folder: Path) -> None:
    cut(folder / "model.safetensors.index.json", 20)


def with_a_list_for_an_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")


def with_a_header_that_is_no_table(folder: Path) -> None:
    (folder / "model-1-of-2.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]")


def with_a_header_without_end(folder: Path) -> None:
    header = b"[" * 100_000
    (folder / "model-1-of-2.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def with_a_tensor_that_ends_nowhere(folder: Path) -> None:
    header = b'{"weight": {"data_offsets": [0, Infinity]}}'
    (folder / "model-1-of-2.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    ("spoil", "retryable", "message"),
    [
        (half_written, True, "has 300 bytes, its header asks for .* still being written"),
        (too_long, True, r"has \d+ bytes, its header asks for \d+"),
        (cut_in_the_header, True, "has 30 bytes, its header asks for more"),
        (zero_bytes, True, "has 0 bytes, its header asks for more"),
        (without_a_shard, True, "lacks the shard model-1-of-2.safetensors"),
        (without_weights, True, r"has no weights \(yet\): expected model.safetensors"),
        (with_pickles_only, False, r"only pickled weights \(pytorch_model.bin\), which are refused"),
        (without_config, True, r"has no config.json \(yet\)"),
        (with_weights_of_another_save, False, "has model.safetensors beside the shards that model.safetensors.index"),
        (with_half_an_index, True, "index.json is half written"),
        (with_a_list_for_an_index, True, "index.json is half written or has no weight_map"),
        (with_a_header_that_is_no_table, True, "has 10 bytes, its header asks for more"),
        (with_a_header_without_end, True, "has 100008 bytes, its header asks for more"),
        (with_a_tensor_that_ends_nowhere, True, "has 51 bytes, its header asks for more"),
    ],
)
def test_a_spoilt_checkpoint_is_rejected_with_its_reason_and_hides_no_other(
    tmp_path: Path, spoil: Any, retryable: bool, message: str
) -> None:
    write_checkpoint(tmp_path / "a" / "step-100")
    spoilt = write_checkpoint(tmp_path / "b" / "step-100", num_shards=2)
    write_checkpoint(tmp_path / "c" / "step-100")
    spoil(spoilt)

    discovery = discover(str(tmp_path), LAYOUT)
    assert [checkpoint.variant for checkpoint in discovery.checkpoints] == ["a", "c"]
    (error,) = discovery.rejected.values()
    assert list(discovery.rejected) == [str(spoilt)]
    assert error.retryable is retryable
    with pytest.raises(BadCheckpoint, match=message) as caught:
        raise error
    assert str(caught.value).startswith(str(spoilt))
    assert "\n" not in str(caught.value)


def test_a_rejected_checkpoint_is_found_once_it_is_whole(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a" / "step-100")
    whole = (folder / "model.safetensors").read_bytes()
    half_size = len(whole) // 2
    cut(folder / "model.safetensors", half_size)
    (error,) = discover(str(tmp_path), LAYOUT).rejected.values()
    assert isinstance(error, IncompleteCheckpoint)
    (folder / "model.safetensors").write_bytes(whole)
    assert found(tmp_path) == [("a", 100)]


def test_overwritten_weights_are_another_checkpoint(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a" / "step-100", value=1.0)

    def look() -> str:
        return discover(str(tmp_path), LAYOUT).checkpoints[0].fingerprint

    before = look()
    assert look() == before
    (folder / "optimizer.bin").write_text("files that decide no score do not count")
    (folder / "metadata.json").write_text('{"tokens": 1}')
    assert look() == before
    save_file({"weight": np.full(100, 2.0, np.float32)}, folder / "model.safetensors")
    os.utime(folder / "model.safetensors", (2e9, 2e9))
    assert look() != before


def test_a_bucket_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadBucket, match=f"There is no {tmp_path}/nowhere"):
        discover(str(tmp_path / "nowhere"), LAYOUT)


def test_a_file_is_no_bucket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadBucket, match=r"file is a file; expected a folder"):
        discover(str(tmp_path / "file"), LAYOUT)


def test_a_url_of_an_unknown_kind_is_no_bucket() -> None:
    with pytest.raises(BadBucket, match="nosuch://bucket is no place this machine can read"):
        discover("nosuch://bucket", LAYOUT)


def test_an_empty_bucket_holds_nothing_and_is_no_error(tmp_path: Path) -> None:
    assert found(tmp_path) == []


def test_a_file_url_finds_the_same_checkpoint_as_a_path(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a" / "step-100")
    (by_url,) = discover(f"file://{tmp_path}", LAYOUT).checkpoints
    (by_path,) = discover(str(tmp_path), LAYOUT).checkpoints
    assert by_url.fingerprint == by_path.fingerprint
    assert by_url.local_path == by_path.local_path == folder


def test_a_checkpoint_tells_its_variant_and_step_in_its_metadata(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "step-100", metadata={"variant": "big", "step": 7, "tokens": 5})
    opened = open_checkpoint(folder)
    assert opened == open_checkpoint(str(folder))
    assert (opened.variant, opened.step, opened.name) == ("big", 7, "big at step 7")


@pytest.mark.parametrize(
    ("path", "variant", "step"),
    [
        ("A/step-100", "A", 100),
        ("A/global_step100", "A", 100),
        ("A/0800", "A", 800),
        ("A/v2-step00300", "v2-step00300", 300),
        ("A/Checkpoint_7-of-9", "Checkpoint_7-of-9", 7),
        ("A/iter12-step5", "iter12-step5", 5),
        ("A/big", "big", 0),
        ("A/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct", 0),
        ("A/steps-of-2024", "steps-of-2024", 0),
    ],
)
def test_without_metadata_a_checkpoint_is_called_like_its_folder_or_the_one_above(
    tmp_path: Path, path: str, variant: str, step: int
) -> None:
    """Digits that may tell a size or a date are taken for no step."""
    opened = open_checkpoint(str(write_checkpoint(tmp_path / path)) + "/")
    assert (opened.variant, opened.step) == (variant, step)


def test_an_opened_checkpoint_is_the_discovered_one(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a" / "step-100", metadata={"variant": "a", "step": 100})
    (discovered,) = discover(str(tmp_path), LAYOUT).checkpoints
    assert open_checkpoint(str(folder)) == discovered


@pytest.mark.parametrize("metadata", ['{"step": 1', "[1]", "5", '{"step": "latest"}', '{"step": null}'])
def test_broken_metadata_are_a_broken_checkpoint(tmp_path: Path, metadata: str) -> None:
    folder = write_checkpoint(tmp_path / "step-100", metadata=metadata)
    with pytest.raises(BadCheckpoint, match=f"{folder}/metadata.json"):
        open_checkpoint(str(folder))


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=f"There is no checkpoint at {tmp_path}/nowhere"):
        open_checkpoint(str(tmp_path / "nowhere"))
