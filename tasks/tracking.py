"""What the product keeps in MLflow, and how it is asked.

One experiment per study; one run per variant, reopened and left running, with metrics along the training step, family
first (`accuracy/<benchmark>`); one LoggedModel per checkpoint, which carries the same metrics and a tag per finished
job, `job.<key>`. That tag is written last and is the only ledger: without it a job is not done. All else that is
logged for a job can be logged twice without a trace, because a point's time is the checkpoint's.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from softprompt.errors import SoftPromptError, TrackingUnavailable
from softprompt.metrics import Estimate
from softprompt.ranking import Ranking
from softprompt.result import Job, Result
from softprompt.study import Study

JOB_TAG = "job."
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's palette, told apart by colour-blind readers as well."""

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


@dataclass(frozen=True)
class Finished:
    """A job that needs no work: done, or failed in a way that will not change by itself."""

    key: str
    status: str
    variant: str
    step: int
    benchmark: str
    protocol: str
    modified_ms: int
    run_id: str = ""
    error: str = ""

    @property
    def artifact_path(self) -> str:
        return f"results/{self.benchmark}/step-{self.step}-{self.key}"


class Tracker:
    """The study's experiment in MLflow.

    Raises:
        TrackingUnavailable: from every method, if the server does not answer.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.results_folder = Path(study.home) / "results"
        self._run_ids: dict[str, str] = {}

    def finished(self) -> dict[str, Finished]:
        """All finished jobs of the experiment by key, those of other protocols included."""
        return {
            key: Finished(key=key, **json.loads(value))
            for model in self._models()
            for tag, value in model.tags.items()
            if (key := tag.removeprefix(JOB_TAG)) != tag
        }

    def log(self, job: Job, folder: Path) -> None:
        """Log a saved result and then, last, that its job is done."""
        result = Result.load(folder, with_items=False)
        with self._answers():
            run_id = self._run_id(result.variant)
            entry = self._entry(job, "done", run_id=run_id)
            self._client.log_artifacts(run_id, str(folder), entry.artifact_path)
            model = self._model(job, run_id)
            self._log_points(run_id, _metrics(result), job.checkpoint.modified_ms, job.checkpoint.step, model.model_id)
            self._finish(model.model_id, entry)

    def log_failure(self, job: Job, error: SoftPromptError) -> None:
        """Note that a job cannot be done as its inputs stand, so that no later look tries it again."""
        with self._answers():
            run_id = self._run_id(job.checkpoint.variant)
            model = self._model(job, run_id)
            self._finish(model.model_id, self._entry(job, "failed", run_id=run_id, error=str(error)))

    def results(self, *, with_items: bool = True) -> list[Result]:
        """Results of the study's own protocol; of a checkpoint that was overwritten, only the newer."""
        newest: dict[tuple[str, int, str], Finished] = {}
        for job in sorted(self.finished().values(), key=lambda job: job.modified_ms):
            if job.status == "done" and job.protocol == self.study.protocol.fingerprint:
                newest[job.variant, job.step, job.benchmark] = job
        return [Result.load(self._local(job), with_items=with_items) for _, job in sorted(newest.items())]

    def log_ranking(self, rankings: Sequence[Ranking], files: Iterable[Path]) -> None:
        """Each variant's mean and rank along the training step; the ranking's files in a run of their own."""
        times = {(job.variant, job.step): job.modified_ms for job in self.finished().values()}
        with self._answers():
            for ranking in rankings:
                for standing in ranking.standings:
                    points = {
                        "accuracy/mean": sum(standing.accuracy.values()) / len(standing.accuracy),
                        "chance_centred_accuracy/mean": standing.score,
                        "rank": float(standing.rank),
                    }
                    when = times[standing.variant, ranking.step]
                    self._log_points(self._run_id(standing.variant), points, when, ranking.step)
            run_id = self._run_id("ranking")
            for file in files:
                self._client.log_artifact(run_id, str(file))

    def log_truth(self, truth: dict[str, dict[int, float]]) -> None:
        """Known share by variant and step, where a world's truth is known."""
        times = {(job.variant, job.step): job.modified_ms for job in self.finished().values()}
        with self._answers():
            for variant, shares in truth.items():
                for step, share in shares.items():
                    if (variant, step) in times:
                        self._log_points(self._run_id(variant), {"truth/mean": share}, times[variant, step], step)

    def _entry(self, job: Job, status: str, *, run_id: str, error: str = "") -> Finished:
        return Finished(
            key=job.key,
            status=status,
            variant=job.checkpoint.variant,
            step=job.checkpoint.step,
            benchmark=job.benchmark.name,
            protocol=job.protocol.fingerprint,
            modified_ms=job.checkpoint.modified_ms,
            run_id=run_id,
            error=error,
        )

    def _finish(self, model_id: str, entry: Finished) -> None:
        values = {name: value for name, value in vars(entry).items() if name != "key"}
        self._client.set_logged_model_tags(model_id, {JOB_TAG + entry.key: json.dumps(values)})

    def _local(self, job: Finished) -> Path:
        """The folder of a result on this machine, fetched from MLflow if it was computed elsewhere."""
        folder = self.results_folder / job.key
        if not folder.exists():
            with self._answers(), temporary_folder(folder) as half:
                for artifact in self._client.list_artifacts(job.run_id, job.artifact_path):
                    file = Path(self._client.download_artifacts(job.run_id, artifact.path))
                    shutil.copyfile(file, half / file.name)
        return folder

    @cached_property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        Path(self.study.home).mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self.study.mlflow_uri)

    @cached_property
    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        def find() -> str | None:
            experiment = self._client.get_experiment_by_name(self.study.name)
            return experiment.experiment_id if experiment else None

        is_local = self.study.mlflow_uri.startswith("sqlite:")
        artifacts = (Path(self.study.home) / "mlartifacts").as_uri() if is_local else None
        try:
            return find() or self._client.create_experiment(self.study.name, artifact_location=artifacts)
        except MlflowException:
            found = find()  # another process may have made it in between
            if found is None:
                raise
            return found

    def _run_id(self, variant: str) -> str:
        """The variant's run; it is made on first use and never ended."""
        if variant not in self._run_ids:
            name = variant.replace("\\", "\\\\").replace("'", "\\'")
            found = self._client.search_runs(
                [self._experiment_id], filter_string=f"tags.variant = '{name}'", max_results=1
            )
            self._run_ids[variant] = (found[0] if found else self._new_run(variant)).info.run_id
        return self._run_ids[variant]

    def _new_run(self, variant: str) -> Any:
        number = len(self._client.search_runs([self._experiment_id], filter_string="tags.variant != 'ranking'"))
        tags = {
            "variant": variant,
            "mlflow.runColor": COLOURS[number % len(COLOURS)],
            "protocol": self.study.protocol.fingerprint,
        }
        return self._client.create_run(self._experiment_id, run_name=variant, tags=tags)

    def _model(self, job: Job, run_id: str) -> Any:
        """The checkpoint's LoggedModel; it is made on first use."""
        checkpoint = job.checkpoint
        for model in self._models(f"tags.fingerprint = '{checkpoint.fingerprint}'"):
            if model.tags.get("protocol") == job.protocol.fingerprint:
                return model
        return self._client.create_logged_model(
            self._experiment_id,
            name=_plain_name(f"{checkpoint.variant}-step-{checkpoint.step}"),
            source_run_id=run_id,
            tags={"fingerprint": checkpoint.fingerprint, "protocol": job.protocol.fingerprint, "uri": checkpoint.uri},
            params={"variant": checkpoint.variant, "step": str(checkpoint.step)},
        )

    def _models(self, filter_string: str | None = None) -> Iterator[Any]:
        token = None
        while True:
            with self._answers():
                page = self._client.search_logged_models(
                    [self._experiment_id], filter_string=filter_string, max_results=100, page_token=token
                )
            yield from page
            token = page.token
            if not token:
                return

    def _log_points(
        self, run_id: str, points: dict[str, float], when_ms: int, step: int, model_id: str | None = None
    ) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, when_ms, step, model_id=model_id) for name, value in points.items()]
        for start in range(0, len(metrics), 1000):  # the server's limit
            self._client.log_batch(run_id, metrics=metrics[start : start + 1000])

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Turn MLflow's and the network's many complaints into one."""
        import requests
        import sqlalchemy.exc
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            reason = _without_passwords(" ".join(str(error).split()))[:300]
            raise TrackingUnavailable(
                f"MLflow at {_without_passwords(self.study.mlflow_uri)} cannot be used ({reason}); nothing computed is "
                "lost: start it, or correct `tracking_uri` in the study, and the same call goes on from here."
            ) from None  # the cause's own text may hold a password


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


def _metrics(result: Result) -> dict[str, float]:
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


def _plain_name(text: str) -> str:
    """A LoggedModel's name may not hold these characters."""
    return "".join("_" if char in "/:.%\"'" else char for char in text)


def _without_passwords(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//***@", text)
