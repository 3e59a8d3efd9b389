"""Files and folders that others see whole or not at all."""

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ABANDONED_S = 24 * 3600
"""A half-filled folder that nobody has written to for so long belongs to nobody."""


def write_whole(file: Path, text: str) -> Path:
    half = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    half.write_text(text)
    return half.replace(file)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` only if the block ends well."""
    halves = folder.parent / ".halves"
    halves.mkdir(parents=True, exist_ok=True)
    for old in halves.iterdir():  # of processes that were killed
        with suppress(FileNotFoundError):  # or of one that is done by now
            if time.time() - old.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(old, ignore_errors=True)
    half = Path(tempfile.mkdtemp(dir=halves))
    try:
        yield half
        if not folder.exists():
            half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
