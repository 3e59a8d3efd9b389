"""Files and folders that others see whole or not at all."""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from softprompt.errors import HomeUnavailable
from softprompt.host import FAULTS_OF_A_DISK

ABANDONED_S = 24 * 3600
"""A half-filled folder that nobody has written to for so long belongs to nobody."""


def expand_user(place: str | PathLike[str]) -> Path:
    """A path whose `~` is the user's home; where nobody has such a home, it stays as it is."""
    return Path(os.path.expanduser(place))  # noqa: PTH111 (Path.expanduser raises for a name that nobody has)


@contextmanager
def usable(home: str | PathLike[str]) -> Iterator[None]:
    """Turn what the disk says of a study's home, or of a folder in it, into one sentence. Other errors pass: those of
    files that lie elsewhere, and of a network."""
    try:
        yield
    except OSError as error:
        if not _is_of(home, error):
            raise
        raise unusable(home, ": ".join(filter(None, (error.strerror, _place(error))))) from error


def unusable(home: str | PathLike[str], reason: str) -> HomeUnavailable:
    return HomeUnavailable(
        f"{home} cannot be used ({reason}); make room on that disk, make it writable, or correct `home` in the study, "
        "and the same call goes on from here."
    )


def _place(error: OSError) -> str:
    """What could not be used, of a copy its target; empty for an open file."""
    name = error.filename2 or error.filename
    return name if isinstance(name, str) else ""


def _is_of(home: str | PathLike[str], error: OSError) -> bool:
    name = _place(error)
    if not name:
        return error.errno in FAULTS_OF_A_DISK
    home, place = Path(home).absolute(), Path(name).absolute()
    return place.is_relative_to(home) or home.is_relative_to(place)


def write_whole(file: Path, text: str) -> Path:
    half = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        half.write_text(text, encoding="utf-8")
        _sync(half)
        return half.replace(file)
    finally:
        half.unlink(missing_ok=True)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` only if the block ends well."""
    halves = _halves(folder)
    for old in halves.iterdir():  # of processes that were killed
        with suppress(FileNotFoundError):  # or of one that is done by now
            if time.time() - old.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(old, ignore_errors=True)
    half = halves / uuid.uuid4().hex
    half.mkdir()  # with the usual rights, which one of `tempfile` would not have
    try:
        yield half
        for place in [*half.iterdir(), half]:
            _sync(place)
        if not folder.exists():
            half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def remove_whole(folder: Path) -> None:
    """Remove a folder, if it is there. Its name goes first: a process that dies here leaves no part under it."""
    with tempfile.TemporaryDirectory(dir=_halves(folder)) as gone, suppress(FileNotFoundError):
        folder.rename(gone)


def _halves(folder: Path) -> Path:
    """Beside `folder`, on the same disk."""
    halves = folder.parent / ".halves"
    halves.mkdir(parents=True, exist_ok=True)
    return halves


def _sync(place: Path) -> None:
    """A file's bytes, or a folder's names, onto the disk: a loss of power may leave a new name without them."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
