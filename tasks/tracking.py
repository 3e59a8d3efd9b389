"""What is logged to MLflow, and read back to be ranked.

One run per variant and protocol holds its metrics along the training step, family first (`accuracy/<benchmark>`), and
the results' files. All that is logged for a job can be logged twice without a trace, because a point's time is the
checkpoint's.
"""

import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from softprompt.checkpoints import Checkpoint
from softprompt.cost import GB
from softprompt.errors import LostResult, SoftPromptError
from softprompt.files import remove_whole, temporary_folder, write_whole
from softprompt.ranking import Ranking, Standing
from softprompt.result import RESULT_FILE, Job, Result, is_saved
from softprompt.study import Study
from tasks.ledger import Finished, Ledger, artifact_folder
from tasks.store import Point, Store

FAILED_TAG = "failed/"
"""Of a variant's run, with a benchmark's name: what failed there last. For readers; the ledger is what counts."""
RANKED_TAG = "ranked"
"""Of the run of the rankings: on which basis the published one rests, see `Ledger.basis`. Written last."""
ORDER_TAG = "order"
"""Of the same run: the variants' order that was last made known, see `Ranking.order`."""


class Tracker:
    """A study's results in MLflow.

    Raises:
        TrackingUnavailable: from every method, if the server does not answer.
        HomeUnavailable: from every method, if the study's home cannot be used.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.store = Store(study)
        self.ledger = Ledger(self.store)
        self.results_folder = study.results_folder

    @property
    def charts(self) -> str:
        """Address of MLflow's page with the variants side by side, if a server shows it."""
        with self.store.answers():
            return self.store.charts

    def log(self, job: Job, folder: Path) -> None:
        """Log a saved result and then, last, that its job is done. A checkpoint's LoggedModel carries its headline
        only: with all metrics it would take MLflow minutes to list ten thousand of them."""
        start = time.perf_counter()
        checkpoint = job.checkpoint
        artifacts = artifact_folder(job.benchmark.name, checkpoint.step, job.key)
        with self.store.answers():
            result = Result.load(folder, with_items=False)
            # Points say what a first try of this would have said: its seconds may stand in the folder already.
            result = replace(result, cost=result.cost.with_seconds("log", 0.0))
            run_id = self.store.run_id(result.variant)
            self.store.client.log_artifacts(run_id, str(folder), artifacts)
            model_id = self.ledger.model_id(job, run_id)
            curve = self.store.curve(job.benchmark.name, job.benchmark.fingerprint)
            self.store.log_points(run_id, _points(result, curve, checkpoint, model_id))
            result = replace(result, cost=result.cost.with_seconds("log", time.perf_counter() - start))
            summary = write_whole(folder / RESULT_FILE, result.to_json())
            self.store.client.log_artifact(run_id, str(summary), artifacts)
            tag = FAILED_TAG + job.benchmark.name
            if self.store.client.get_run(run_id).data.tags.get(tag, "").startswith(f"step {checkpoint.step}:"):
                self.store.client.delete_tag(run_id, tag)
            self.ledger.finish(job, "done", run_id=run_id, seconds=result.cost.seconds)

    def log_failure(self, job: Job, error: SoftPromptError) -> None:
        """Note that a job cannot be done as its inputs stand, so that no later look tries it again."""
        with self.store.answers():
            run_id = self.store.run_id(job.checkpoint.variant)
            self.store.client.set_tag(run_id, FAILED_TAG + job.benchmark.name, f"step {job.checkpoint.step}: {error}")
            self.ledger.finish(job, "failed", run_id=run_id, error=str(error))

    def results(self, jobs: Iterable[Finished] | None = None, *, condition: str | None = None) -> list[Result]:
        """Results of `jobs` (default: all that can be ranked) with per-item outcomes (default: of all conditions)."""
        jobs = self.ledger.to_rank() if jobs is None else jobs
        ordered = sorted(jobs, key=lambda job: (job.variant, job.step, job.benchmark))
        return [Result.load(self._local(job), condition=condition) for job in ordered]

    def log_rankings(self, rankings: Sequence[Ranking], jobs: Iterable[Finished]) -> None:
        """Each variant's mean and rank along the training step, at the time of the newest checkpoint of that step: of
        two rankings at one step MLflow shows the later one."""
        times: dict[int, int] = defaultdict(int)
        for job in jobs:
            times[job.step] = max(times[job.step], job.modified_ms)
        standings: dict[str, list[tuple[int, Standing]]] = defaultdict(list)
        for ranking in rankings:
            for standing in ranking.standings:
                standings[standing.variant].append((ranking.step, standing))
        with self.store.answers():
            curve = self.store.mean_curve
            for variant, its in standings.items():
                self.store.log_points(
                    self.store.run_id(variant),
                    [
                        Point(f"{name}/{curve}", value, times[step], step)
                        for step, standing in its
                        for name, value in _of_all_benchmarks(standing).items()
                    ],
                )

    def log_ranking_files(self, files: Iterable[Path]) -> None:
        with self.store.answers():
            for file in files:
                self.store.client.log_artifact(self.store.ranking_run_id, str(file))

    def ranking_tag(self, name: str) -> str:
        """What the run of the rankings says under `RANKED_TAG` or `ORDER_TAG`; empty if nothing yet."""
        with self.store.answers():
            return self.store.client.get_run(self.store.ranking_run_id).data.tags.get(name, "")

    def tag_ranking(self, name: str, value: str) -> None:
        with self.store.answers():
            self.store.client.set_tag(self.store.ranking_run_id, name, value)

    def fetch(self, run_id: str, path: str, target: Path) -> None:
        """Copy an artifact from MLflow to `target`."""
        with self.store.answers(), tempfile.TemporaryDirectory(dir=target.parent) as folder:
            shutil.copyfile(self.store.client.download_artifacts(run_id, path, folder), target)

    def log_truth(self, truth: dict[str, dict[int, float]]) -> None:
        """Known share by variant and step, where a world's truth is known."""
        times = {(job.variant, job.step): job.modified_ms for job in self.ledger.to_rank()}
        with self.store.answers():
            for variant, shares in truth.items():
                for step, share in shares.items():
                    if (variant, step) in times:
                        run_id = self.store.run_id(variant)
                        self.store.log_points(run_id, [Point("truth/mean", share, times[variant, step], step)])

    def _local(self, job: Finished) -> Path:
        """The folder of a result on this machine, fetched from MLflow if it is not whole there."""
        folder = self.results_folder / job.key
        if not is_saved(folder):
            with self.store.answers():
                remove_whole(folder)
                with temporary_folder(folder) as half:
                    self._fetch_result(job, half)
        return folder

    def _fetch_result(self, job: Finished, folder: Path) -> None:
        for artifact in self.store.client.list_artifacts(job.run_id, job.artifacts):
            self.fetch(job.run_id, artifact.path, folder / Path(artifact.path).name)
        if not is_saved(folder):
            raise LostResult(
                f"MLflow's run {job.run_id} holds no whole result at {job.artifacts}, though the job is done; bring "
                "its artifacts back, or delete the checkpoint's LoggedModel, and ledger.json at home, to have it "
                "evaluated again."
            )


def _of_all_benchmarks(standing: Standing) -> dict[str, float]:
    return {
        "accuracy": sum(standing.accuracy.values()) / len(standing.accuracy),
        "chance_centred_accuracy": standing.score,
        "rank": float(standing.rank),
    }


def _points(result: Result, curve: str, checkpoint: Checkpoint, model_id: str) -> list[Point]:
    """The points of a result, metric family first, the headline condition plain, the others by their name; `curve` is
    the benchmark's name, see `Store.curve`."""
    values: dict[str, float] = {}
    for condition, found in result.metrics.items():
        where = "" if condition == result.headline else f".{condition}"
        values |= {f"{name}{where}": estimate.value for name, estimate in found.items()}
    accuracy = result.metrics[result.headline]["accuracy"]
    values |= {
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "diverged": float(result.status == "diverged"),
        "recall_lost": float(result.loss_of_recall(result.headline) is not None),
        "seconds": result.cost.seconds,
        "peak_gb": result.cost.peak_bytes / GB,
    }
    if (share := result.cost.matrix_share()) is not None:
        values["matrix_share"] = share
    on_model = ("accuracy", "format_following")
    when, step = checkpoint.modified_ms, checkpoint.step
    points = [
        Point(f"{name}/{curve}", value, when, step, model_id if name in on_model else None)
        for name, value in values.items()
    ]
    return points if result.tokens is None else [*points, Point("tokens", float(result.tokens), when, step)]
