"""The study's experiment in MLflow: its runs, its curves and their points."""

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import url2pathname

from softprompt.errors import BadStudy, TrackingUnavailable, without_passwords
from softprompt.fingerprints import fingerprint
from softprompt.study import MEAN, Study
from tasks.claims import claimed
from tasks.complaints import in_sentences

CREATION_S = 60
"""More than it takes to make a run or a LoggedModel."""
NAME_LENGTH = 250
"""Of a run, at most, where MLflow keeps it in PostgreSQL."""
RANKING_RUN = "ranking"
"""Name of the run that holds rankings instead of a variant's results; a variant may be called so, too."""
RUN_TAG = "run"
"""Tag of all runs of a study, which tells them from others in the experiment. Its value is a fingerprint of what the
run is of."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's palette, told apart by colour-blind readers as well."""

NOTE = (
    "One variant's checkpoints along the training step. The run stays open, since more may come. The report and the "
    f"ranking are artifacts of the run `{RANKING_RUN}`."
)
RANKING_NOTE = "The study's report and rankings: its artifacts."

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each try of MLflow's client would be a warning


class Point(NamedTuple):
    """A metric of a run along the training step, and of a LoggedModel as well if that is named."""

    name: str
    value: float
    when_ms: int
    step: int
    model_id: str | None = None


class Store:
    """One experiment per study. In it, for each protocol that the study has had, since scores of two share no curve:
    one run per variant, reopened and left running, and one called `ranking`. See docs/decisions/017-runs.md.

    Raises:
        BadStudy: the study's experiment was deleted.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._run_ids: dict[tuple[str, str], str] = {}
        self._curves: dict[tuple[str, str], str] = {}

    @cached_property
    def client(self) -> Any:
        from mlflow import MlflowClient

        Path(self.study.home).mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self.study.mlflow_uri)

    @cached_property
    def experiment(self) -> Any:
        """Its name is unique in MLflow, so that of two processes that create it one meets the other's."""
        from mlflow.exceptions import MlflowException

        def find() -> Any:
            found = self.client.get_experiment_by_name(self.study.name)
            if found and found.lifecycle_stage == "deleted":
                where = f"MLFLOW_TRACKING_URI={shlex.quote(without_passwords(self.study.mlflow_uri))}"
                raise BadStudy(
                    f"The MLflow experiment {self.study.name!r} was deleted; restore it by `{where} mlflow experiments "
                    f"restore --experiment-id {found.experiment_id}`, or give the study another name."
                )
            return found

        home = Path(self.study.home)
        artifacts = (home / "mlartifacts").as_uri() if self.study.mlflow_uri.startswith("sqlite:") else None
        if (found := find()) is None:
            try:
                self.client.create_experiment(self.study.name, artifact_location=artifacts)
            except MlflowException:
                if find() is None:  # or another process has made it in between
                    raise
            found = find()
        was = Path(url2pathname(urlsplit(found.artifact_location).path))
        if not self.study.tracking_uri and found.artifact_location != artifacts and not was.exists():
            raise BadStudy(
                f"MLflow's store in {home} keeps its files at {was}, where nothing is any more; move it back "
                f"there. Or remove {home}/mlflow.db and {home}/ledger.json: results in {home}/results whose "
                "checkpoints are still in the bucket are logged again, not computed."
            )
        return found

    @property
    def experiment_id(self) -> str:
        return self.experiment.experiment_id

    @property
    def charts(self) -> str:
        """Where MLflow shows the variants side by side; empty where it is a database that no server shows."""
        server = without_passwords(self.study.mlflow_uri).rstrip("/")
        if not server.startswith("http"):
            return ""
        query = {
            "compareRunsMode": "CHART",
            "orderByKey": f"metrics.`accuracy/{self.mean_curve}`",
            "orderByAsc": "false",  # the best variant first
            "searchFilter": self.variants,
        }
        return f"{server}/#/experiments/{self.experiment_id}/runs?{urlencode(query, quote_via=quote)}"

    @property
    def variants(self) -> str:
        """MLflow's filter for the variants' runs under the study's protocol."""
        return f"tags.protocol = '{self.study.protocol.fingerprint}' AND tags.variant LIKE '%'"

    def run_id(self, variant: str) -> str:
        """The variant's run under the study's protocol."""
        return self._run("variant", variant, NOTE)

    @property
    def ranking_run_id(self) -> str:
        """The run that holds what was ranked under the study's protocol."""
        return self._run("holds", RANKING_RUN, RANKING_NOTE)

    def active_runs(self) -> set[str]:
        """Ids of the study's runs that nobody has deleted."""
        found, token = set(), None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], filter_string=f"tags.{RUN_TAG} LIKE '%'", page_token=token
            )
            found |= {run.info.run_id for run in page}
            token = page.token
            if not token:
                return found

    def curve(self, name: str, version: str) -> str:
        """What the points of `name` are called in all runs: so, or, where points of another version of it came first,
        with the version behind it, since scores of two versions share no curve."""
        if (name, version) not in self._curves:
            first = self._first_version(name)
            if first is None:
                with self.alone("curve", name):
                    first = self._first_version(name)
                    if first is None:
                        self.client.set_experiment_tag(self.experiment_id, self._version_tag(name), version)
            self._curves[name, version] = name if first in (None, version) else f"{name}.{version}"
        return self._curves[name, version]

    @property
    def mean_curve(self) -> str:
        """Of the mean of the study's benchmarks as they are now."""
        versions = (self.study.benchmark(name).fingerprint for name in self.study.benchmarks)
        return self.curve(MEAN, fingerprint(sorted(versions)))

    @contextmanager
    def alone(self, *what: str) -> Iterator[None]:
        """Inside the block no other process makes the same under the study's protocol."""
        key = fingerprint([*what, self.study.protocol.fingerprint])
        with claimed(self, key, patience_s=self.study.lease_s + CREATION_S) as is_mine:
            if not is_mine:
                raise TrackingUnavailable(
                    f"Another process is still making {' '.join(what)} in MLflow at "
                    f"{without_passwords(self.study.mlflow_uri)}; nothing computed is lost, and the same call goes on "
                    "from here."
                )
            yield

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """A point that is there already, with the same value, time and step, is not doubled by MLflow."""
        from mlflow.entities import Metric

        metrics = [Metric(p.name, p.value, p.when_ms, p.step, model_id=p.model_id) for p in points]
        for start in range(0, len(metrics), 1000):  # the server's limit
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])

    def answers(self) -> AbstractContextManager[None]:
        """Inside the block, whatever makes the store unusable is raised as one sentence; see `in_sentences`."""
        return in_sentences(self.study)

    def _run(self, tag: str, value: str, note: str) -> str:
        """The run with this tag; it is made on first use, by one process at a time, and never ended."""
        if (tag, value) not in self._run_ids:
            key = fingerprint([tag, value, self.study.protocol.fingerprint])
            found = self._find_run(key)
            if found is None:
                with self.alone("run", tag, value):
                    found = self._find_run(key) or self._new_run(key, tag, value, note)
            if not found.data.params:  # its maker may have died before it wrote them
                settings = self.study.protocol.to_dict().items()
                self.client.log_batch(found.info.run_id, params=[_param(*setting) for setting in settings])
            self._run_ids[tag, value] = found.info.run_id
        return self._run_ids[tag, value]

    def _find_run(self, key: str) -> Any:
        """By a fingerprint, since MLflow's filters take no name with both a quote and a backslash in it."""
        found = self.client.search_runs(
            [self.experiment_id],
            filter_string=f"tags.{RUN_TAG} = '{key}'",
            order_by=["start_time ASC"],
            max_results=1,
        )
        return found[0] if found else None

    def _new_run(self, key: str, tag: str, value: str, note: str) -> Any:
        protocol = self.study.protocol.fingerprint
        runs = self.client.search_runs(
            [self.experiment_id], filter_string=f"tags.{RUN_TAG} LIKE '%'", order_by=["start_time ASC"]
        )
        is_first = not runs or runs[0].data.tags["protocol"] == protocol
        tags = {
            RUN_TAG: key,
            tag: value,
            "protocol": protocol,
            "mlflow.runColor": COLOURS[sum("variant" in run.data.tags for run in runs) % len(COLOURS)],
            "mlflow.note.content": note,
        }
        name = value[:NAME_LENGTH] if is_first else f"{value[: NAME_LENGTH - len(protocol) - 3]} ({protocol})"
        return self.client.create_run(self.experiment_id, run_name=name, tags=tags)

    def _first_version(self, name: str) -> str | None:
        return self.client.get_experiment(self.experiment_id).tags.get(self._version_tag(name))

    def _version_tag(self, name: str) -> str:
        """Of the experiment, since a run may be deleted while others still have such curves."""
        return f"version.{self.study.protocol.fingerprint}.{name}"


def _param(name: str, value: Any) -> Any:
    from mlflow.entities import Param

    return Param(name, ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value))
