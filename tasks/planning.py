"""What would be evaluated, and what it would cost, before anything is spent."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from prefect import get_run_logger, task

from softprompt.checkpoints import Checkpoint
from softprompt.result import Job
from softprompt.rows import mirror_folder
from softprompt.study import Study
from tasks.discovery import jobs_of
from tasks.ledger import Finished
from tasks.retries import RETRIED
from tasks.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class BenchmarkCost:
    """Of a benchmark's pending jobs."""

    benchmark: str
    num_jobs: int
    seconds_per_job: float | None
    """Median of the jobs of the same benchmark and protocol that are done; None if there are none."""
    num_measured: int

    @property
    def seconds(self) -> float | None:
        return None if self.seconds_per_job is None else self.num_jobs * self.seconds_per_job

    def __str__(self) -> str:
        if self.seconds is None or self.seconds_per_job is None:
            return f"{self.benchmark}: {self.num_jobs} jobs, no measurement yet"
        return (
            f"{self.benchmark}: {self.num_jobs} jobs of {in_words(self.seconds_per_job)} each (median of "
            f"{self.num_measured}), {in_words(self.seconds)} in all"
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study's pending work, one cost for each benchmark."""

    checkpoints: tuple[str, ...]
    """URIs of those with work to do, newest step first."""
    costs: tuple[BenchmarkCost, ...]

    @property
    def num_jobs(self) -> int:
        return sum(cost.num_jobs for cost in self.costs)

    @property
    def seconds(self) -> float:
        """Of the jobs whose cost is known, one after another."""
        return sum(cost.seconds or 0.0 for cost in self.costs)

    @property
    def num_unmeasured(self) -> int:
        return sum(cost.num_jobs for cost in self.costs if cost.seconds is None)

    def sentence(self) -> str:
        known = self.num_jobs - self.num_unmeasured
        costs = [f"about {in_words(self.seconds)} for {known}, one after another"] if known else []
        unknown = [f"no measurement yet for {self.num_unmeasured}"] if self.num_unmeasured else []
        what = f"{self.num_jobs} jobs on {len(self.checkpoints)} checkpoints"
        return f"{what}: {', '.join(costs + unknown)}." if self.num_jobs else "Nothing to do."

    def to_dict(self) -> dict[str, Any]:
        costs = [{**asdict(cost), "seconds": cost.seconds} for cost in self.costs]
        return {
            "checkpoints": list(self.checkpoints),
            "costs": costs,
            "num_jobs": self.num_jobs,
            "seconds": self.seconds,
            "num_unmeasured": self.num_unmeasured,
        }


@task(**RETRIED)
def say_plan(study: Study, checkpoints: list[Checkpoint], *, retry_failed: bool = False) -> Plan:
    """Log what evaluating `checkpoints` would cost."""
    plan = plan_checkpoints(study, checkpoints, retry_failed=retry_failed)
    for sentence in [*map(str, plan.costs), plan.sentence()]:
        get_run_logger().info("%s", sentence)
    return plan


def plan_checkpoints(study: Study, checkpoints: Iterable[Checkpoint], *, retry_failed: bool = False) -> Plan:
    """The plan of all unfinished jobs of `checkpoints` and, if asked for, of those that failed.

    Raises:
        RowsUnavailable: the study's mirror is not there, so that none of them could be done.
    """
    mirror_folder(study.mirror)
    finished = Tracker(study).ledger.finished()
    jobs = (job for checkpoint in checkpoints for job in jobs_of(study, checkpoint))
    skip = {key for key, job in finished.items() if job.status == "done" or not retry_failed}
    return make_plan((job for job in jobs if job.key not in skip), finished.values())


def make_plan(jobs: Iterable[Job], finished: Iterable[Finished]) -> Plan:
    """The plan of a study's pending `jobs`, from what `finished` ones took."""
    pending = list(jobs)
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    for entry in finished:
        if entry.status == "done":
            measured[entry.benchmark_fingerprint, entry.protocol].append(entry.seconds)
    by_benchmark: dict[str, list[Job]] = defaultdict(list)
    for job in pending:
        by_benchmark[job.benchmark.name].append(job)
    costs = []
    for name, its in sorted(by_benchmark.items()):
        seconds = measured[its[0].benchmark.fingerprint, its[0].protocol.fingerprint]
        each = median(seconds) if seconds else None
        costs.append(BenchmarkCost(benchmark=name, num_jobs=len(its), seconds_per_job=each, num_measured=len(seconds)))
    checkpoints = sorted({job.checkpoint for job in pending}, key=lambda c: (-c.step, c.variant))
    return Plan(checkpoints=tuple(checkpoint.uri for checkpoint in checkpoints), costs=tuple(costs))


def in_words(seconds: float) -> str:
    """90 -> '1.5 min'."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
