"""Copies of remote checkpoints and tokenizers on this machine, in one folder that any number of processes share.

A whole copy is a folder named by the fingerprint of what it is a copy of. It is filled under another name, `half-...`,
and renamed when the store still lists what was listed before: nothing half ever looks whole. Whoever reads a copy holds
a shared lock on it, whoever fills or removes one an exclusive lock; the kernel frees the locks of a process that dies.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from softprompt.bucket import Bucket
from softprompt.checkpoints import Checkpoint
from softprompt.completeness import list_files, tokenizer_files
from softprompt.errors import BadStudy, CacheUnavailable
from softprompt.fingerprints import fingerprint
from softprompt.host import DISK_FULL
from softprompt.sources import CheckpointFiles, Source, TokenizerFiles, overwritten

CACHE_VARIABLE = "SOFTPROMPT_CACHE"
DEFAULT_GB = 100.0
GB = 1e9
_HUB_NAME = re.compile(r"(?!\.)[\w.-]+(/[\w.-]+)?")
_WHOLE = re.compile(r"[0-9a-f]{16}(-code)?")
_HALF = re.compile(r"half-(?P<name>[0-9a-f]{16}(-code)?)-(?P<num_bytes>[0-9]+)")


@contextmanager
def open_locally(checkpoint: Checkpoint, cache: "Cache | None" = None, *, with_code: bool = False) -> Iterator[Path]:
    """A folder of this machine with the checkpoint's files, sure to stay for the length of the block. A checkpoint that
    lies on this machine is used in place; another is copied into `cache` unless it is there.

    Args:
        with_code: copy Python files as well, for checkpoints that bring their own model class.

    Raises:
        IncompleteCheckpoint: it was overwritten since it was found, or while it was read.
        CacheUnavailable: there is no room for a copy, or the cache cannot be written.
    """
    source = CheckpointFiles(checkpoint, with_code)
    if checkpoint.local_path is None:
        with (cache or Cache()).open(source) as folder:
            yield folder
    else:
        source.files()
        yield checkpoint.local_path
        source.files()


@contextmanager
def open_tokenizer(place: str, cache: "Cache | None" = None) -> Iterator[str]:
    """What `transformers` can read a tokenizer from: a folder of this machine or a name on the hub, as they are; of a
    URL, a copy of the tokenizer's files alone.

    Raises:
        BadStudy: there is no such folder, or no tokenizer at the URL.
        CacheUnavailable: there is no room for a copy, or the cache cannot be written.
    """
    if "://" not in place:
        if not Path(place).exists() and not _HUB_NAME.fullmatch(place):
            raise BadStudy(
                f"There is no folder {place} to read the tokenizer from; correct `tokenizer`, or leave it out if the "
                "checkpoints have one."
            )
        yield place
        return
    with (cache or Cache()).open(TokenizerFiles.at(place)) as folder:
        yield str(folder)


def tokenizer_fingerprint(place: str | None, cache: "Cache | None" = None) -> str:
    """Of a tokenizer's files, wherever they lie; a name on the hub stands for itself. Empty where none is named. Raises
    as `open_tokenizer`."""
    if not place:
        return ""
    with open_tokenizer(place, cache) as found:
        if not (folder := Path(found)).is_dir():
            return place
        names = tokenizer_files(list_files(Bucket(found), ""))
        return fingerprint({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})


def default_folder() -> Path:
    """`$SOFTPROMPT_CACHE`, or else `softprompt` in the user's cache folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(CACHE_VARIABLE) or f"{caches}/softprompt").expanduser().absolute()


@dataclass(frozen=True)
class Cache:
    """A folder of copies. With those under way they never take more than `limit_gb` (10^9 bytes each); the copies used
    longest ago go first, one in use never."""

    folder: Path | None = None
    """None for `default_folder()`."""
    limit_gb: float = DEFAULT_GB

    @property
    def root(self) -> Path:
        return (self.folder or default_folder()) / "checkpoints"

    @contextmanager
    def open(self, source: Source) -> Iterator[Path]:
        """A copy of `source`, sure to stay for the length of the block; see `open_locally`."""
        copy = self.root / source.name
        with self._lock(source.name) as lock:
            while True:
                lock.share()
                if _sizes(copy) == lock.sizes():
                    break
                lock.own()  # which gives up the share first, so another process may have made the copy by now
                if _sizes(copy) != lock.sizes():
                    self._fill(source, lock)
            lock.mark_use()
            yield copy

    def _fill(self, source: Source, lock: "_Lock") -> None:
        """Download; the caller owns `lock`, that of the source's name."""
        bucket, files = Bucket(source.uri), source.files()
        try:
            half = self._reserve(source, sum(entry.size for entry in files.values()))
            try:
                for file in files:
                    bucket.download(file, half / file)
                if source.files() != files:
                    raise FileNotFoundError
                lock.note_sizes({name: entry.size for name, entry in files.items()})
                half.rename(self.root / source.name)
            finally:
                shutil.rmtree(half, ignore_errors=True)
        except FileNotFoundError:
            raise overwritten(source) from None
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise CacheUnavailable(
                f"The disk of {self.root} is full, so {source.uri} could not be copied there; free some space, "
                f"lower `cache_gb`, or name another disk's folder in {CACHE_VARIABLE}."
            ) from error

    def _reserve(self, source: Source, num_bytes: int) -> Path:
        """An empty folder whose name counts for `num_bytes` within the limit; older copies make room."""
        with self._lock("room") as room:
            room.own()
            # What a process that died has left, and a copy that is not whole.
            for half in (*self.root.glob(f"half-{source.name}-*"), self.root / source.name):
                shutil.rmtree(half, ignore_errors=True)
            self._sweep()
            sizes = {entry: _num_bytes(entry) for entry in self.root.iterdir() if not entry.name.startswith(".")}
            for copy in sorted((entry for entry in sizes if _WHOLE.fullmatch(entry.name)), key=self._last_use):
                if sum(sizes.values()) + num_bytes <= self.limit_gb * GB:
                    break
                if self._remove(copy):
                    del sizes[copy]
            used = sum(sizes.values())
            if used + num_bytes > self.limit_gb * GB:
                raise CacheUnavailable(
                    f"{source.uri} needs {num_bytes / GB:.3g} GB in {self.root}, whose limit is {self.limit_gb:g} "
                    f"GB with {used / GB:.3g} GB in use by other evaluations; raise `cache_gb`, or wait for them."
                )
            half = self.root / f"half-{source.name}-{num_bytes}"
            half.mkdir()
            return half

    def _sweep(self) -> None:
        """Remove what processes that died have left."""
        for half in self.root.iterdir():
            if found := _HALF.fullmatch(half.name):
                with self._lock(found["name"]) as lock:
                    if lock.try_own():
                        shutil.rmtree(half, ignore_errors=True)

    def _remove(self, copy: Path) -> bool:
        """Remove a copy unless someone uses it. Its name goes first: a process that dies here leaves a half."""
        with self._lock(copy.name) as lock:
            if not lock.try_own():
                return False
            shutil.rmtree(copy.rename(copy.with_name(f"half-{copy.name}-0")), ignore_errors=True)
            return True

    def _last_use(self, copy: Path) -> float:
        file = self._lock_file(copy.name)
        return file.stat().st_mtime if file.exists() else 0.0

    def _lock(self, name: str) -> "_Lock":
        return _Lock(self._lock_file(name))

    def _lock_file(self, name: str) -> Path:
        return self.root / ".locks" / name


class _Lock:
    """A small file that stays, with a lock that the kernel frees when this process ends. It holds the sizes, in bytes,
    of the files of the copy that it guards: a machine that lost power may have cut them. Its time of change is the
    copy's last use."""

    def __init__(self, file: Path) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("a+")
        except OSError as error:
            raise CacheUnavailable(
                f"{file.parent} cannot be written ({error.strerror}); name a folder that can in {CACHE_VARIABLE}."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def share(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def own(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def try_own(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def sizes(self) -> dict[str, int]:
        """Empty if none are noted, or if the note itself was cut."""
        self._file.seek(0)
        try:
            return json.load(self._file)
        except ValueError:
            return {}

    def note_sizes(self, sizes: dict[str, int]) -> None:
        self._file.truncate(0)
        json.dump(sizes, self._file)
        self._file.flush()

    def mark_use(self) -> None:
        os.utime(self._file.fileno())


def _sizes(copy: Path) -> dict[str, int] | None:
    """Of its files, in bytes; None if it is not there."""
    return {file.name: file.stat().st_size for file in copy.iterdir()} if copy.is_dir() else None


def _num_bytes(folder: Path) -> int:
    """What a copy takes, or will take."""
    if found := _HALF.fullmatch(folder.name):
        return int(found["num_bytes"])
    return sum(file.stat().st_size for file in folder.iterdir()) if _WHOLE.fullmatch(folder.name) else 0
