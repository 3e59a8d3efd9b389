"""When finished checkpoints are looked into again, since their weights may have been overwritten: each variant's newest
steps once in every hour, each other checkpoint in one hour of the day. Which hours have been seen to is kept as one
number in the study's home; if it is lost, a look comes too often. See docs/decisions/003-discovery.md."""

import zlib
from pathlib import Path

from softprompt.checkpoints import Folder
from softprompt.files import usable, write_whole
from softprompt.fingerprints import fingerprint
from softprompt.study import Study

HOUR_S, HOURS_A_DAY = 3600, 24


class SecondLook:
    """The hours, since the last look that was finished, whose checkpoints are to be looked into again."""

    def __init__(self, study: Study, now_s: float) -> None:
        name = fingerprint([study.name, study.bucket, study.layout])
        self.home = Path(study.home)
        self.file = self.home / f"looked-again-{name}"
        self.hour = int(now_s // HOUR_S)
        """Hours since 1970."""
        first = max(self._last() + 1, self.hour - HOURS_A_DAY + 1)
        self.turns = {hour % HOURS_A_DAY for hour in range(first, self.hour + 1)}

    def is_due(self) -> bool:
        return bool(self.turns)

    def has_its_turn(self, folder: Folder) -> bool:
        return zlib.crc32(folder.uri.encode()) % HOURS_A_DAY in self.turns

    def done(self) -> None:
        """Whatever was due has been looked into, and nothing of it is left to be evaluated."""
        if self.is_due():
            with usable(self.home):
                self.home.mkdir(parents=True, exist_ok=True)
                write_whole(self.file, str(self.hour))

    def _last(self) -> int:
        """The hour of the last finished look; the one before this if that is unknown, or a clock was set back."""
        try:
            last = int(self.file.read_text())
        except (FileNotFoundError, ValueError):
            last = self.hour - 1
        return last if last <= self.hour else self.hour - 1
