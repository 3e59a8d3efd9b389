"""Copies of remote checkpoints: whole or not there, shared by processes, never larger than allowed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from s3 import S3Bucket, S3Server
from safetensors.numpy import save
from test_checkpoints import write_checkpoint

import softprompt
from softprompt.benchmarks import Benchmark
from softprompt.bucket import Bucket
from softprompt.cache import Cache, open_locally
from softprompt.checkpoints import Checkpoint, open_checkpoint
from softprompt.errors import BadStudy, BucketUnavailable, CacheUnavailable, IncompleteCheckpoint
from softprompt.loading import load_model
from softprompt.protocol import Protocol, Resources
from softprompt.rows import Rows
from softprompt.sources import CheckpointFiles

HOLD = """
import sys, time
from pathlib import Path
from softprompt.cache import Cache, open_locally
from softprompt.checkpoints import open_checkpoint
with open_locally(open_checkpoint(sys.argv[1], ("A", 100)), Cache(Path(sys.argv[2]))) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def uploaded(s3: S3Bucket, tmp_path: Path) -> Checkpoint:
    return upload(s3, tmp_path, "A")


def upload(s3: S3Bucket, tmp_path: Path, variant: str) -> Checkpoint:
    """Two shards of 100 float32 each."""
    folder = write_checkpoint(tmp_path / variant / "step-100", num_shards=2)
    return open_checkpoint(s3.upload(folder, f"{variant}/step-100"), (variant, 100))


def copies(cache: Cache) -> set[str]:
    """All that the cache's folder holds but its locks."""
    return {entry.name for entry in cache.root.iterdir() if entry.name != ".locks"}


def num_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were really downloaded."""
    names: list[str] = []
    real = Bucket.download

    def download(self: Bucket, path: str, to: Path) -> None:
        real(self, path, to)
        names.append(path)

    monkeypatch.setattr(Bucket, "download", download)
    return names


def after_the_first_file(monkeypatch: pytest.MonkeyPatch, happens: Any) -> None:
    real = Bucket.download

    def download(self: Bucket, path: str, to: Path) -> None:
        real(self, path, to)
        monkeypatch.setattr(Bucket, "download", real)
        happens()

    monkeypatch.setattr(Bucket, "download", download)


def test_only_what_a_benchmark_needs_is_copied_and_only_once(
    s3: S3Bucket, tmp_path: Path, cache: Cache, downloads: list[str]
) -> None:
    folder = write_checkpoint(tmp_path / "step-100", num_shards=2, metadata={"tokens": 1})
    needed = {file.name for file in folder.iterdir()}
    needed |= {"tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja"}
    for name in needed | {"optimizer.pt", "scheduler.safetensors", "modeling_own.py", "README.md", "rng_state.pth"}:
        (folder / name).touch()
    checkpoint = open_checkpoint(s3.upload(folder, "A/step-100"))
    for _ in range(2):
        with open_locally(checkpoint, cache) as copy:
            assert {file.name for file in copy.iterdir()} == needed
            for file in copy.iterdir():
                assert file.read_bytes() == (folder / file.name).read_bytes()
    assert sorted(downloads) == sorted(needed)
    assert copies(cache) == {checkpoint.fingerprint}
    with open_locally(checkpoint, cache, with_code=True) as copy:
        assert {file.name for file in copy.iterdir()} == needed | {"modeling_own.py"}


def test_a_local_checkpoint_is_used_in_place(tmp_path: Path, cache: Cache) -> None:
    folder = write_checkpoint(tmp_path / "step-100")
    for uri in (str(folder), f"file://{folder}"):
        with open_locally(open_checkpoint(uri), cache) as found:
            assert found == folder
    assert not cache.root.exists()


def test_a_checkpoint_overwritten_before_or_during_the_copy_is_not_used(
    s3: S3Bucket, uploaded: Checkpoint, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwrite() -> None:
        s3.write("A/step-100/model-0-of-2.safetensors", save({"weight_0": np.full(100, 9.0, np.float32)}))

    after_the_first_file(monkeypatch, overwrite)
    for _ in range(2):  # during, and then before
        with (
            pytest.raises(IncompleteCheckpoint, match="was overwritten since it was found"),
            cache.open(CheckpointFiles(uploaded)),
        ):
            pass
        assert copies(cache) == set()
    with cache.open(CheckpointFiles(open_checkpoint(uploaded.uri, ("A", 100)))) as folder:
        assert (folder / "model-0-of-2.safetensors").exists()


def test_a_local_checkpoint_overwritten_while_it_is_read_is_not_used(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "step-100")
    with pytest.raises(IncompleteCheckpoint, match="was overwritten"), open_locally(open_checkpoint(str(folder))):
        os.utime(folder / "model.safetensors", (1, 1))


def test_a_checkpoint_removed_during_the_copy_is_not_used(
    s3: S3Bucket, uploaded: Checkpoint, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_the_first_file(monkeypatch, lambda: s3.remove("A/step-100/model-1-of-2.safetensors"))
    with pytest.raises(IncompleteCheckpoint) as caught, cache.open(CheckpointFiles(uploaded)):
        pass
    assert caught.value.retryable
    assert copies(cache) == set()


def test_a_server_that_stops_during_the_copy_leaves_nothing_and_the_next_try_succeeds(
    s3_server: S3Server, uploaded: Checkpoint, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    after_the_first_file(monkeypatch, s3_server.stop)
    try:
        with (
            pytest.raises(BucketUnavailable, match="cannot be read just now") as caught,
            cache.open(CheckpointFiles(uploaded)),
        ):
            pass
    finally:
        s3_server.start()
    assert caught.value.retryable
    assert copies(cache) == set()
    with cache.open(CheckpointFiles(uploaded)) as folder:
        assert softprompt.open_checkpoint(str(folder))


def test_what_a_dead_process_left_is_cleared_away(uploaded: Checkpoint, cache: Cache) -> None:
    for name in (f"half-{uploaded.fingerprint}-100", "half-0123456789abcdef-999999999999999"):
        (cache.root / name).mkdir(parents=True)
        (cache.root / name / "model.safetensors").write_bytes(b"half")
    with cache.open(CheckpointFiles(uploaded)):
        assert copies(cache) == {uploaded.fingerprint}


@pytest.mark.parametrize("name", ["model-1-of-2.safetensors", "config.json", "tokenizer.json"])
def test_a_copy_that_was_cut_is_made_again(uploaded: Checkpoint, cache: Cache, name: str) -> None:
    with cache.open(CheckpointFiles(uploaded)) as folder:
        whole = (folder / name).read_bytes()
    os.truncate(folder / name, len(whole) // 2)
    with cache.open(CheckpointFiles(uploaded)):
        assert (folder / name).read_bytes() == whole


def test_the_copy_used_longest_ago_makes_room(s3: S3Bucket, tmp_path: Path, cache: Cache) -> None:
    a, b, c = (upload(s3, tmp_path, variant) for variant in "ABC")
    for age, checkpoint in enumerate((b, a)):
        with cache.open(CheckpointFiles(checkpoint)) as folder:
            size = num_bytes(folder)
        os.utime(cache.root / ".locks" / checkpoint.fingerprint, (age, age))
    with cache.open(CheckpointFiles(b)):
        pass
    with Cache(cache.folder, limit_gb=2.5 * size / 1e9).open(CheckpointFiles(c)):
        assert copies(cache) == {b.fingerprint, c.fingerprint}


def test_a_copy_in_use_by_another_process_stays_until_that_process_dies(
    s3: S3Bucket, tmp_path: Path, cache: Cache
) -> None:
    a, b = (upload(s3, tmp_path, variant) for variant in "AB")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, a.uri, str(cache.folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        folder = Path(holder.stdout.readline().strip())
        small = Cache(cache.folder, limit_gb=1.5 * num_bytes(folder) / 1e9)
        with (
            pytest.raises(CacheUnavailable, match="in use by other evaluations") as caught,
            small.open(CheckpointFiles(b)),
        ):
            pass
        assert caught.value.retryable
        assert copies(cache) == {folder.name}
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with small.open(CheckpointFiles(b)):
        assert copies(cache) == {b.fingerprint}


def test_a_checkpoint_larger_than_the_whole_cache_is_said(uploaded: Checkpoint, cache: Cache) -> None:
    small = Cache(cache.folder, limit_gb=1e-6)
    with (
        pytest.raises(CacheUnavailable, match=r"needs .* GB in .*, whose limit is 1e-06 GB"),
        small.open(CheckpointFiles(uploaded)),
    ):
        pass
    assert copies(cache) == set()


def test_many_at_once_make_one_copy(uploaded: Checkpoint, cache: Cache, downloads: list[str]) -> None:
    found: list[Path] = []

    def use() -> None:
        with cache.open(CheckpointFiles(uploaded)) as folder:
            found.append(folder)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache.root / uploaded.fingerprint] * 4
    assert len(downloads) == len(set(downloads))


def test_other_peoples_files_in_the_folder_are_let_be(uploaded: Checkpoint, cache: Cache) -> None:
    (cache.root / "thesis").mkdir(parents=True)
    (cache.root / "thesis" / "chapter").write_bytes(bytes(10_000))
    with Cache(cache.folder, limit_gb=1e-5).open(CheckpointFiles(uploaded)):
        assert copies(cache) == {"thesis", uploaded.fingerprint}


FULL_DISK = """
mount -t tmpfs -o size=200k none {folder} && exec {python} -c '
import sys
from pathlib import Path
from softprompt.cache import Cache, open_locally
from softprompt.checkpoints import open_checkpoint
from softprompt.errors import CacheUnavailable
cache = Cache(Path(sys.argv[2]))
try:
    with open_locally(open_checkpoint(sys.argv[1]), cache):
        pass
except CacheUnavailable as error:
    print(error.retryable, [entry.name for entry in cache.root.iterdir()], error)
' {uri} {folder}
"""


def can_mount() -> bool:
    command = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk in a namespace of its own")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(s3: S3Bucket, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "step-100")
    (folder / "model.safetensors").write_bytes(save({"weight": np.zeros(100_000, np.float32)}))
    uri = s3.upload(folder, "A/step-100")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = FULL_DISK.format(folder=disk, python=sys.executable, uri=uri)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True
    )
    assert done.stdout.startswith(f"True ['.locks'] The disk of {disk}/checkpoints is full, so {uri}"), done.stderr


def test_a_cache_that_cannot_be_written_is_one_sentence(uploaded: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spoilt = Cache(tmp_path / "file")
    with (
        pytest.raises(CacheUnavailable, match=r"cannot be written .*in SOFTPROMPT_CACHE"),
        spoilt.open(CheckpointFiles(uploaded)),
    ):
        pass


def test_a_checkpoint_is_evaluated_from_s3(
    s3: S3Bucket,
    tiny_checkpoint: Path,
    toy_benchmark: Benchmark,
    quick_protocol: Protocol,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SOFTPROMPT_CACHE", str(tmp_path / "cache"))
    uri = s3.upload(tiny_checkpoint, "A/step-100")
    resources = Resources(device="cpu", dtype="float32")
    remote, local = (
        softprompt.evaluate(place, toy_benchmark, quick_protocol, rows=rows, resources=resources)
        for place in (uri, str(tiny_checkpoint))
    )
    assert remote.outcomes == local.outcomes
    assert remote.provenance["checkpoint"] == uri
    assert len(copies(Cache(tmp_path / "cache"))) == 1


def test_a_tokenizer_is_read_from_s3_without_the_weights_beside_it(
    s3: S3Bucket, tiny_checkpoint: Path, cache: Cache, tmp_path: Path, downloads: list[str]
) -> None:
    """And a missing or broken one is the study's mistake: no checkpoint is marked as failed for it."""
    bare = tmp_path / "step-100"
    shutil.copytree(tiny_checkpoint, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    checkpoint, resources = open_checkpoint(str(bare)), Resources(device="cpu")
    uri = s3.upload(tiny_checkpoint, "base")
    for _ in range(2):
        model = load_model(checkpoint, resources, uri, cache)
        assert model.encode("Oslo") == load_model(open_checkpoint(str(tiny_checkpoint)), resources).encode("Oslo")
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(downloads)
    assert "model.safetensors" not in downloads
    assert len(downloads) == len(set(downloads))
    with pytest.raises(BadStudy, match=f"There is no tokenizer at {s3.url}/elsewhere; correct `tokenizer`"):
        load_model(checkpoint, resources, f"{s3.url}/elsewhere", cache)
    s3.write("base/tokenizer.json", b"{")
    for place in (uri, str(bare)):
        with pytest.raises(BadStudy, match=f"The tokenizer {place} cannot be loaded"):
            load_model(checkpoint, resources, place, cache)
