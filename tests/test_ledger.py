"""The ledger on a real MLflow store: a job is finished once, whatever dies."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from recorded import job, log, points
from studies import recorded_result
from waiting import wait_for

import tasks.evaluation
from softprompt.errors import TrackingUnavailable
from softprompt.result import Job, Result
from softprompt.study import Study
from tasks.claims import claimed
from tasks.evaluation import evaluate_and_log
from tasks.ledger import Ledger
from tasks.store import Store
from tasks.tracking import Tracker


def test_writers_that_start_together_share_a_run_per_variant_and_a_model_per_checkpoint(study: Study) -> None:
    jobs = [job(study, benchmark=name, step=step) for name in study.benchmarks for step in (100, 200)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: log(study, each), jobs))
    store = Store(study)
    assert len(store.client.search_runs([store.experiment_id], filter_string=store.variants)) == 1
    assert len(store.client.search_logged_models([store.experiment_id])) == 2
    assert Tracker(study).ledger.finished().keys() == {each.key for each in jobs}


def test_the_copy_at_home_decides_nothing(study: Study) -> None:
    log(study, job(study, step=100), job(study, step=200))
    ledger = Tracker(study).ledger
    ledger.store.client.create_logged_model(ledger.store.experiment_id, name="a-model-of-the-team")
    before = ledger.finished()
    assert len(before) == 2
    elsewhere = replace(study, home=f"{study.home}-elsewhere", tracking_uri=study.mlflow_uri)
    log(elsewhere, job(study, step=200, benchmark="capitals"), job(study, step=300))
    now = ledger.finished()
    assert now.keys() - before.keys() == {job(study, step=200, benchmark="capitals").key, job(study, step=300).key}
    for damage in ("", "{", "[]", '{"source": "another study"}'):
        ledger.copy.write_text(damage)
        assert ledger.finished() == now
    ledger.copy.unlink()
    assert Tracker(study).ledger.finished() == now
    assert Tracker(elsewhere).ledger.finished() == now


def test_an_entry_says_what_decides_whether_a_job_is_settled(study: Study) -> None:
    done = job(study)
    log(study, done)
    logged = Result.load(Tracker(study).results_folder / done.key, with_items=False)
    entry = Tracker(study).ledger.finished()[done.key]
    assert entry == Tracker(study).ledger.finished_of(done.checkpoint)[done.key]
    assert (entry.uri, entry.checkpoint) == (done.checkpoint.uri, done.checkpoint.fingerprint)
    assert entry.benchmark_fingerprint == done.benchmark.fingerprint
    assert entry.seconds == pytest.approx(logged.cost.seconds, abs=0.001)
    assert entry.seconds > 3.0  # of the evaluation, which is recorded, and of logging it


def test_a_job_whose_process_died_before_its_entry_is_logged_again_without_a_trace(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    tracker, one = Tracker(study), job(study)
    folder = recorded_result(one).save(tracker.results_folder / one.key)
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            tracker.log(one, folder)
    tracker.log(one, folder)
    run = tracker.store.client.get_run(tracker.store.run_id("A"))
    assert [name for name in run.data.metrics if len(points(study, "A", name)) != 1] == []


@pytest.mark.parametrize("damaged", ["result.json", "items.parquet", "vectors.safetensors"])
def test_a_result_that_is_not_whole_on_this_machine_is_fetched_or_computed_again(
    study: Study, damaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process was killed while it removed one, or the power was lost."""
    tracker, mine, late = Tracker(study), job(study), job(study, step=200)
    log(study, mine)
    before = tracker.results()
    for change in (Path.unlink, lambda file: os.truncate(file, 0)):
        change(tracker.results_folder / mine.key / damaged)
        assert tracker.results() == before

    artifacts = Path(study.home, "mlartifacts")
    artifacts.rename(artifacts.with_name("away"))
    shutil.rmtree(tracker.results_folder)
    with pytest.raises(
        TrackingUnavailable, match=r"holds no whole result at results/sums/step-100-.*; bring its artifa"
    ):
        tracker.results()
    artifacts.with_name("away").rename(artifacts)
    assert tracker.results() == before

    outbox = recorded_result(late).save(tracker.results_folder / late.key)
    os.truncate(outbox / damaged, 0)
    monkeypatch.setattr(tasks.evaluation, "compute", lambda _s, _j, folder, _d: recorded_result(late).save(folder))
    evaluate_and_log(tracker, late)
    assert [result.step for result in tracker.results()] == [100, 200]


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_weights_that_were_written_over_are_superseded_and_not_ranked(study: Study, order: tuple[str, str]) -> None:
    log(study, *(job(study, weights=weights) for weights in order))
    newer = job(study, weights="second")
    assert [entry.key for entry in Tracker(study).ledger.to_rank()] == [newer.key]


@pytest.mark.parametrize("what", ["benchmark", "protocol"])
def test_results_of_another_version_of_the_benchmark_or_protocol_are_not_ranked(study: Study, what: str) -> None:
    old = job(study)
    other = {
        "benchmark": replace(old.benchmark, version=0),
        "protocol": replace(study.protocol, num_steps=study.protocol.num_steps + 1),
    }
    log(study, replace(old, **{what: other[what]}), job(study, benchmark="capitals"))
    assert [entry.benchmark for entry in Tracker(study).ledger.to_rank()] == ["capitals"]


class Server:
    """A real MLflow server that can be stopped and started again, on SQLite or the store that is named."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        store = os.environ.get("SOFTPROMPT_TEST_MLFLOW_STORE") or f"sqlite:///{folder}/mlflow.db"
        self.command = [
            *(sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")),
        ]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.process = subprocess.Popen(
            self.command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: not requests_fail(f"{self.uri}/health"), "the MLflow server")

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def requests_fail(url: str) -> bool:
    try:
        return not requests.get(url, timeout=5).ok
    except requests.RequestException:
        return True


@pytest.mark.slow
def test_an_mlflow_server_that_stops_while_a_result_is_logged_loses_and_doubles_nothing(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server, mine, num_computed = Server(tmp_path), job(study), [0]
    study = replace(study, tracking_uri=server.uri, name=f"stops-{server.port}")

    def compute(_study: Study, _job: Job, folder: Path, _devices: object) -> None:
        num_computed[0] += 1
        recorded_result(mine).save(folder)

    finish = Ledger.finish

    def stop_and_finish(*arguments: Any, **named: Any) -> None:
        server.stop()
        finish(*arguments, **named)

    monkeypatch.setattr(tasks.evaluation, "compute", compute)
    monkeypatch.setattr(Ledger, "finish", stop_and_finish)
    server.start()
    try:
        tracker = Tracker(study)
        with claimed(tracker.store, mine.key, patience_s=0) as is_mine:
            assert is_mine
            with pytest.raises(TrackingUnavailable):
                evaluate_and_log(tracker, mine)
        with pytest.raises(TrackingUnavailable):
            tracker.ledger.finished()

        server.start()
        monkeypatch.setattr(Ledger, "finish", finish)
        assert tracker.ledger.finished() == {}
        with claimed(Tracker(study).store, mine.key, patience_s=60) as is_mine:  # the old claim could not be withdrawn
            assert is_mine
            evaluate_and_log(Tracker(study), mine)
        assert num_computed == [1]
        assert tracker.ledger.finished().keys() == {mine.key}
        assert len(points(study, "A", "accuracy/sums")) == 1
        assert [result.job_key for result in tracker.results()] == [mine.key]
    finally:
        server.stop()


def test_an_entry_that_the_copy_misses_is_found_by_the_look_that_takes_its_checkpoint_for_unfinished(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's clock is set back, so that what it writes from now on seems to be old."""
    log(study, job(study))
    ledger, late = Tracker(study).ledger, job(study, step=200)
    assert ledger.finished().keys() == {job(study).key}
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() - 600)
        log(study, late)
    assert late.key not in ledger.finished()
    ledger.check_copy(ledger.finished_of(job(study).checkpoint))
    assert late.key not in ledger.finished()  # nothing was amiss with the checkpoint that was asked about
    ledger.check_copy(ledger.finished_of(late.checkpoint))
    assert ledger.finished().keys() == {job(study).key, late.key}
