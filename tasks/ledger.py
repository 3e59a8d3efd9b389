"""What is finished. MLflow alone knows: one LoggedModel per checkpoint and protocol, with a tag `job.<key>` for each
finished job, written last. See docs/decisions/002-ledger.md.

Setting a tag does not change a LoggedModel's `last_updated_timestamp`, but finalizing it does, so that every entry is
followed by that. This is how a copy in the study's home is brought up to date by reading only what changed. The copy
decides nothing: without it the answer is the same and takes longer.
"""

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softprompt.checkpoints import Checkpoint
from softprompt.files import usable, write_whole
from softprompt.fingerprints import fingerprint
from softprompt.result import Job
from softprompt.study import Study
from tasks.store import Store

JOB_TAG = "job."
TAGS, PARAMS = {"fingerprint", "protocol", "uri", "modified_ms"}, {"variant", "step"}
"""Of the LoggedModels that are checkpoints; a team may keep others in the experiment."""
OVERLAP_MS = 120_000
"""How far a refresh looks back behind the newest change it knows: longer than clocks of MLflow's servers differ."""
FULL_READ_S = 24 * 3600
"""After this the copy is read anew in full, since what was deleted by hand in MLflow changes no timestamp we see."""

Place = tuple[str, int]
"""Variant and step."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A job that needs no work: done, or failed in a way that will not change by itself."""

    key: str
    status: str
    variant: str
    step: int
    uri: str
    checkpoint: str
    """Fingerprint; so are `protocol` and `benchmark_fingerprint`."""
    protocol: str
    benchmark: str
    benchmark_fingerprint: str
    modified_ms: int
    run_id: str
    seconds: float = 0.0
    """Wall clock of the evaluation; 0 for a failed one."""
    error: str = ""

    @property
    def place(self) -> Place:
        return self.variant, self.step

    @property
    def version(self) -> tuple[int, str]:
        """Of two at one place, the greater one was written last."""
        return self.modified_ms, self.checkpoint

    @property
    def artifacts(self) -> str:
        """Where its files are among its run's artifacts."""
        return artifact_folder(self.benchmark, self.step, self.key)


class Ledger:
    """Which of a study's jobs are finished.

    Raises:
        TrackingUnavailable: from every method, if MLflow does not answer.
        HomeUnavailable: from every method, if the study's home cannot be used.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.study = store.study
        self.copy = Path(self.study.home) / "ledger.json"

    def finished(self) -> dict[str, Finished]:
        """All finished jobs of the study by key, those of other protocols and of overwritten weights included."""
        with self.store.answers():
            experiment = self.store.experiment
            made = [self.study.mlflow_uri, experiment.experiment_id, experiment.creation_time]
            source = fingerprint([*made, list(Finished.__dataclass_fields__)])
        models, seen_ms, read_s = self._read_copy(source)
        if not 0 <= time.time() - read_s < FULL_READ_S:
            models, seen_ms, read_s = {}, 0, time.time()
        changed = list(self._models(f"last_updated_timestamp >= {max(0, seen_ms - OVERLAP_MS)}"))
        entries = {model.model_id: _entries(model) for model in changed}
        if any(models.get(model_id) != found for model_id, found in entries.items()) or not models:
            with self.store.answers():
                active = self.store.active_runs()
            models |= {model_id: _alive(found, active) for model_id, found in entries.items()}
            seen_ms = max([seen_ms, *(model.last_updated_timestamp for model in changed)])
            values = {"source": source, "seen_ms": seen_ms, "read_s": read_s, "models": models}
            with usable(self.study.home):
                write_whole(self.copy, json.dumps(values))
        return _finished(models.values())

    def finished_of(self, checkpoint: Checkpoint) -> dict[str, Finished]:
        """Finished jobs of one checkpoint, asked of MLflow itself."""
        found = [_entries(model) for model in self._models(f"tags.fingerprint = '{checkpoint.fingerprint}'")]
        with self.store.answers():
            active = self.store.active_runs() if found else set()
        return _finished(_alive(entries, active) for entries in found)

    def check_copy(self, known: Iterable[str]) -> None:
        """Throw the copy away if it misses any of these finished jobs. It does where the clock of MLflow was set back,
        or a process died between the tag and the call that makes it seen."""
        if not set(known) <= self.finished().keys():
            with usable(self.study.home):
                self.copy.unlink(missing_ok=True)

    def to_rank(self) -> list[Finished]:
        """Done jobs of the study's protocol and of its benchmarks as they are now; of a checkpoint that was
        overwritten, only the newest."""
        return self.done_and_failed()[0]

    def done_and_failed(self, finished: Collection[Finished] | None = None) -> tuple[list[Finished], list[Finished]]:
        """What `to_rank` says, and the failed jobs beside it, out of `finished` or of what is finished now."""
        finished = self.finished().values() if finished is None else finished
        jobs = newest(self.study, finished)
        return [job for job in jobs if job.status == "done"], [job for job in jobs if job.status == "failed"]

    def basis(self, finished: Collection[Finished]) -> str:
        """Identity of all that a ranking of these rests on; empty if nothing of it is done."""
        jobs = of_study(self.study, finished)
        if not any(job.status == "done" for job in jobs):
            return ""
        ends = sorted(f"{job.key} {job.status} {job.run_id}" for job in jobs)
        return fingerprint([[self.study.benchmark(name).fingerprint for name in self.study.benchmarks], ends])

    def finish(self, job: Job, status: str, *, run_id: str, seconds: float = 0.0, error: str = "") -> None:
        """Note that a job needs no more work. This comes last: without it a job is not finished."""
        entry = {
            "status": status,
            "benchmark": job.benchmark.name,
            "benchmark_fingerprint": job.benchmark.fingerprint,
            "run_id": run_id,
            "seconds": round(seconds, 3),
            "error": error,
        }
        model_id = self.model_id(job, run_id)
        self.store.client.set_logged_model_tags(model_id, {JOB_TAG + job.key: json.dumps(entry)})
        self.store.client.finalize_logged_model(model_id, "READY")

    def model_id(self, job: Job, run_id: str) -> str:
        """Of the checkpoint's LoggedModel; it is made on first use, by one process at a time."""
        found = self._find_model(job)
        if found is None:
            with self.store.alone("model", job.checkpoint.fingerprint):
                found = self._find_model(job) or self._new_model(job, run_id)
        return found

    def _find_model(self, job: Job) -> str | None:
        found = [
            (model.creation_timestamp, model.model_id)
            for model in self._models(f"tags.fingerprint = '{job.checkpoint.fingerprint}'")
            if model.tags["protocol"] == job.protocol.fingerprint
        ]
        return min(found)[1] if found else None

    def _new_model(self, job: Job, run_id: str) -> str:
        checkpoint, protocol = job.checkpoint, job.protocol.fingerprint
        tags = {
            "fingerprint": checkpoint.fingerprint,
            "protocol": protocol,
            "uri": checkpoint.uri,
            "modified_ms": str(checkpoint.modified_ms),
        }
        made = self.store.client.create_logged_model(
            self.store.experiment_id,
            name=_plain_name(f"{checkpoint.variant}-step-{checkpoint.step}"),
            source_run_id=run_id,
            tags=tags,
            params={"variant": checkpoint.variant, "step": str(checkpoint.step)},
        )
        return made.model_id

    def _models(self, filter_string: str) -> Iterator[Any]:
        """Checkpoints' LoggedModels, newest change first. Pages are counted off: one that changes while they are turned
        may be missed, and is found by the next refresh; in the other order its neighbour would be missed for a day."""
        token = None
        while True:
            with self.store.answers():
                page = self.store.client.search_logged_models(
                    [self.store.experiment_id],
                    filter_string=filter_string,
                    max_results=100,
                    order_by=[{"field_name": "last_updated_timestamp", "ascending": False}],
                    page_token=token,
                )
            yield from (model for model in page if model.tags.keys() >= TAGS and model.params.keys() >= PARAMS)
            token = page.token
            if not token:
                return

    def _read_copy(self, source: str) -> tuple[dict[str, Any], int, float]:
        """LoggedModels' entries by id, the newest change among them, when they were last read in full."""
        try:
            copy = json.loads(self.copy.read_text())
            if copy["source"] == source:
                return copy["models"], copy["seen_ms"], copy["read_s"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        return {}, 0, 0.0


def of_study(study: Study, jobs: Iterable[Finished]) -> list[Finished]:
    """Those of the study's protocol, of its benchmarks as they are now, and of no variant that it leaves out."""
    protocol, versions = study.protocol.fingerprint, {n: study.benchmark(n).fingerprint for n in study.benchmarks}
    return [
        job
        for job in jobs
        if job.protocol == protocol
        and versions.get(job.benchmark) == job.benchmark_fingerprint
        and job.variant not in study.leave_out
    ]


def newest(study: Study, jobs: Iterable[Finished]) -> list[Finished]:
    """Those of the study; of a checkpoint that was written over, only those of the weights that were written last."""
    its = of_study(study, jobs)
    last: dict[Place, tuple[int, str]] = {}
    for job in its:
        last[job.place] = max(last.get(job.place, job.version), job.version)
    return [job for job in its if job.version == last[job.place]]


def by_error(errors: Mapping[str, str]) -> str:
    """{"a": "X.", "b": "X."} -> "a, b: X": benchmarks with what they failed by, which is mostly the same."""
    names: dict[str, list[str]] = defaultdict(list)
    for benchmark, error in errors.items():
        names[error.rstrip(".")].append(benchmark)
    return "; ".join(f"{', '.join(its)}: {error}" for error, its in names.items())


def artifact_folder(benchmark: str, step: int, key: str) -> str:
    return f"results/{benchmark}/step-{step}-{key}"


def _entries(model: Any) -> dict[str, dict[str, Any]]:
    """What a LoggedModel says of its checkpoint, and of each finished job by key."""
    checkpoint = {
        "variant": model.params["variant"],
        "step": int(model.params["step"]),
        "uri": model.tags["uri"],
        "checkpoint": model.tags["fingerprint"],
        "protocol": model.tags["protocol"],
        "modified_ms": int(model.tags["modified_ms"]),
    }
    jobs = {tag.removeprefix(JOB_TAG): json.loads(v) for tag, v in model.tags.items() if tag.startswith(JOB_TAG)}
    return {"checkpoint": checkpoint, "jobs": jobs}


def _alive(entries: dict[str, dict[str, Any]], runs: set[str]) -> dict[str, dict[str, Any]]:
    """Without the jobs whose run was deleted: their results and points are gone with it."""
    return {**entries, "jobs": {key: job for key, job in entries["jobs"].items() if job.get("run_id") in runs}}


def _finished(models: Iterable[dict[str, dict[str, Any]]]) -> dict[str, Finished]:
    """By key, what `_entries` say."""
    return {
        key: Finished(key=key, **model["checkpoint"], **job) for model in models for key, job in model["jobs"].items()
    }


def _plain_name(text: str) -> str:
    """A LoggedModel's name may not hold these characters."""
    return "".join("_" if char in "/:.%\"'" else char for char in text)
