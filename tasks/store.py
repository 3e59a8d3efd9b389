"""The study's experiment in MLflow: its runs, its points, and one way to say that MLflow cannot be used."""

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from softprompt.errors import BadStudy, TrackingUnavailable, without_passwords
from softprompt.fingerprints import fingerprint
from softprompt.study import Study
from tasks.claims import claimed

CREATION_PATIENCE_S = 60
RANKING_RUN = "ranking"
"""Name of the run that holds rankings instead of a variant's results; a variant may be called so, too."""
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
        TrackingUnavailable: inside `answers`, if the server does not answer.
        BadStudy: the study's experiment was deleted.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._run_ids: dict[tuple[str, str], str] = {}

    @cached_property
    def client(self) -> Any:
        from mlflow import MlflowClient

        Path(self.study.home).mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self.study.mlflow_uri)

    @cached_property
    def experiment_id(self) -> str:
        """Its name is unique in MLflow, so that of two processes that create it one meets the other's."""
        from mlflow.exceptions import MlflowException

        def find() -> str | None:
            experiment = self.client.get_experiment_by_name(self.study.name)
            if experiment and experiment.lifecycle_stage == "deleted":
                raise BadStudy(
                    f"The MLflow experiment {self.study.name!r} was deleted; restore it by `mlflow experiments restore "
                    f"--experiment-id {experiment.experiment_id}`, or give the study another name."
                )
            return experiment.experiment_id if experiment else None

        is_local = self.study.mlflow_uri.startswith("sqlite:")
        artifacts = (Path(self.study.home) / "mlartifacts").as_uri() if is_local else None
        if there := find():
            return there
        try:
            return self.client.create_experiment(self.study.name, artifact_location=artifacts)
        except MlflowException:
            found = find()  # another process may have made it in between
            if found is None:
                raise
            return found

    @property
    def charts(self) -> str:
        """Where MLflow shows the variants side by side; empty where it is a database that no server shows."""
        server = without_passwords(self.study.mlflow_uri).rstrip("/")
        if not server.startswith("http"):
            return ""
        query = {
            "compareRunsMode": "CHART",
            "orderByKey": "metrics.`accuracy/mean`",
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

    def curve(self, run_id: str, name: str, version: str) -> str:
        """What the points of `name` are called in a run: so, or, where the run began with those of another version of
        it, with the version behind it, since scores of two versions share no curve."""
        tag = f"version/{name}"
        first = self.client.get_run(run_id).data.tags.get(tag)
        if first is None:
            self.client.set_tag(run_id, tag, version)
        return name if first in (None, version) else f"{name}.{version}"

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """A point that is there already, with the same value, time and step, is not doubled by MLflow."""
        from mlflow.entities import Metric

        metrics = [Metric(p.name, p.value, p.when_ms, p.step, model_id=p.model_id) for p in points]
        for start in range(0, len(metrics), 1000):  # the server's limit
            self.client.log_batch(run_id, metrics=metrics[start : start + 1000])

    @contextmanager
    def answers(self) -> Iterator[None]:
        """Turn MLflow's and the network's many complaints into one."""
        import requests
        import sqlalchemy.exc
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            reason = without_passwords(" ".join(str(_cause(error)).split()))[:300]
            remedy = "start it, or correct `tracking_uri` in the study"
            if "Invalid Host header" in reason:
                remedy = "start it with the host of `tracking_uri` among its --allowed-hosts"
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                remedy = "make room on that disk"
            raise TrackingUnavailable(
                f"MLflow at {without_passwords(self.study.mlflow_uri)} cannot be used ({reason}); nothing computed is "
                f"lost: {remedy}, and the same call goes on from here."
            ) from None  # the cause's own text may hold a password

    def _run(self, tag: str, value: str, note: str) -> str:
        """The run with this tag; it is made on first use, by one process at a time, and never ended."""
        if (tag, value) not in self._run_ids:
            found = self._find_run(tag, value)
            if found is None:
                key = fingerprint(["run", tag, value, self.study.protocol.fingerprint])
                with claimed(self, key, patience_s=CREATION_PATIENCE_S):
                    found = self._find_run(tag, value) or self._new_run(tag, value, note)
            if not found.data.params:  # its maker may have died before it wrote them
                settings = self.study.protocol.to_dict().items()
                self.client.log_batch(found.info.run_id, params=[_param(name, value) for name, value in settings])
            self._run_ids[tag, value] = found.info.run_id
        return self._run_ids[tag, value]

    def _find_run(self, tag: str, value: str) -> Any:
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        found = self.client.search_runs(
            [self.experiment_id],
            filter_string=f"tags.{tag} = '{escaped}' AND tags.protocol = '{self.study.protocol.fingerprint}'",
            order_by=["start_time ASC"],
            max_results=1,
        )
        return found[0] if found else None

    def _new_run(self, tag: str, value: str, note: str) -> Any:
        protocol = self.study.protocol.fingerprint
        variants = self.client.search_runs([self.experiment_id], filter_string="tags.variant LIKE '%'")
        is_first = all(run.data.tags["protocol"] == protocol for run in variants)
        tags = {
            tag: value,
            "protocol": protocol,
            "mlflow.runColor": COLOURS[len(variants) % len(COLOURS)],
            "mlflow.note.content": note,
        }
        name = value if is_first else f"{value} ({protocol})"
        return self.client.create_run(self.experiment_id, run_name=name, tags=tags)


def _param(name: str, value: Any) -> Any:
    from mlflow.entities import Param

    return Param(name, ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value))


def _cause(error: BaseException) -> BaseException:
    """Of a connection that failed the innermost error, such as "Connection refused": those around it repeat the address
    and how often it was tried. Any other error itself."""
    from requests import ConnectionError

    chain = [error]
    while deeper := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(deeper)
    return chain[-1] if any(isinstance(each, ConnectionError) for each in chain) else error
