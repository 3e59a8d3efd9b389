"""Buckets on a real S3 server: what is found there, what is refused, and in which words."""

import json
import os
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import s3fs
from s3 import SECRET, WRITER_KEY, WRITER_SECRET, S3Bucket
from safetensors.numpy import save
from test_checkpoints import LAYOUT, write_checkpoint

from softprompt.bucket import Bucket
from softprompt.checkpoints import discover, list_folders, open_checkpoint
from softprompt.errors import BadBucket, BadCheckpoint, BucketUnavailable, IncompleteCheckpoint, SoftPromptError
from softprompt.layout import Layout


def names(url: str, layout: str = LAYOUT) -> list[tuple[str, int]]:
    return [(folder.variant, folder.step) for folder in list_folders(Bucket(url), Layout(layout)).folders]


def one_sentence(error: SoftPromptError) -> str:
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    assert SECRET not in text and WRITER_SECRET not in text
    return text


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two shards."""
    return write_checkpoint(tmp_path_factory.mktemp("whole") / "step-100", num_shards=2, metadata={"tokens": 5})


def test_a_checkpoint_on_s3_is_what_it_is_on_disk(s3: S3Bucket, whole: Path) -> None:
    uri = s3.upload(whole, "runs/A/step-0100")
    (found,) = discover(f"{s3.url}/runs/", LAYOUT).checkpoints
    assert (found.uri, found.variant, found.step, found.tokens) == (uri, "A", 100, 5)
    assert abs(found.modified_ms / 1000 - time.time()) < 60
    assert found == open_checkpoint(uri, ("A", 100))
    s3.write("runs/A/step-0100/optimizer.bin", b"no score depends on it")
    assert open_checkpoint(uri, ("A", 100)) == found
    s3.write("runs/A/step-0100/model-1-of-2.safetensors", save({"weight_1": np.full(100, 2.0, np.float32)}))
    assert open_checkpoint(uri, ("A", 100)).fingerprint != found.fingerprint


def test_folders_are_found_from_names_alone(s3: S3Bucket) -> None:
    for path in ("A/step-100", "A/step-0200", "B/step-100", "ä ö/step-7", "50%25/step-8", "a+b&c/step-9"):
        s3.write(f"{path}/any-file")
    s3.write("README.md")
    expected = {("A", 100), ("A", 200), ("B", 100), ("ä ö", 7), ("50%25", 8), ("a+b&c", 9)}
    assert set(names(s3.url)) == expected
    s3.write("A/step-50/late-upload")
    assert set(names(s3.url)) == expected | {("A", 50)}


@pytest.mark.parametrize("variant", ["ä ö", "50%25", "a+b&c=d", "it's", "a::b"])
def test_strange_names_can_be_read_or_are_refused_in_words(s3: S3Bucket, whole: Path, variant: str) -> None:
    s3.upload(whole, f"{variant}/step-1")
    s3.upload(whole, "plain/step-1")
    found = discover(s3.url, LAYOUT)
    if "::" in variant:
        (error,) = found.rejected.values()
        assert "in its name; rename it" in one_sentence(error)
    else:
        assert found.rejected == {}
        checkpoint = min(found.checkpoints, key=lambda c: c.variant == "plain")
        assert open_checkpoint(checkpoint.uri, (variant, 1)) == checkpoint
    assert "plain" in {checkpoint.variant for checkpoint in found.checkpoints}


def test_a_fixed_tail_is_not_listed(s3: S3Bucket, whole: Path) -> None:
    s3.upload(whole, "A/100/hf")
    s3.write("A/200/optimizer/state")
    assert sorted(names(s3.url, "{variant}/{step}/hf")) == [("A", 100), ("A", 200)]
    found = discover(s3.url, "{variant}/{step}/hf")
    assert [checkpoint.step for checkpoint in found.checkpoints] == [100]
    (error,) = found.rejected.values()
    assert one_sentence(error).startswith(f"There is no checkpoint at {s3.url}/A/200/hf")


def test_folder_markers_of_other_tools_are_no_files(s3: S3Bucket, whole: Path) -> None:
    s3.upload(whole, "A/step-100")
    for marker in ("A/", "A/step-100/", "B/"):
        s3.write(marker)
    assert [checkpoint.variant for checkpoint in discover(s3.url, LAYOUT).checkpoints] == ["A"]


def test_two_folders_for_one_step_are_both_rejected_and_hide_no_other(s3: S3Bucket, whole: Path) -> None:
    for path in ("A/step-100", "A/step-0100", "A/step-200", "B/step-100"):
        s3.upload(whole, path)
    found = discover(s3.url, LAYOUT)
    assert {(c.variant, c.step) for c in found.checkpoints} == {("A", 200), ("B", 100)}
    assert set(found.rejected) == {f"{s3.url}/A/step-100", f"{s3.url}/A/step-0100"}
    for error in found.rejected.values():
        assert "are both variant A at step 100; remove or rename one" in one_sentence(error)


def test_a_step_that_is_no_number_is_said(s3: S3Bucket, whole: Path) -> None:
    s3.upload(whole, "A/step-latest")
    s3.upload(whole, "A/step-100")
    found = discover(s3.url, LAYOUT)
    assert [checkpoint.step for checkpoint in found.checkpoints] == [100]
    assert "has 'latest' where the layout" in one_sentence(found.rejected[f"{s3.url}/A/step-latest"])


def test_a_layout_that_fits_nothing_says_what_is_there(s3: S3Bucket) -> None:
    assert discover(s3.url, LAYOUT).rejected == {}
    assert discover(f"{s3.url}/nothing/here/yet", LAYOUT).rejected == {}
    for i in range(8):
        s3.write(f"run/checkpoint-{i}/config.json")
    for layout in (LAYOUT, "other/{variant}/{step}"):
        (error,) = discover(s3.url, layout).rejected.values()
        assert "run" in one_sentence(error)
    (error,) = discover(s3.url, LAYOUT).rejected.values()
    assert "'run/checkpoint-0'" in str(error) and "and 3 more" in str(error)


def index_of(*shards: object) -> bytes:
    return json.dumps({"weight_map": dict(enumerate(shards))}).encode()


@pytest.mark.parametrize(
    ("name", "content", "retryable", "message"),
    [
        ("model-1-of-2.safetensors", b"", True, "has 0 bytes, its header asks for more"),
        ("model-1-of-2.safetensors", b"12345678", True, "has 8 bytes, its header asks for more"),
        ("model-1-of-2.safetensors", None, True, "lacks the shard model-1-of-2.safetensors"),
        ("model.safetensors.index.json", index_of("../step-2/model.safetensors"), False, "no plain file name"),
        ("model.safetensors.index.json", index_of(".."), False, "no plain file name"),
        ("model.safetensors.index.json", index_of(5), False, "no plain file name"),
        ("model.safetensors.index.json", b'{"weight', True, "is half written"),
        ("config.json", None, True, r"has no config.json \(yet\)"),
        ("metadata.json", b'{"tokens": "many"}', False, "whole numbers as step and tokens"),
    ],
)
def test_a_spoilt_upload_is_said_and_hides_no_other(
    s3: S3Bucket, whole: Path, name: str, content: bytes | None, retryable: bool, message: str
) -> None:
    for path in ("A/step-1", "B/step-1"):
        s3.upload(whole, path)
    s3.remove(f"B/step-1/{name}") if content is None else s3.write(f"B/step-1/{name}", content)
    found = discover(s3.url, LAYOUT)
    assert [checkpoint.variant for checkpoint in found.checkpoints] == ["A"]
    error = found.rejected[f"{s3.url}/B/step-1"]
    assert error.retryable is retryable
    with pytest.raises(BadCheckpoint, match=message):
        raise error
    one_sentence(error)


def test_headers_longer_than_the_first_read_are_read_whole(s3: S3Bucket, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "step-1")
    content = save({f"weight.{i:05}": np.ones(2, np.float32) for i in range(2000)})
    assert int.from_bytes(content[:8], "little") > 1 << 16
    (folder / "model.safetensors").write_bytes(content)
    uri = s3.upload(folder, "A/step-1")
    open_checkpoint(uri)
    s3.write("A/step-1/model.safetensors", content[:-1])
    with pytest.raises(IncompleteCheckpoint, match="still being written"):
        open_checkpoint(uri)


def test_without_a_marker_a_checkpoint_must_have_been_left_alone(s3: S3Bucket, whole: Path) -> None:
    uri = s3.upload(whole, "A/step-100")
    (error,) = discover(s3.url, LAYOUT, settle_s=3600).rejected.values()
    assert error.retryable
    assert "counts as whole once nothing in it has changed for 3600 s" in one_sentence(error)
    assert discover(s3.url, LAYOUT, settle_s=0.001).checkpoints
    assert open_checkpoint(uri)  # whoever names one says that it is whole


def test_settling_goes_by_the_stores_clock(s3: S3Bucket, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.upload(whole, "A/step-100")
    real = time.time
    for error_s in (-1e6, 1e6):  # this machine's clock, set back or ahead
        monkeypatch.setattr(time, "time", lambda error_s=error_s: real() + error_s)
        assert len(discover(s3.url, LAYOUT, settle_s=3600).rejected) == 1


def test_a_file_from_the_future_is_not_hidden_for_good(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "A" / "step-100")
    assert discover(str(tmp_path), LAYOUT, settle_s=60).checkpoints == []
    for shift_s in (-120, 120):
        for file in folder.iterdir():
            os.utime(file, (time.time() + shift_s,) * 2)
        assert discover(str(tmp_path), LAYOUT, settle_s=60).checkpoints


def test_a_marker_settles_a_checkpoint_at_once(s3: S3Bucket, whole: Path) -> None:
    s3.upload(whole, "A/step-100")
    (error,) = discover(s3.url, LAYOUT, marker="STABLE", settle_s=3600).rejected.values()
    assert "has no STABLE (yet)" in one_sentence(error)
    s3.write("A/step-100/STABLE")
    assert discover(s3.url, LAYOUT, marker="STABLE", settle_s=3600).checkpoints
    s3.remove("A/step-100/model-1-of-2.safetensors")  # a marker is believed, and checked
    assert discover(s3.url, LAYOUT, marker="STABLE").checkpoints == []


@pytest.mark.parametrize(
    ("environment", "url", "retryable", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, None, False, "with these credentials (SignatureDoesNotMatch); check AWS_"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, None, False, "with these credentials (InvalidAccessKeyId); check AWS_"),
        ({"AWS_ACCESS_KEY_ID": ""}, None, False, "with these credentials (NoCredentialsError); check AWS_"),
        (
            {"AWS_ACCESS_KEY_ID": WRITER_KEY, "AWS_SECRET_ACCESS_KEY": WRITER_SECRET},
            None,
            False,
            "may not be listed or read by this process (AccessDenied); give",
        ),
        ({"AWS_PROFILE": "nobody's"}, None, False, "with these credentials (ProfileNotFound); check AWS_"),
        ({}, "s3://no-such-bucket", False, "There is no bucket s3://no-such-bucket; create it"),
        ({}, "s3://no-such-bucket/runs", False, "There is no bucket s3://no-such-bucket/runs; create it"),
        ({}, "s3://Bad_Bucket!", False, "s3://Bad_Bucket! cannot be used (ParamValidationError"),
        ({"AWS_ENDPOINT_URL": "nonsense"}, None, False, "cannot be used (ValueError: Invalid endpoint: nonsense)"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, None, True, "cannot be read just now (EndpointConnectionError"),
        ({"AWS_ENDPOINT_URL": f"http://u:{SECRET}@127.0.0.1:9"}, None, True, "cannot be read just now"),
        ({}, f"s3://{WRITER_KEY}:{SECRET}@bucket/runs", False, "s3://***@bucket/runs holds a password"),
        ({}, f"s3://{WRITER_KEY}:ab/cd+{SECRET}@bucket/runs", False, "s3://***@bucket/runs holds a password"),
        ({}, f"ftp://user:p@{SECRET}@host/runs", False, "ftp://***@host/runs holds a password"),
    ],
)
def test_a_store_that_refuses_or_is_away_is_one_sentence(
    s3: S3Bucket,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    url: str | None,
    retryable: bool,
    message: str,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises((BadBucket, BucketUnavailable)) as caught:
        discover(url or s3.url, LAYOUT)
    assert message in one_sentence(caught.value)
    assert caught.value.retryable is retryable
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_credentials_given_after_a_first_try_are_used(s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(BadBucket):
            discover(s3.url, LAYOUT)
    assert discover(s3.url, LAYOUT).checkpoints == []


def test_any_other_store_of_fsspec_serves(whole: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in whole.iterdir():
        memory.pipe_file(f"/runs/A/step-100/{file.name}", file.read_bytes())
    (found,) = discover("memory://runs", LAYOUT, settle_s=0).checkpoints
    assert (found.uri, found.step) == ("memory://runs/A/step-100", 100)
    assert found == open_checkpoint(found.uri, ("A", 100))
    weights = next(iter(memory.glob("/runs/A/step-100/*.safetensors")))
    memory.pipe_file(weights, memory.cat_file(weights))  # of the same size
    (overwritten,) = discover("memory://runs", LAYOUT, settle_s=0).checkpoints
    assert overwritten.fingerprint != found.fingerprint
    assert discover("memory://runs", LAYOUT, settle_s=60).checkpoints == []


def test_a_bug_stays_what_it_is(s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "_lsdir", lambda *_, **__: {}["no-such-key"])
    with pytest.raises(KeyError, match="no-such-key"):
        discover(s3.url, LAYOUT)
