"""What the cache makes copies of: a checkpoint, or a tokenizer alone."""

from dataclasses import dataclass
from typing import Protocol, Self

from softprompt.bucket import Bucket, Entry
from softprompt.checkpoints import Checkpoint, identity
from softprompt.completeness import list_files, needed_files, tokenizer_files
from softprompt.errors import BadCheckpoint, BadStudy, IncompleteCheckpoint
from softprompt.fingerprints import fingerprint


class Source(Protocol):
    """Files in a folder of some store."""

    @property
    def uri(self) -> str: ...

    @property
    def name(self) -> str:
        """The copy's: the same name, the same bytes."""

    def files(self) -> dict[str, Entry]:
        """As they lie in their store now.

        Raises:
            IncompleteCheckpoint: they are not those that were found.
        """


@dataclass(frozen=True)
class CheckpointFiles:
    """What an evaluation reads of a checkpoint."""

    checkpoint: Checkpoint
    with_code: bool = False

    @property
    def uri(self) -> str:
        return self.checkpoint.uri

    @property
    def name(self) -> str:
        return self.checkpoint.fingerprint + ("-code" if self.with_code else "")

    def files(self) -> dict[str, Entry]:
        bucket = Bucket(self.uri)
        files = needed_files(bucket, "", list_files(bucket, ""), with_code=self.with_code)
        if identity(self.checkpoint.variant, self.checkpoint.step, files) != self.checkpoint.fingerprint:
            raise overwritten(self)
        return files


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer that lies apart from the checkpoints, or beside weights that nobody asked for."""

    uri: str
    found: tuple[Entry, ...]

    @classmethod
    def at(cls, uri: str) -> Self:
        """The tokenizer at a URL, as it lies there now.

        Raises:
            BadStudy: there is none.
        """
        try:
            files = tokenizer_files(list_files(Bucket(uri), ""))
        except BadCheckpoint:
            files = {}
        if not files:
            raise BadStudy(f"There is no tokenizer at {uri}; correct `tokenizer` in the study.")
        return cls(uri, tuple(files.values()))

    @property
    def name(self) -> str:
        return fingerprint(["tokenizer", self.uri, [(entry.name, entry.size, entry.version) for entry in self.found]])

    def files(self) -> dict[str, Entry]:
        files = tokenizer_files(list_files(Bucket(self.uri), ""))
        if tuple(files.values()) != self.found:
            raise overwritten(self)
        return files


def overwritten(source: Source) -> IncompleteCheckpoint:
    return IncompleteCheckpoint(
        f"{source.uri} was overwritten since it was found, so it is not used; look at it again when its trainer is "
        "done with it."
    )
