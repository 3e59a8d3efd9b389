"""A study: what a team writes once, in one small TOML file."""

import re
import tomllib
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from softprompt import benchmarks, suites
from softprompt.benchmarks import Benchmark
from softprompt.bucket import Bucket
from softprompt.cache import DEFAULT_GB, Cache, tokenizer_fingerprint
from softprompt.checkpoints import Checkpoint, open_checkpoint, stated_place
from softprompt.completeness import METADATA_FILE
from softprompt.errors import BadCheckpoint, BadStudy
from softprompt.files import expand_user
from softprompt.fingerprints import fingerprint
from softprompt.layout import Layout
from softprompt.protocol import Protocol, Resources, require

PATHS = ("bucket", "mirror", "tokenizer", "benchmark_folder", "home")
"""Settings that may be a path relative to the study's file."""
MEAN = "mean"
"""So the mean of a study's benchmarks is called where each has its name, as in MLflow's metrics."""
MAX_CHARACTERS = 246
"""Of a study's name. As MLflow's experiment it may have 256 on PostgreSQL; as a folder's name 255 bytes, which are its
own characters, all ASCII by then, and the nine that `plain` may add."""
LISTS = ("benchmarks", "leave_out")
NUMBERS = ("settle_s", "cache_gb", "lease_s")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Where checkpoints appear, what is measured on them, and where the results go."""

    name: str
    """Also the name of the MLflow experiment."""
    bucket: str
    """Local folder or fsspec URL."""
    layout: str = "{variant}/step-{step}"
    marker: str = ""
    """File in a checkpoint's folder by which its trainer says that it is whole; empty if it says nothing."""
    settle_s: float = 60.0
    """Without a marker, a checkpoint counts as whole once nothing in it has changed for so many seconds."""
    cache_gb: float = DEFAULT_GB
    """Most that copies of remote checkpoints take on this machine, in 10^9 bytes."""
    benchmarks: tuple[str, ...]
    """Names; in the file also suites, such as `suite:core`."""
    leave_out: tuple[str, ...] = ()
    """Variants that are neither evaluated nor ranked any more: one that was aborted would hold the ranking back at the
    last step that it has."""
    tracking_uri: str = ""
    """MLflow's; empty for `mlflow.db` in `home`."""
    mirror: str | None = None
    """Folder laid out like the hub, to read datasets from; None for `$SOFTPROMPT_MIRROR`, or else the hub."""
    benchmark_folder: str | None = None
    """Folder with benchmark files of your own."""
    tokenizer: str | None = None
    """Where to read the tokenizer from, if the checkpoints lack one: a folder, an fsspec URL or a name on the hub."""
    home: str = ".softprompt"
    """Folder for what this machine keeps of the study: computed results not logged yet, the report, the default store.
    In a file it is by default the folder `.softprompt/<name>`, so that studies side by side keep theirs apart."""
    lease_s: float = 180
    """Seconds after which another process takes over the job of one that died."""
    protocol: Protocol
    resources: Resources
    arms: dict[str, Protocol] = field(default_factory=dict)
    """Protocols that `softprompt study` holds against one another; in the file the settings that each changes. Without
    them it runs `protocol`, as watching and ranking always do."""

    def __post_init__(self) -> None:
        require(0 < len(self.name.strip()) <= MAX_CHARACTERS, "name", self.name, f"1 to {MAX_CHARACTERS} characters")
        Layout(self.layout)
        require("/" not in self.marker, "marker", self.marker, "the plain name of a file beside the weights")
        require(self.settle_s >= 0, "settle_s", self.settle_s, "0 or more seconds")
        require(self.lease_s >= 1, "lease_s", self.lease_s, "1 or more seconds")
        require(self.cache_gb > 0, "cache_gb", self.cache_gb, "more than 0 (10^9 bytes)")
        if not self.benchmarks:
            raise BadStudy("The study names no benchmarks; `softprompt benchmarks` lists what there is.")
        require(
            MEAN not in self.benchmarks, "benchmarks", self.benchmarks, f"other names than {MEAN!r}, their mean's own"
        )
        self._declared  # noqa: B018 (raises where one is unknown or broken)

    @classmethod
    def read(cls, file: str | Path) -> "Study":
        """Read a study's TOML file; relative paths in it are relative to the file.

        Raises:
            BadStudy: no file is named, it is missing, is no TOML, or has unknown, missing or impossible settings.
        """
        if str(file) in ("", "."):
            raise BadStudy(
                "No study is named; name its TOML file, and where a deployment runs it, deploy again with its path in "
                "SOFTPROMPT_STUDY."
            )
        file = Path(file).absolute()
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BadStudy(f"There is no study file {file}; name one, such as demo/study.toml.") from error
        except OSError as error:
            raise BadStudy(f"{file} cannot be read ({error.strerror}); name a study's TOML file.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadStudy(f"{file} is no valid TOML: {error}.") from error
        return cls.from_dict(values, folder=file.parent)

    @classmethod
    def from_dict(cls, values: dict[str, Any], folder: Path) -> "Study":
        """A study from plain values; relative paths are relative to `folder`."""
        settings = {f.name for f in fields(cls)}
        unknown, missing = sorted(set(values) - settings), sorted({"name", "bucket", "benchmarks"} - set(values))
        if unknown or missing:
            raise BadStudy(
                f"The study has unknown settings {unknown}, known are {sorted(settings)}."
                if unknown
                else f"The study lacks the settings {missing}."
            )
        for name in settings - {*LISTS, "protocol", "resources", "arms", *NUMBERS}:
            require(isinstance(values.get(name, ""), str), name, values.get(name), "text")
        for name in NUMBERS:
            require(type(values.get(name, 0)) in (int, float), name, values.get(name), "a number")
        values = {"home": f"{cls.home}/{plain(values['name'])}", **values}
        for name in LISTS:
            names = values.get(name, [])
            require(isinstance(names, list) and all(isinstance(n, str) for n in names), name, names, "a list of names")
        for name in PATHS:
            place = values.get(name)
            if place and "://" not in place and (name != "tokenizer" or (folder / expand_user(place)).exists()):
                values[name] = str((folder / expand_user(place)).resolve())
        return cls(
            **{
                **values,
                "benchmarks": suites.expand(values["benchmarks"]),
                "leave_out": tuple(values.get("leave_out", [])),
                "protocol": Protocol.from_dict(values.get("protocol", {})),
                "arms": _arms(values.get("arms", {}), values.get("protocol", {})),
                "resources": Resources.from_dict(values.get("resources", {})),
            }
        )

    def benchmark(self, name: str) -> Benchmark:
        """One of the study's own, as its tokenizer reads it; files are read once."""
        return self._as_read[name]

    def locate(self, uri: str) -> Checkpoint:
        """A checkpoint by its URI. Variant and step come from the layout if it lies in the study's bucket, else from
        its `metadata.json`: a guess would be ranked as a variant of its own.

        Raises:
            BadCheckpoint: neither says them; or it is missing, incomplete, or broken.
        """
        bucket = Bucket(self.bucket)
        path = bucket.path_of(uri)
        place = Layout(self.layout).match(path) if path else None
        if place := place or stated_place(Bucket(uri)):
            return open_checkpoint(bucket.uri(path) if path else uri, place, with_tokenizer=not self.tokenizer)
        raise BadCheckpoint(
            f"{uri} is not under {self.bucket} in the layout {self.layout!r}; correct the path or `bucket`, or put "
            f"variant and step into its {METADATA_FILE}."
        )

    @cached_property
    def _declared(self) -> dict[str, Benchmark]:
        return {name: benchmarks.get(name, self.benchmark_folder) for name in self.benchmarks}

    @cached_property
    def _as_read(self) -> dict[str, Benchmark]:
        tokenizer = tokenizer_fingerprint(self.tokenizer, self.cache)
        return {name: replace(benchmark, tokenizer=tokenizer) for name, benchmark in self._declared.items()}

    @property
    def cache(self) -> Cache:
        return Cache(limit_gb=self.cache_gb)

    @property
    def results_folder(self) -> Path:
        """Results by the keys of their jobs. Watching and `softprompt study` keep theirs there alike, so that neither
        computes what the other has."""
        return Path(self.home) / "results"

    @property
    def mlflow_uri(self) -> str:
        return self.tracking_uri or f"sqlite:///{self.home}/mlflow.db"


def plain(name: str) -> str:
    """`name` if a folder may be called so everywhere, else what is left of it and a fingerprint: two names never end
    alike."""
    left = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip(".-")
    return name if left == name else f"{left}-{fingerprint(name)[:8]}".lstrip("-")


def _arms(values: Any, protocol: dict[str, Any]) -> dict[str, Protocol]:
    """Each arm's protocol: the study's with the settings that the arm changes."""
    tables = isinstance(values, dict) and all(isinstance(changes, dict) for changes in values.values())
    require(tables, "arms", values, "a table for each arm, such as [arms.slow] with the settings that it changes")
    arms: dict[str, Protocol] = {}
    for name, changes in values.items():
        try:
            arms[name] = Protocol.from_dict({**protocol, **changes})
        except BadStudy as error:
            raise BadStudy(f"Arm {name!r}: {error}") from error
        same = next((other for other in arms if other != name and arms[other] == arms[name]), None)
        if same:
            raise BadStudy(f"The arms {same!r} and {name!r} have the same settings; change one or leave it out.")
    return arms
