"""Is a checkpoint whole, and which of its files does a benchmark need?

Whole: every shard of the index's `weight_map` is listed, each of the size that its own safetensors header implies, and
nobody has written to it for a while, or the trainer's marker says so.
"""

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from posixpath import join

from softprompt.bucket import Bucket, Entry
from softprompt.errors import BadCheckpoint, IncompleteCheckpoint

CONFIG_FILE = "config.json"
METADATA_FILE = "metadata.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "*.tiktoken",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)
SMALL_FILES = (
    CONFIG_FILE,
    *VOCABULARIES,
    "generation_config.json",
    "tokenizer_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
)
"""Files beside the weights that decide a score."""
CODE_FILES = ("*.py",)
HEADER_BYTES = 1 << 16
"""First bytes of a shard that are read at once; they hold most headers."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
MALFORMED = (ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError, RecursionError)
"""What reading JSON of another shape, or of no shape at all, can raise."""


def list_files(bucket: Bucket, path: str) -> dict[str, Entry]:
    """All files directly in a checkpoint's folder, by name.

    Raises:
        BadCheckpoint: there is no such folder.
    """
    try:
        return {entry.name: entry for entry in bucket.entries(path) if not entry.is_folder}
    except FileNotFoundError:
        raise BadCheckpoint(f"There is no checkpoint at {bucket.uri(path)}; check the path.") from None


def needed_files(bucket: Bucket, path: str, files: dict[str, Entry], *, with_code: bool = False) -> dict[str, Entry]:
    """Those of a whole checkpoint's files that an evaluation reads: never an optimizer's state, and Python code only if
    asked for.

    Raises:
        BadCheckpoint: it is incomplete or broken.
    """
    patterns = (*SMALL_FILES, METADATA_FILE, *(CODE_FILES if with_code else ()))
    try:
        names = _weight_files(bucket, path, files)
    except FileNotFoundError:
        raise IncompleteCheckpoint(f"{bucket.uri(path)} lost a file while it was looked at; look again.") from None
    return {name: files[name] for name in sorted(files) if name in names or _fits(name, patterns)}


def tokenizer_files(files: dict[str, Entry]) -> dict[str, Entry]:
    """Those of a folder's files that a tokenizer may be read from: all small ones, or none without a vocabulary."""
    small = {name: files[name] for name in sorted(files) if _fits(name, SMALL_FILES)}
    return small if any(_fits(name, VOCABULARIES) for name in small) else {}


def deciding_files(files: dict[str, Entry]) -> list[Entry]:
    """Those of the needed files whose names, sizes and versions identify the checkpoint."""
    return [entry for name, entry in files.items() if name != METADATA_FILE and not _fits(name, CODE_FILES)]


def check_settled(bucket: Bucket, path: str, files: dict[str, Entry], *, marker: str, settle_s: float) -> None:
    """Raise `IncompleteCheckpoint` while its trainer may still be writing: until its marker is there or, in a study
    without one, until its newest file is `settle_s` old by the store's clock.

    A file from the store's future counts by its distance as well: that a clock was set back must not hide it for good.
    """
    if marker and marker not in files:
        raise IncompleteCheckpoint(
            f"{bucket.uri(path)} has no {marker} (yet), its trainer's sign that it is whole (`marker` in the study)."
        )
    written = [entry for name, entry in files.items() if _fits(name, (*SMALL_FILES, INDEX_FILE, "*.safetensors"))]
    if marker or not settle_s or not written:
        return
    newest = max(written, key=lambda entry: entry.modified_s)
    age_s = abs(bucket.now_s() - newest.modified_s)
    if age_s < settle_s:
        raise IncompleteCheckpoint(
            f"{bucket.uri(path)}/{newest.name} was written {age_s:.0f} s ago; the checkpoint counts as whole once "
            f"nothing in it has changed for {settle_s:g} s (`settle_s` in the study)."
        )


def broken_json(folder: Path, pattern: str = "*.json") -> str | None:
    """The first of a checkpoint's small files on this machine that should be JSON and is not. For when loading has
    failed, and for files that transformers passes over if they are broken: to read them all at every look would cost a
    bucket of thousands of checkpoints as many requests."""
    for file in sorted(folder.glob(pattern)):
        if _fits(file.name, SMALL_FILES):
            try:
                json.loads(file.read_bytes())
            except (ValueError, RecursionError):
                return file.name
    return None


def _weight_files(bucket: Bucket, path: str, files: dict[str, Entry]) -> set[str]:
    """Names of the weights' files and their index, all there and each of the size its own header implies."""
    uri = bucket.uri(path)
    if CONFIG_FILE not in files:
        raise IncompleteCheckpoint(
            f"{uri} has no {CONFIG_FILE} (yet); expected a checkpoint in the Hugging Face layout."
        )
    if INDEX_FILE in files:
        shards = _shards(bucket, path)
        names = {INDEX_FILE, *shards}
        if WEIGHTS_FILE in files and WEIGHTS_FILE not in shards:
            raise BadCheckpoint(
                f"{uri} has {WEIGHTS_FILE} beside the shards that {INDEX_FILE} names, and transformers would read the "
                "former; remove those that are left over from another save."
            )
    elif WEIGHTS_FILE in files:
        shards = names = {WEIGHTS_FILE}
    else:
        pickles = [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
        if pickles:
            raise BadCheckpoint(
                f"{uri} has only pickled weights ({pickles[0]}), which are refused because loading them can run code; "
                "save it again with safe_serialization=True."
            )
        raise IncompleteCheckpoint(f"{uri} has no weights (yet): expected {WEIGHTS_FILE} or {INDEX_FILE}.")
    for shard in sorted(shards):
        if shard not in files:
            raise IncompleteCheckpoint(f"{uri} lacks the shard {shard} that its index names.")
    for shard, expected in _implied_sizes(bucket, path, [files[shard] for shard in sorted(shards)]).items():
        if files[shard].size != expected:
            raise IncompleteCheckpoint(
                f"{uri}/{shard} has {files[shard].size} bytes, its header asks for {expected or 'more'}; it is still "
                "being written or was cut off. Upload it again if it does not grow."
            )
    return names


def _shards(bucket: Bucket, path: str) -> set[str]:
    """Names of the shards in the index, all of them plain names."""
    where = f"{bucket.uri(path)}/{INDEX_FILE}"
    try:
        shards = set(json.loads(bucket.read(join(path, INDEX_FILE)))["weight_map"].values())
    except MALFORMED as error:
        raise IncompleteCheckpoint(f"{where} is half written or has no weight_map ({error}).") from error
    for shard in shards:
        if not isinstance(shard, str) or "/" in shard or "\\" in shard or shard in ("", ".", ".."):
            raise BadCheckpoint(
                f"{where} names the shard {shard!r}, which is no plain file name; shards must lie beside their index."
            )
    return shards


def _implied_sizes(bucket: Bucket, path: str, shards: list[Entry]) -> dict[str, int | None]:
    """Bytes each safetensors file must have by its own header: 8 + header + last data offset. None if even the header
    is cut off. Format: https://huggingface.co/docs/safetensors."""
    readable = [shard for shard in shards if shard.size >= 8]  # S3 refuses a range of an empty object
    places = [join(path, shard.name) for shard in readable]
    starts = bucket.read_starts(places, [min(shard.size, HEADER_BYTES) for shard in readable])
    sizes: dict[str, int | None] = {shard.name: None for shard in shards}
    for shard, place, start in zip(readable, places, starts, strict=True):
        length = int.from_bytes(start[:8], "little")
        if 8 + length > shard.size or length > MAX_HEADER_BYTES:
            continue
        header = start[8 : 8 + length] if 8 + length <= len(start) else bucket.read(place, 8, 8 + length)
        sizes[shard.name] = _implied_size(length, header)
    return sizes


def _implied_size(length: int, header: bytes) -> int | None:
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
        return int(8 + length + max(ends, default=0))
    except MALFORMED:
        return None


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
