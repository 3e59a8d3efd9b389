"""What is logged to MLflow, and read back to be ranked.

One run per variant holds its metrics along the training step, family first (`accuracy/<benchmark>`), and the results'
files. All that is logged for a job can be logged twice without a trace, because a point's time is the checkpoint's.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from softprompt.errors import SoftPromptError
from softprompt.metrics import Estimate
from softprompt.ranking import Ranking
from softprompt.result import Job, Result
from softprompt.study import Study
from tasks.ledger import Finished, Ledger, artifact_folder
from tasks.store import Store

RANKING_RUN = "ranking"
"""Name of the run that holds rankings instead of a variant's results."""


class Tracker:
    """A study's results in MLflow.

    Raises:
        TrackingUnavailable: from every method, if the server does not answer.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.store = Store(study)
        self.ledger = Ledger(self.store)
        self.results_folder = Path(study.home) / "results"

    def log(self, job: Job, folder: Path) -> None:
        """Log a saved result and then, last, that its job is done. A checkpoint's LoggedModel carries its headline
        only: with all metrics it would take MLflow minutes to list ten thousand of them."""
        result = Result.load(folder, with_items=False)
        checkpoint, points = job.checkpoint, _points(result)
        with self.store.answers():
            run_id = self.store.run_id(result.variant)
            self.store.client.log_artifacts(
                run_id, str(folder), artifact_folder(job.benchmark.name, checkpoint.step, job.key)
            )
            model_id = self.ledger.model_id(job, run_id)
            headline = {f"{name}/{result.benchmark}" for name in ("accuracy", "format_following")}
            on_model = {name: value for name, value in points.items() if name in headline}
            on_run = {name: value for name, value in points.items() if name not in headline}
            self.store.log_points(run_id, on_run, checkpoint.modified_ms, checkpoint.step)
            self.store.log_points(run_id, on_model, checkpoint.modified_ms, checkpoint.step, model_id)
            self.ledger.finish(job, "done", run_id=run_id, seconds=sum(result.seconds.values()))

    def log_failure(self, job: Job, error: SoftPromptError) -> None:
        """Note that a job cannot be done as its inputs stand, so that no later look tries it again."""
        with self.store.answers():
            run_id = self.store.run_id(job.checkpoint.variant)
            self.ledger.finish(job, "failed", run_id=run_id, error=str(error))

    def results(self, jobs: Iterable[Finished] | None = None) -> list[Result]:
        """Results, per-item outcomes included, of `jobs`; by default, of all that can be ranked."""
        jobs = self.ledger.to_rank() if jobs is None else jobs
        ordered = sorted(jobs, key=lambda job: (job.variant, job.step, job.benchmark))
        return [Result.load(self._local(job)) for job in ordered]

    def log_rankings(self, rankings: Sequence[Ranking], jobs: Iterable[Finished], files: Iterable[Path]) -> None:
        """Each variant's mean and rank along the training step; the ranking's files in a run of their own."""
        times = {(job.variant, job.step): job.modified_ms for job in jobs}
        with self.store.answers():
            for ranking in rankings:
                for standing in ranking.standings:
                    points = {
                        "accuracy/mean": sum(standing.accuracy.values()) / len(standing.accuracy),
                        "chance_centred_accuracy/mean": standing.score,
                        "rank": float(standing.rank),
                    }
                    when = times[standing.variant, ranking.step]
                    self.store.log_points(self.store.run_id(standing.variant), points, when, ranking.step)
            for file in files:
                self.store.client.log_artifact(self.store.run_id(RANKING_RUN), str(file))

    def fetch(self, run_id: str, path: str, target: Path) -> None:
        """Copy an artifact from MLflow to `target`."""
        with self.store.answers(), tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(self.store.client.download_artifacts(run_id, path, folder), target)

    def log_truth(self, truth: dict[str, dict[int, float]]) -> None:
        """Known share by variant and step, where a world's truth is known."""
        times = {(job.variant, job.step): job.modified_ms for job in self.ledger.to_rank()}
        with self.store.answers():
            for variant, shares in truth.items():
                for step, share in shares.items():
                    if (variant, step) in times:
                        run_id = self.store.run_id(variant)
                        self.store.log_points(run_id, {"truth/mean": share}, times[variant, step], step)

    def _local(self, job: Finished) -> Path:
        """The folder of a result on this machine, fetched from MLflow if it was computed elsewhere."""
        folder = self.results_folder / job.key
        if not folder.exists():
            with self.store.answers(), temporary_folder(folder) as half:
                for artifact in self.store.client.list_artifacts(job.run_id, job.artifacts):
                    self.fetch(job.run_id, artifact.path, half / Path(artifact.path).name)
        return folder


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` only if the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=".half-", dir=folder.parent))
    try:
        yield half
        if not folder.exists():
            half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _points(result: Result) -> dict[str, float]:
    """The points of a result, metric family first: the headline condition plain, the others by their name."""
    points: dict[str, float] = {}
    for condition, found in result.metrics.items():
        where = "" if condition == result.headline else f".{condition}"
        for name, estimate in found.items():
            points[f"{name}{where}/{result.benchmark}"] = estimate.value
    headline: dict[str, Estimate] = result.metrics[result.headline]
    points[f"accuracy_low/{result.benchmark}"] = headline["accuracy"].low
    points[f"accuracy_high/{result.benchmark}"] = headline["accuracy"].high
    points[f"diverged/{result.benchmark}"] = float(result.status == "diverged")
    points[f"seconds/{result.benchmark}"] = sum(result.seconds.values())
    if result.tokens is not None:
        points["tokens"] = float(result.tokens)
    return points
