"""Errors a user can act on. Each message says what was found, what was expected, where, and what to do."""

import re
import textwrap

MAX_REASON = 300
"""Most characters of a library's own words in a message."""


class SoftPromptError(Exception):
    """Base of everything this library raises for its users.

    `retryable` says whether the same call may succeed later without anyone changing anything
    (a server that is away for a minute) or not (a checkpoint without weights).
    """

    retryable = False


class BadStudy(SoftPromptError):
    """A study, protocol or resources declaration that cannot be used as it is written."""


class BadBucket(SoftPromptError):
    """The place where checkpoints should appear is missing, may not be read, or is laid out differently."""


class BucketUnavailable(SoftPromptError):
    """The store that holds the checkpoints did not answer."""

    retryable = True


class CacheUnavailable(SoftPromptError):
    """No copy of a remote checkpoint can be made: the cache's limit or the disk's is reached, or it is read-only."""

    retryable = True


class HomeUnavailable(SoftPromptError):
    """What this machine keeps, a study's home or the locks of its slots, cannot be written or read."""

    retryable = True


class BadCheckpoint(SoftPromptError):
    """A checkpoint that cannot be evaluated, now or ever, as its files stand."""


class IncompleteCheckpoint(BadCheckpoint):
    """A checkpoint whose files are not all there yet; a later look may find it whole."""

    retryable = True


class BadBenchmark(SoftPromptError):
    """A benchmark that is unknown, broken, or whose rows do not fit its declaration."""


class RowsUnavailable(BadBenchmark):
    """The rows of a benchmark cannot be had from where they are looked for."""


class TrackingUnavailable(SoftPromptError):
    """MLflow did not answer; what was computed is kept and logged on a later try."""

    retryable = True


class TrackingRefused(TrackingUnavailable):
    """MLflow answers, and not to this user."""

    retryable = False


class LostResult(TrackingUnavailable):
    """MLflow says that a job is done, and does not hold its files."""


class JobFailed(SoftPromptError):
    """A job's own process ended without a result, or was ended."""


class HostUnusable(SoftPromptError):
    """The machine cannot do the job, be it for a library, its disk or its GPU; another one may."""


class JobCancelled(JobFailed):
    """Somebody cancelled the job; a later look does it."""


class OutOfMemory(SoftPromptError):
    """The device cannot hold the model, or not a single row beside it."""


def in_short(reason: str, most: int = MAX_REASON) -> str:
    """A library's complaint in one line of at most so many characters, cut between words if that leaves enough."""
    said = " ".join(reason.split())
    short = textwrap.shorten(said, most, placeholder=" ...")
    is_lost = len(short) < min(len(said), most // 2)  # to a word as long as a URL
    return f"{said[: most - 4]} ..." if is_lost else short


_PASSWORD = r"//[^/\s]*:\S*@"
"""A secret may itself hold `/` and `@`, so that the last `@` counts."""


def holds_password(url: str) -> bool:
    return re.search(_PASSWORD, url) is not None


def without_passwords(text: str) -> str:
    """`text` with every `user:password@` and `user@` of a URL blotted out."""
    return re.sub(rf"{_PASSWORD}|//[^/@\s]*@", "//***@", text)
