"""Where a bucket keeps its checkpoints, as a pattern of their folders."""

import re

from softprompt.errors import BadBucket, BadCheckpoint

_VARIANT = r"(?P<variant>[^/.][^/]*?)"
_STEP = r"(?P<step>[0-9]{1,18})"
_STEP_IN_WORDS = r"(?P<step>[^/]+?)"
_UNUSABLE = re.compile(r"::|\?versionId=|[\x00-\x1f\x7f]")
"""What fsspec or s3fs would read as something else than a name, and what would break a log's line."""


class Layout:
    """A pattern such as `{variant}/step-{step}` or `{variant}/{step}/hf`. Steps may be zero-padded or not; names that
    start with a dot are nobody's checkpoints."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern.strip("/") if isinstance(pattern, str) else ""
        if self.pattern.count("{variant}") != 1 or self.pattern.count("{step}") != 1:
            raise BadBucket(
                f"The layout {pattern!r} must name {{variant}} and {{step}} once each: '{{variant}}/step-{{step}}'."
            )
        parts = self.pattern.split("/")
        depth = max(i for i, part in enumerate(parts) if _is_open(part)) + 1
        self.levels = parts[:depth]
        """The parts down to the last that is not fixed: so deep must a bucket be listed to know its checkpoints."""
        self.tail = "/".join(parts[depth:])
        self._names = [re.compile(_regex(part, _STEP_IN_WORDS)) for part in self.levels]
        self._whole = re.compile(_regex(self.pattern, _STEP))
        self._in_words = re.compile(_regex(self.pattern, _STEP_IN_WORDS))

    def fits(self, level: int, name: str) -> bool:
        """Whether a folder's name may stand at this level. A step that is no number fits, so that `match` can say so;
        a name with a leading dot does not, because it marks what is hidden or still being written."""
        return not name.startswith(".") and bool(self._names[level].fullmatch(name))

    def is_open(self, level: int) -> bool:
        """Whether this level holds the variant or the step, so that only a listing tells its names."""
        return _is_open(self.levels[level])

    def match(self, path: str) -> tuple[str, int] | None:
        """(variant, step) of a folder's path within the bucket; None if it lies elsewhere.

        Raises:
            BadCheckpoint: its step is no number, or its name cannot be used.
        """
        found = self._whole.fullmatch(path) or self._in_words.fullmatch(path)
        if found is None:
            return None
        if not self._whole.fullmatch(path):
            raise BadCheckpoint(
                f"{path!r} has {found['step']!r} where the layout {self.pattern!r} expects the step, a whole number; "
                "rename it if it is a checkpoint."
            )
        if _UNUSABLE.search(path):
            raise BadCheckpoint(f"{path!r} has '::', '?versionId=' or a control character in its name; rename it.")
        return found["variant"], int(found["step"])


def _is_open(part: str) -> bool:
    return "{variant}" in part or "{step}" in part


def _regex(pattern: str, step: str) -> str:
    pieces = re.split(r"\{(variant|step)\}", pattern)
    fields = {"variant": _VARIANT, "step": step}
    return "".join(fields[piece] if i % 2 else re.escape(piece) for i, piece in enumerate(pieces))
