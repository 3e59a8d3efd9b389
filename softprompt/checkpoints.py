"""Checkpoints in a bucket: which are there, which are complete, what identifies them.

A bucket is any fsspec URL or a local folder. A checkpoint is a folder of it in the Hugging Face layout: `config.json`,
`model.safetensors` or shards with their index, usually a tokenizer, and optionally `metadata.json` with `variant`,
`step` and `tokens`.
"""

import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from softprompt.errors import BadBucket, BadCheckpoint, IncompleteCheckpoint, SoftPromptError
from softprompt.fingerprints import fingerprint

CONFIG_FILE = "config.json"
METADATA_FILE = "metadata.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_FIELDS = {"variant": r"(?P<variant>[^/]+?)", "step": r"(?P<step>\d+)"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint. Overwritten weights make a new one: the fingerprint differs."""

    uri: str
    variant: str
    step: int
    fingerprint: str
    """Of variant, step, and name, size and version (ETag, or time of change) of the files that decide a score."""
    modified_ms: int = 0
    """When its newest file was written, in ms since 1970; the time of its points in MLflow."""

    @property
    def name(self) -> str:
        return f"{self.variant} at step {self.step}"

    @property
    def local_path(self) -> Path:
        """The folder, for a checkpoint that lies on this machine.

        Raises:
            BadCheckpoint: it lies on a remote store, which can be looked through but not evaluated from yet.
        """
        if "://" in self.uri and not self.uri.startswith("file://"):
            raise BadCheckpoint(f"{self.uri} is not on this machine; mount or copy its bucket and name the folder.")
        return Path(self.uri.removeprefix("file://"))


@dataclass(frozen=True)
class Discovery:
    """One look at a bucket."""

    checkpoints: list[Checkpoint]
    rejected: dict[str, SoftPromptError] = field(default_factory=dict)
    """URI -> why this folder, which the layout matches, is no checkpoint (yet)."""


class Layout:
    """Where a bucket keeps its checkpoints, as a pattern such as `{variant}/step-{step}` or `{variant}/{step}/hf`."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern.strip("/") if isinstance(pattern, str) else ""
        if self.pattern.count("{variant}") != 1 or self.pattern.count("{step}") != 1:
            raise BadBucket(
                f"The layout {pattern!r} must name {{variant}} and {{step}} once each: '{{variant}}/step-{{step}}'."
            )
        self.levels = [re.compile(_segment(part)) for part in self.pattern.split("/")]
        self.whole = re.compile("/".join(level.pattern for level in self.levels))

    def match(self, path: str) -> tuple[str, int] | None:
        """(variant, step) of a folder's path within the bucket."""
        found = self.whole.fullmatch(path)
        return (found["variant"], int(found["step"])) if found else None


def discover(bucket: str, layout: str) -> Discovery:
    """Look through a bucket once.

    Raises:
        BadBucket: it is missing or cannot be listed, or the layout is unusable. An empty bucket is no error: the
            first checkpoint may be on its way.
    """
    pattern = Layout(layout)
    fs, root = _open(bucket)
    folders = [""]
    for level in pattern.levels:
        folders = [
            f"{parent}/{name}".strip("/")
            for parent in folders
            for name, info in _list(fs, f"{root}/{parent}".rstrip("/"), bucket)
            if info["type"] == "directory" and level.fullmatch(name)
        ]
    found = Discovery(checkpoints=[])
    for path in sorted(folders):
        place = pattern.match(path)
        if place is None:  # each level matches, but not as a whole
            continue
        uri = fs.unstrip_protocol(f"{root}/{path}") if "://" in bucket else str(Path(root) / path)
        try:
            found.checkpoints.append(_describe(fs, f"{root}/{path}", uri, *place))
        except SoftPromptError as error:
            found.rejected[uri] = error
    return found


def open_checkpoint(uri: str, place: tuple[str, int] | None = None) -> Checkpoint:
    """The checkpoint at `uri`. Its variant and step are `place`, or else what `metadata.json` says, or else read off
    the folder's name.

    Raises:
        BadCheckpoint: it is missing, incomplete, or broken.
    """
    fs, path = _open(uri)
    metadata = {} if place else read_metadata(fs, path)
    digits = re.findall(r"\d+", path.rsplit("/", 1)[-1])
    step = metadata.get("step", int(digits[-1]) if digits else 0)
    variant = metadata.get("variant", path.rsplit("/", 1)[-1])
    return _describe(fs, path, uri if "://" in uri else path, *(place or (str(variant), step)))


def check_folder(folder: Path) -> None:
    """Raise `BadCheckpoint` unless `folder` holds a complete checkpoint."""
    _weights(fsspec.filesystem("file"), str(folder), str(folder))


def read_metadata(fs: Any, path: str) -> dict[str, Any]:
    """The small file a trainer may leave beside the weights; empty if there is none."""
    try:
        metadata = json.loads(fs.cat_file(f"{path}/{METADATA_FILE}"))
        if not isinstance(metadata, dict) or not isinstance(metadata.get("step", 0), int):
            raise ValueError(f"it says {json.dumps(metadata)[:80]}")
        return metadata
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BadCheckpoint(
            f"{path}/{METADATA_FILE} is no JSON object with a whole number as step ({error}); "
            "write it whole or leave it out."
        ) from error


def _segment(part: str) -> str:
    pieces = re.split(r"\{(variant|step)\}", part)
    return "".join(_FIELDS[piece] if i % 2 else re.escape(piece) for i, piece in enumerate(pieces))


def _open(url: str) -> tuple[Any, str]:
    try:
        options = {"use_listings_cache": False} if url.startswith("s3:") else {}
        fs, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise BadBucket(f"{url} is no place this machine can read ({error}).") from error
    return fs, path.rstrip("/")


def _list(fs: Any, path: str, bucket: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, info) of what lies directly in `path`."""
    try:
        infos = fs.ls(path, detail=True)
    except FileNotFoundError as error:
        raise BadBucket(
            f"There is no {path}; the study's bucket is {bucket}. Create it, or correct `bucket` in the study."
        ) from error
    except PermissionError as error:
        raise BadBucket(f"{path} may not be listed; give this process's credentials the right to list it.") from error
    except NotADirectoryError:
        infos = [{"name": path, "type": "file"}]
    if [info["name"].rstrip("/") for info in infos if info["type"] == "file"] == [path.rstrip("/")]:
        raise BadBucket(f"{path} is a file; the study's bucket must be a folder or a bucket's URL.")
    return [(info["name"].rstrip("/").rsplit("/", 1)[-1], info) for info in infos]


def _describe(fs: Any, path: str, uri: str, variant: str, step: int) -> Checkpoint:
    weights = _weights(fs, path, uri)
    names = {*weights, CONFIG_FILE, "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    files = {name: info for name, info in _list(fs, path, uri) if name in names}
    versions = sorted((name, info["size"], _version(info)) for name, info in files.items())
    identity = fingerprint([variant, step, versions])
    modified = max(_modified_ms(info) for info in files.values())
    return Checkpoint(uri=uri, variant=variant, step=step, fingerprint=identity, modified_ms=modified)


def _weights(fs: Any, path: str, uri: str) -> set[str]:
    """Names of the weights' files and their index, all there and each of the size its own header implies."""
    try:
        infos = dict(_list(fs, path, uri))
    except BadBucket as error:
        raise BadCheckpoint(f"There is no checkpoint at {uri}; check the path.") from error
    if CONFIG_FILE not in infos:
        raise IncompleteCheckpoint(
            f"{uri} has no {CONFIG_FILE} (yet); expected a checkpoint in the Hugging Face layout."
        )
    if INDEX_FILE in infos:
        try:
            shards = set(json.loads(fs.cat_file(f"{path}/{INDEX_FILE}"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise IncompleteCheckpoint(f"{uri}/{INDEX_FILE} is half written or has no weight_map ({error}).") from error
        names = {INDEX_FILE, *shards}
    elif WEIGHTS_FILE in infos:
        shards = names = {WEIGHTS_FILE}
    else:
        pickles = [name for name in infos if name.endswith((".bin", ".pt", ".pth"))]
        if pickles:
            raise BadCheckpoint(
                f"{uri} has only pickled weights ({pickles[0]}), which are refused because loading them can run code; "
                "save it again with safe_serialization=True."
            )
        raise IncompleteCheckpoint(f"{uri} has no weights (yet): expected {WEIGHTS_FILE} or {INDEX_FILE}.")
    for shard in sorted(shards):
        if shard not in infos:
            raise IncompleteCheckpoint(f"{uri} lacks the shard {shard} that its index names.")
        size, expected = infos[shard]["size"], _implied_size(fs, f"{path}/{shard}")
        if expected is None or size != expected:
            raise IncompleteCheckpoint(
                f"{uri}/{shard} has {size} bytes, its header asks for {expected or 'more'}; it is still being written "
                "or was cut off. Upload it again if it does not grow."
            )
    return names


def _implied_size(fs: Any, path: str) -> int | None:
    """Bytes a safetensors file must have by its own header: 8 + header + last data offset. None if even the header is
    cut off. Format: https://huggingface.co/docs/safetensors."""
    start = fs.cat_file(path, start=0, end=8)
    if len(start) < 8:
        return None
    (length,) = struct.unpack("<Q", start)
    if length > 100_000_000:  # the format's own limit
        return None
    header = fs.cat_file(path, start=8, end=8 + length)
    try:
        tensors = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
    return int(8 + length + max(ends, default=0))


def _version(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or info.get("etag") or info.get("mtime") or "")


def _modified_ms(info: dict[str, Any]) -> int:
    when = info.get("LastModified") or info.get("mtime") or 0
    return int((when.timestamp() if hasattr(when, "timestamp") else float(when)) * 1000)
