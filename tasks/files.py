"""Files and folders that others see whole or not at all."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(file: Path, text: str) -> Path:
    half = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    half.write_text(text)
    return half.replace(file)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` only if the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=".half-", dir=folder.parent))
    try:
        yield half
        if not folder.exists():
            half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
