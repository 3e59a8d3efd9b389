"""Copies of remote checkpoints on this machine, in one folder that any number of processes share.

A whole copy is a folder named by its checkpoint's fingerprint. It is filled under another name, `half-...`, and renamed
when the store still lists what was listed before: nothing half ever looks whole. Whoever reads a copy holds a shared
lock on it, whoever fills or removes one an exclusive lock; the kernel frees the locks of a process that dies.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from softprompt.bucket import DISK_FULL, Bucket, Entry
from softprompt.checkpoints import Checkpoint, identity
from softprompt.completeness import list_files, needed_files
from softprompt.errors import BadCheckpoint, CacheUnavailable, IncompleteCheckpoint

FOLDER_VARIABLE = "SOFTPROMPT_CACHE"
DEFAULT_GB = 100.0
GB = 1e9
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
    if checkpoint.local_path is None:
        with (cache or Cache()).open(checkpoint, with_code=with_code) as folder:
            yield folder
    else:
        bucket = Bucket(checkpoint.uri)
        _files(bucket, checkpoint)
        yield checkpoint.local_path
        _files(bucket, checkpoint)


def default_folder() -> Path:
    """`$SOFTPROMPT_CACHE`, or else `softprompt` in the user's cache folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(FOLDER_VARIABLE) or f"{caches}/softprompt").expanduser().absolute()


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
    def open(self, checkpoint: Checkpoint, *, with_code: bool = False) -> Iterator[Path]:
        """The checkpoint's copy; see `open_locally`."""
        name = checkpoint.fingerprint + ("-code" if with_code else "")
        with self._lock(name) as lock:
            while True:
                lock.share()
                if _is_whole(self.root / name):
                    break
                lock.own()  # which gives up the share first, so another process may have made the copy by now
                if not _is_whole(self.root / name):
                    self._fill(name, checkpoint, with_code)
            lock.mark_use()
            yield self.root / name

    def _fill(self, name: str, checkpoint: Checkpoint, with_code: bool) -> None:
        """Download a checkpoint; the caller owns the lock of `name`."""
        bucket = Bucket(checkpoint.uri)
        files = _files(bucket, checkpoint, with_code)
        try:
            half = self._reserve(name, sum(entry.size for entry in files.values()), checkpoint)
            try:
                for file in files:
                    bucket.download(file, half / file)
                if _files(bucket, checkpoint, with_code) != files:
                    raise FileNotFoundError
                half.rename(self.root / name)
            finally:
                shutil.rmtree(half, ignore_errors=True)
        except FileNotFoundError:
            raise _overwritten(checkpoint) from None
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise CacheUnavailable(
                f"The disk of {self.root} is full, so {checkpoint.uri} could not be copied there; free some space, "
                f"lower `cache_gb`, or name another disk's folder in {FOLDER_VARIABLE}."
            ) from error

    def _reserve(self, name: str, num_bytes: int, checkpoint: Checkpoint) -> Path:
        """An empty folder whose name counts for `num_bytes` within the limit; older copies make room."""
        with self._lock("room") as room:
            room.own()
            for half in [*self.root.glob(f"half-{name}-*"), self.root / name]:  # of a process that died; not whole
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
                    f"{checkpoint.uri} needs {num_bytes / GB:.3g} GB in {self.root}, whose limit is {self.limit_gb:g} "
                    f"GB with {used / GB:.3g} GB in use by other evaluations; raise `cache_gb`, or wait for them."
                )
            half = self.root / f"half-{name}-{num_bytes}"
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
    """An empty file that stays, with a lock that the kernel frees when this process ends. Its time of change is the
    last use of what it guards."""

    def __init__(self, file: Path) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("a")
        except OSError as error:
            raise CacheUnavailable(
                f"{file.parent} cannot be written ({error.strerror}); name a folder that can in {FOLDER_VARIABLE}."
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

    def mark_use(self) -> None:
        os.utime(self._file.fileno())


def _files(bucket: Bucket, checkpoint: Checkpoint, with_code: bool = False) -> dict[str, Entry]:
    """The checkpoint's needed files as they lie in its store now.

    Raises:
        IncompleteCheckpoint: they are not those it was found with.
    """
    files = needed_files(bucket, "", list_files(bucket, ""), with_code=with_code)
    if identity(checkpoint.variant, checkpoint.step, files) != checkpoint.fingerprint:
        raise _overwritten(checkpoint)
    return files


def _overwritten(checkpoint: Checkpoint) -> IncompleteCheckpoint:
    return IncompleteCheckpoint(
        f"{checkpoint.uri} was overwritten since it was found, so it is not used; look at it again when its trainer is "
        "done with it."
    )


def _is_whole(folder: Path) -> bool:
    """Whether a copy is there and as long as its headers imply: a machine that lost power may have cut it."""
    try:
        bucket = Bucket(str(folder))
        needed_files(bucket, "", list_files(bucket, ""))
    except BadCheckpoint:
        return False
    return True


def _num_bytes(folder: Path) -> int:
    """What a copy takes, or will take."""
    if found := _HALF.fullmatch(folder.name):
        return int(found["num_bytes"])
    return sum(file.stat().st_size for file in folder.iterdir()) if _WHOLE.fullmatch(folder.name) else 0
