"""A bucket: a local folder or any fsspec URL. The one place where a store's many complaints become one sentence.

Nothing here knows a secret: endpoint, credentials and region come from where the store's own library looks for them;
for S3 these are `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`,
`AWS_DEFAULT_REGION`, `AWS_PROFILE`, `~/.aws` and the machine's role.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from softprompt.errors import BadBucket, BucketUnavailable, holds_password, in_short, without_passwords
from softprompt.host import DISK_FULL

_BAD_CREDENTIALS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
)
_BAD_REQUESTS = (
    "ValueError",
    "ParamValidationError",
    "InvalidBucketName",
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "301",
)
_BUGS = (TypeError, AttributeError, NameError, LookupError, ArithmeticError, AssertionError, NotImplementedError)
"""Mistakes of ours or of a library's; waiting mends none of them, and their tracebacks say where they are."""


_TIMES = ("LastModified", "mtime", "last_modified", "updated", "modified", "last_write_time", "created")
"""What stores call the time of a change or, where files are never changed but written anew, of their creation."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies directly in a folder."""

    name: str
    is_folder: bool
    size: int
    """In bytes; 0 for a folder."""
    version: str
    """ETag, or time of change."""
    modified_s: float
    """When it was written, in s since 1970 by the store's clock; 0 where the store does not tell."""


class Bucket:
    """A folder of a store, and what lies below it by relative paths.

    Raises (every method):
        BadBucket: the store refuses, in a way that does not pass by itself.
        BucketUnavailable: the store does not answer.
        FileNotFoundError: nothing lies at the path.
    """

    def __init__(self, url: str | PathLike[str]) -> None:
        url = fspath(url)
        if holds_password(url):
            raise BadBucket(
                f"{without_passwords(url)} holds a password, which logs and MLflow would show; leave it out and give "
                "it by the environment (AWS_SECRET_ACCESS_KEY for S3, else FSSPEC_<PROTOCOL>_PASSWORD)."
            )
        # An instance that fsspec has kept would keep its listings, and the credentials of the day it was made.
        options: dict[str, Any] = {"skip_instance_cache": True}
        if url.startswith(("s3:", "s3a:")):
            options["use_listings_cache"] = False
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, **options)
        except (ValueError, ImportError) as error:
            raise BadBucket(f"{url} is no place this machine can read ({error}).") from error
        self._root = self._root.rstrip("/")
        self.url = url.rstrip("/") if "://" in url else self._root
        self.is_local = isinstance(self._fs, LocalFileSystem)

    def uri(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url

    def path_of(self, uri: str) -> str | None:
        """The path of what lies at `uri`, however that is spelled: over a link, as `file://`, with `//` or `/./`. None
        if it does not lie below this bucket."""
        there = Bucket(uri)
        place, root = PurePosixPath(normpath(there._root)), PurePosixPath(normpath(self._root))
        if self.is_local and there.is_local:
            root = next((above for above in place.parents if Path(above).resolve() == Path(root).resolve()), root)
        return str(place.relative_to(root)) if there._fs == self._fs and root in place.parents else None

    def entries(self, path: str = "") -> list[Entry]:
        """What lies directly in `path`, by name."""
        place = self._place(path)
        with self._answers(path):
            self._fs.invalidate_cache()  # for stores that remember their listings
            infos = self._fs.ls(place, detail=True)
        found = []
        for info in infos:
            name = info["name"].rstrip("/")
            if name == place.rstrip("/"):
                if info["name"].endswith("/"):  # a marker that some tools leave for an empty folder
                    continue
                raise BadBucket(f"{self.uri(path)} is a file; expected a folder or a bucket's URL.")
            found.append(_entry(info))
        return sorted(found, key=lambda entry: entry.name)

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes from `start` to `end` (excluded) of a file, or all of it."""
        with self._answers(path):
            return self._fs.cat_file(self._place(path), start=start, end=end)

    def read_starts(self, paths: Sequence[str], ends: Sequence[int]) -> list[bytes]:
        """The first so many bytes of each file, read side by side."""
        with self._answers(paths[0] if paths else ""):
            places = [self._place(path) for path in paths]
            return self._fs.cat_ranges(places, [0] * len(places), list(ends), on_error="raise")

    def download(self, path: str, to: Path) -> None:
        """Copy a file to this machine; a full disk is left to the caller as the `OSError` it is."""
        with self._answers(path):
            self._fs.get_file(self._place(path), str(to))

    def now_s(self) -> float:
        """The store's clock, in s since 1970: asked once and followed by a clock that nobody sets. Stores other than
        S3 do not tell it; there this machine's clock stands in."""
        return self._clock_offset_s + time.monotonic()

    @cached_property
    def _clock_offset_s(self) -> float:
        before, now = time.monotonic(), time.time()
        if hasattr(self._fs, "call_s3"):
            name, _, prefix = self._root.partition("/")
            with self._answers(""):
                answer = self._fs.call_s3("list_objects_v2", Bucket=name, Prefix=prefix, MaxKeys=1)
            date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
            now = parsedate_to_datetime(date).timestamp() if date else now
        return now - before

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @contextmanager
    def _answers(self, path: str) -> Iterator[None]:
        """Each store has its own exceptions. They are told apart by the S3 code or else by name, so that reading a
        local folder loads no S3 library. No cause is kept: its text may hold a URL with a password."""
        where = self.uri(path)
        try:
            yield
        except _BUGS:
            raise
        except Exception as error:
            code = _code(error)
            reason = in_short(without_passwords(str(error)))
            if code == "NoSuchBucket":
                raise BadBucket(f"There is no bucket {self.url}; create it, or correct its name.") from None
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise FileNotFoundError(where) from None
            if getattr(error, "errno", None) in DISK_FULL:
                raise
            if code in _BAD_CREDENTIALS:
                raise BadBucket(
                    f"{where} cannot be opened with these credentials ({code}); check AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN, AWS_PROFILE) in the environment of this process."
                ) from None
            if isinstance(error, PermissionError):
                raise BadBucket(
                    f"{where} may not be listed or read by this process ({code}); give its user or its credentials "
                    "the right to."
                ) from None
            if code in _BAD_REQUESTS:
                raise BadBucket(
                    f"{where} cannot be used ({code}: {reason}); correct the URL, AWS_ENDPOINT_URL or "
                    "AWS_DEFAULT_REGION."
                ) from None
            raise BucketUnavailable(
                f"{where} cannot be read just now ({code}: {reason}); a later try may find the store again. An S3 "
                "server other than Amazon's is named by AWS_ENDPOINT_URL."
            ) from None


def _code(error: BaseException) -> str:
    """S3's word for what went wrong, or the exception's name."""
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(code or type(error).__name__)


def _entry(info: dict[str, Any]) -> Entry:
    written = next((info[key] for key in _TIMES if info.get(key)), 0)
    version = next((info[key] for key in ("ETag", "etag", "mtime") if info.get(key)), written)
    return Entry(
        name=info["name"].rstrip("/").rsplit("/", 1)[-1],
        is_folder=info["type"] == "directory",
        size=int(info.get("size") or 0),
        version=str(version),
        modified_s=_seconds(written),
    )


def _seconds(when: Any) -> float:
    if hasattr(when, "timestamp"):
        return when.timestamp()
    try:
        return float(when)
    except ValueError:
        return 0.0
