"""Files and folders that others see whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from softprompt.errors import HomeUnavailable
from softprompt.files import ABANDONED_S, temporary_folder, usable, write_whole


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


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/study/home/results/a"),
            "No such file: /study/home/results/a",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/study"), "Permission denied: /study"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_a_home_that_cannot_be_used_is_one_sentence(error: OSError, reason: str) -> None:
    says = rf"^/study/home cannot be used \({reason}\); make room .* `home` in"
    with pytest.raises(HomeUnavailable, match=says), usable("/study/home"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        FileNotFoundError(errno.ENOENT, "No such file", "/study/bucket/A"),
        OSError("No certificate."),
    ],
)
def test_what_is_not_the_homes_fault_passes(error: OSError) -> None:
    with pytest.raises(type(error)), usable("/study/home"):
        raise error
