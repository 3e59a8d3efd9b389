"""Checkpoints in a bucket: which are there, and what identifies them.

A checkpoint is a folder in the Hugging Face layout: `config.json`, `model.safetensors` or shards with their index,
usually a tokenizer, and optionally `metadata.json` with `variant`, `step` and `tokens`. Finding it has two halves.
`list_folders` asks for names alone, a page of listing for up to a thousand of them; `describe` lists one folder and
reads its weights' headers.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from posixpath import join
from typing import Any

from softprompt.bucket import Bucket, Entry
from softprompt.completeness import (
    METADATA_FILE,
    check_settled,
    deciding_files,
    list_files,
    needed_files,
    tokenizer_files,
)
from softprompt.errors import BadBucket, BadCheckpoint, BucketUnavailable, IncompleteCheckpoint, SoftPromptError
from softprompt.fingerprints import fingerprint
from softprompt.layout import Layout

NUM_SIDE_BY_SIDE = 16
"""Folders that are described at the same time; a store's answers are waited for, not computed."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A place where a checkpoint should lie, by its name alone."""

    uri: str
    path: str
    """Within its bucket."""
    variant: str
    step: int


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
    tokens: int | None = None
    """Trained on so far, if its metadata say so."""

    @property
    def name(self) -> str:
        return f"{self.variant} at step {self.step}"

    @property
    def local_path(self) -> Path | None:
        """The folder, for a checkpoint that lies on this machine."""
        if "://" in self.uri and not self.uri.startswith("file://"):
            return None
        return Path(self.uri.removeprefix("file://"))


@dataclass(frozen=True)
class Listing:
    """The names in a bucket."""

    folders: list[Folder]
    rejected: dict[str, SoftPromptError] = field(default_factory=dict)
    """URI -> why what lies there is passed over."""


@dataclass(frozen=True)
class Discovery:
    """One look at a bucket."""

    checkpoints: list[Checkpoint]
    rejected: dict[str, SoftPromptError] = field(default_factory=dict)
    """URI -> why this folder, which the layout matches, is no checkpoint (yet)."""


def list_folders(bucket: Bucket, layout: Layout) -> Listing:
    """Where the layout says that checkpoints lie; whether one does is `describe`'s question. No folder is listed that
    holds a checkpoint, only those above.

    Raises:
        BadBucket: the bucket is missing or cannot be listed. An empty one is no error: the first checkpoint may be on
            its way.
    """
    parents, others = [""], list[str]()
    for level, part in enumerate(layout.levels):
        if not layout.is_open(level):
            parents = [f"{parent}/{part}".strip("/") for parent in parents]
            continue
        children: list[str] = []
        for parent in parents:
            for entry in _entries(bucket, parent):
                fits = entry.is_folder and layout.fits(level, entry.name)
                (children if fits else others).append(f"{parent}/{entry.name}".strip("/"))
        parents = children
    found = Listing(folders=[])
    for path in (f"{parent}/{layout.tail}".strip("/") for parent in parents):
        try:
            if place := layout.match(path):
                found.folders.append(Folder(uri=bucket.uri(path), path=path, variant=place[0], step=place[1]))
        except BadCheckpoint as error:
            found.rejected[bucket.uri(path)] = error
    if not found.folders and not found.rejected:
        seen = others or [entry.name for entry in _entries(bucket, "")]
        if seen:
            found.rejected[bucket.url] = BadBucket(
                f"Nothing in {bucket.url} fits the layout {layout.pattern!r} (yet); it holds {_some(seen)}. Correct "
                "`layout` or `bucket` in the study if checkpoints should be there."
            )
    return _without_clashes(found)


def describe(
    bucket: Bucket, folder: Folder, *, marker: str = "", settle_s: float = 0.0, with_tokenizer: bool = False
) -> Checkpoint:
    """The checkpoint in a folder.

    Args:
        marker: a file by which its trainer says that it is whole; without one, nothing may have changed for `settle_s`
            seconds.
        with_tokenizer: nothing else has its tokenizer, so that it is incomplete without one.

    Raises:
        BadCheckpoint: it is missing, incomplete, or broken.
    """
    files = list_files(bucket, folder.path)
    check_settled(bucket, folder.path, files, marker=marker, settle_s=settle_s)
    needed = needed_files(bucket, folder.path, files)
    if with_tokenizer and not tokenizer_files(files):
        raise IncompleteCheckpoint(
            f"{folder.uri} has no tokenizer (yet); if it never gets one, name one as `tokenizer`."
        )
    metadata = read_metadata(bucket, folder.path) if METADATA_FILE in files else {}
    return Checkpoint(
        uri=folder.uri,
        variant=folder.variant,
        step=folder.step,
        fingerprint=identity(folder.variant, folder.step, needed),
        modified_ms=int(1000 * max(entry.modified_s for entry in deciding_files(needed))),
        tokens=metadata.get("tokens"),
    )


def describe_each(
    bucket: Bucket, folders: Sequence[Folder], **how: Any
) -> Iterator[tuple[Folder, Checkpoint | SoftPromptError]]:
    """Each folder with its checkpoint or the reason why it is none, in order and a few at a time: whoever stops asking
    spares the rest.

    Args:
        how: arguments of `describe`.

    Raises:
        BucketUnavailable: the store does not answer.
    """

    def look(folder: Folder) -> Checkpoint | SoftPromptError:
        try:
            return describe(bucket, folder, **how)
        except BucketUnavailable:
            raise
        except SoftPromptError as error:
            return error

    with ThreadPoolExecutor(NUM_SIDE_BY_SIDE) as pool:
        for start in range(0, len(folders), NUM_SIDE_BY_SIDE):
            batch = folders[start : start + NUM_SIDE_BY_SIDE]
            yield from zip(batch, pool.map(look, batch), strict=True)


def discover(bucket: str | PathLike[str], layout: str, *, marker: str = "", settle_s: float = 0.0) -> Discovery:
    """Look through a whole bucket once: every checkpoint in it, complete ones apart from others.

    Raises:
        BadBucket: it is missing or cannot be listed, or the layout is unusable.
        BucketUnavailable: the store does not answer.
    """
    opened = Bucket(bucket)
    listing = list_folders(opened, Layout(layout))
    found = Discovery(checkpoints=[], rejected=dict(listing.rejected))
    folders = sorted(listing.folders, key=lambda folder: folder.path)
    for folder, result in describe_each(opened, folders, marker=marker, settle_s=settle_s):
        if isinstance(result, Checkpoint):
            found.checkpoints.append(result)
        else:
            found.rejected[folder.uri] = result
    return found


def open_checkpoint(
    uri: str | PathLike[str], place: tuple[str, int] | None = None, *, with_tokenizer: bool = False
) -> Checkpoint:
    """The checkpoint at `uri`, a local folder or any fsspec URL. Its variant and step are `place`, or else what
    `metadata.json` says, or else read off the folder's name: the step is 0 where that names none, and where it names
    nothing else the variant is called as the folder above.

    Raises:
        BadCheckpoint: it is missing, incomplete, or broken.
        BadBucket: its store refuses.
        BucketUnavailable: its store does not answer.
    """
    bucket = Bucket(uri)
    if place is None:
        metadata = read_metadata(bucket, "")
        above, _, name = bucket.url.rpartition("/")
        variant = above.rpartition("/")[2] if _ONLY_A_STEP.fullmatch(name) else name
        place = str(metadata.get("variant", variant or name)), metadata.get("step", _step_in(name))
    folder = Folder(uri=bucket.url, path="", variant=place[0], step=place[1])
    return describe(bucket, folder, with_tokenizer=with_tokenizer)


_ONLY_A_STEP = re.compile(r"(?i)(?:global[-_]?)?(?:(?:step|checkpoint|iter)[-_]?)?[0-9]+")


def _step_in(name: str) -> int:
    """`global_step00300` -> 300, `800` -> 800; 0 for `SmolLM2-135M`, whose digits tell the size."""
    digits = re.findall(r"(?i)(?:step|checkpoint|iter)[-_]?([0-9]+)|^([0-9]+)$", name)
    return int("".join(digits[-1])) if digits else 0


def stated_place(bucket: Bucket) -> tuple[str, int] | None:
    """Variant and step by a checkpoint's metadata, if they hold both."""
    metadata = read_metadata(bucket, "")
    return (str(metadata["variant"]), metadata["step"]) if {"variant", "step"} <= metadata.keys() else None


def identity(variant: str, step: int, needed: dict[str, Entry]) -> str:
    """The fingerprint of the checkpoint that these files make."""
    return fingerprint([variant, step, [(entry.name, entry.size, entry.version) for entry in deciding_files(needed)]])


def read_metadata(bucket: Bucket, path: str) -> dict[str, Any]:
    """The small file a trainer may leave beside the weights; empty if there is none."""
    try:
        metadata = json.loads(bucket.read(join(path, METADATA_FILE)))
        if not isinstance(metadata, dict) or not all(isinstance(metadata.get(n, 0), int) for n in ("step", "tokens")):
            raise ValueError(f"it says {json.dumps(metadata)[:80]}")
        return metadata
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(
            f"{bucket.uri(path)}/{METADATA_FILE} is no JSON object with whole numbers as step and tokens ({error}); "
            "write it whole or leave it out."
        ) from error


def _entries(bucket: Bucket, path: str) -> list[Entry]:
    """What lies in a folder above the checkpoints. An S3 prefix exists only once something lies below it."""
    try:
        return bucket.entries(path)
    except FileNotFoundError:
        if path or not bucket.is_local:
            return []
        raise BadBucket(
            f"There is no {bucket.url}, which the study names as its bucket. Create it, or correct `bucket`."
        ) from None


def _without_clashes(listing: Listing) -> Listing:
    """Two folders for one variant and step (`step-100`, `step-0100`) are both rejected: either may be meant."""
    by_place: dict[tuple[str, int], list[Folder]] = defaultdict(list)
    for folder in listing.folders:
        by_place[folder.variant, folder.step].append(folder)
    rejected = dict(listing.rejected)
    for (variant, step), twins in by_place.items():
        for folder in twins if len(twins) > 1 else ():
            others = " and ".join(twin.uri for twin in twins if twin is not folder)
            rejected[folder.uri] = BadCheckpoint(
                f"{folder.uri} and {others} are both variant {variant} at step {step}; remove or rename one."
            )
    return Listing([folders[0] for folders in by_place.values() if len(folders) == 1], rejected)


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if names[5:] else "")
