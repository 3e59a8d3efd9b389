"""Files and folders that others see whole or not at all."""

import os
from pathlib import Path

import pytest

from softprompt.files import ABANDONED_S, temporary_folder, write_whole


def test_a_text_that_cannot_be_written_leaves_no_half(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "page", "text")
    assert [file.name for file in tmp_path.iterdir()] == ["page"]


def test_what_killed_processes_left_is_cleared_away_and_what_vanishes_meanwhile_does_no_harm(tmp_path: Path) -> None:
    halves = tmp_path / ".halves"
    for name in ("abandoned", "at-work"):
        (halves / name).mkdir(parents=True)
    os.utime(halves / "abandoned", (0, ABANDONED_S))
    (halves / "vanished").symlink_to("nowhere")  # listed, and gone when it is looked at
    with temporary_folder(tmp_path / "result") as half:
        (half / "file").touch()
    assert {entry.name for entry in halves.iterdir()} == {"at-work", "vanished"}
    assert (tmp_path / "result" / "file").exists()
    assert (tmp_path / "result").stat().st_mode == halves.stat().st_mode  # others may read it
