"""Claims and the ledger on a real MLflow store: a job is computed by one process and finished once."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from studies import make_study, recorded_result

import tasks.evaluation
from softprompt.checkpoints import Checkpoint
from softprompt.errors import BadStudy, SoftPromptError, TrackingUnavailable
from softprompt.result import Job, Result
from softprompt.study import Study
from tasks.claims import Claim, claimed
from tasks.evaluation import evaluate_and_log
from tasks.ledger import Ledger
from tasks.rankings import PastRankings, rank_at
from tasks.store import Store
from tasks.tracking import Tracker


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return replace(Study.read(make_study(tmp_path)), lease_s=2)


def job(study: Study, variant: str = "A", step: int = 100, weights: str = "first", benchmark: str = "sums") -> Job:
    checkpoint = Checkpoint(
        uri=f"{study.bucket}/{variant}/step-{step}",
        variant=variant,
        step=step,
        fingerprint=f"{variant}-{step}-{weights}",
        modified_ms={"first": 1_000_000, "second": 2_000_000}[weights],
    )
    return Job(checkpoint, study.benchmark(benchmark), study.protocol)


def log(study: Study, *jobs: Job) -> None:
    tracker = Tracker(study)
    for each in jobs:
        tracker.log(each, recorded_result(each).save(tracker.results_folder / each.key))


def log_rankings(study: Study) -> PastRankings:
    tracker = Tracker(study)
    past = PastRankings(tracker, tracker.ledger.to_rank())
    tracker.log_rankings(past.new, tracker.ledger.to_rank())
    tracker.log_ranking_files([past.save()])
    return past


def points(study: Study, variant: str, metric: str) -> list[Any]:
    store = Store(study)
    return store.client.get_metric_history(store.run_id(variant), metric)


def test_of_many_claimants_at_once_one_holds_a_key_at_any_time(study: Study) -> None:
    holders, most, wins = [0], [0], []
    start = threading.Barrier(6)
    counting = threading.Lock()

    def contend(name: int) -> None:
        store = Store(study)
        start.wait()
        for _ in range(3):
            with claimed(store, "key", patience_s=0) as is_mine:
                if is_mine:
                    with counting:
                        holders[0] += 1
                        most[0] = max(most[0], holders[0])
                        wins.append(name)
                    time.sleep(0.05)
                    with counting:
                        holders[0] -= 1

    Store(study).experiment_id  # noqa: B018 (made before the race)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(contend, range(6)))
    assert most == [1]
    assert wins
    assert Claim(Store(study), "key").others() == []


def test_of_two_that_claim_at_the_same_moment_one_wins(study: Study) -> None:
    meet = threading.Barrier(2)

    def take(claim: Claim) -> bool:
        look, num_looks = claim.others, [0]

        def others() -> list[str]:
            num_looks[0] += 1
            if num_looks[0] > 2:
                return look()
            meet.wait()  # both look before either writes, and both write before either looks again
            return [] if num_looks[0] == 1 else look()

        claim.others = others  # type: ignore[method-assign]
        return claim.take()

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(take, [Claim(Store(study), "key") for _ in range(2)])) == [False, True]


def test_a_claim_is_kept_alive_for_as_long_as_the_work_takes(study: Study) -> None:
    with claimed(Store(study), "key", patience_s=0) as is_mine:
        assert is_mine
        time.sleep(2 * study.lease_s)
        with claimed(Store(study), "key", patience_s=0) as is_mine_too:
            assert not is_mine_too


def test_the_claim_of_a_killed_process_ends_with_its_lease(study: Study, tmp_path: Path) -> None:
    code = (
        "import sys, time; from dataclasses import replace; from softprompt.study import Study\n"
        "from tasks.claims import claimed; from tasks.store import Store\n"
        "with claimed(Store(replace(Study.read(sys.argv[1]), lease_s=5)), 'key', patience_s=0) as is_mine:\n"
        "    print(is_mine, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "study.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "True\n"
        holder.kill()
    with claimed(Store(study), "key", patience_s=0) as is_mine:
        assert not is_mine
    with claimed(Store(study), "key", patience_s=60) as is_mine:
        assert is_mine
    store = Store(study)
    assert not [tag for tag in store.client.get_experiment(store.experiment_id).tags if tag.startswith("claim.")]


def test_of_two_that_computed_the_same_job_the_first_result_stands(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is wrong may take a live claim for a dead one."""
    mine = job(study)

    def compute(_study: Study, _job: Job, folder: Path, _devices: object) -> None:
        recorded_result(mine, accuracy=0.25).save(folder)
        elsewhere = replace(study, home=f"{study.home}-elsewhere", tracking_uri=study.mlflow_uri)
        log(elsewhere, mine)

    monkeypatch.setattr(tasks.evaluation, "compute", compute)
    evaluate_and_log(Tracker(study), mine)
    (result,) = Tracker(study).results()
    assert result.metrics["cue"]["accuracy"].value == 0.5
    assert [point.value for point in points(study, "A", "accuracy/sums")] == [0.5]


def test_writers_that_start_together_share_a_run_per_variant_and_a_model_per_checkpoint(study: Study) -> None:
    jobs = [job(study, benchmark=name, step=step) for name in study.benchmarks for step in (100, 200)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: log(study, each), jobs))
    store = Store(study)
    assert len(store.client.search_runs([store.experiment_id])) == 1
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
    entries = Tracker(study).ledger.finished()
    assert entries[newer.key].superseded_by == ""
    assert entries[job(study).key].superseded_by == newer.checkpoint.fingerprint
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


def test_scores_of_two_protocols_share_no_curve(study: Study) -> None:
    """A team edits the protocol of a study that has results."""
    edited = replace(study, protocol=replace(study.protocol, num_steps=study.protocol.num_steps + 1))
    for each in (study, edited, edited):
        log(each, *(job(each, benchmark=name) for name in study.benchmarks))
        log_rankings(each)
    client, runs = Store(study).client, [Store(each).run_id("A") for each in (study, edited)]
    assert Store(study).ranking_run_id != Store(edited).ranking_run_id
    shown = client.search_runs([Store(edited).experiment_id], filter_string=Store(edited).variants)
    assert [run.info.run_id for run in shown] == runs[1:]
    first, second = map(client.get_run, runs)
    assert (first.info.run_name, second.info.run_name) == ("A", f"A ({edited.protocol.fingerprint})")
    assert [run.data.params["num_steps"] for run in (first, second)] == ["2", "3"]
    assert first.data.params.keys() == study.protocol.to_dict().keys()
    for run in (first, second):
        assert {"accuracy/sums", "accuracy/mean", "rank/mean"} <= run.data.metrics.keys()
        for name in run.data.metrics:
            assert len(client.get_metric_history(run.info.run_id, name)) == 1


def test_scores_of_two_versions_of_a_benchmark_share_no_curve(study: Study) -> None:
    """A team edits a benchmark of its own; the mean of the benchmarks is another one then, too."""
    log(study, *(job(study, benchmark=name) for name in study.benchmarks))
    log_rankings(study)
    own = Path(study.benchmark_folder or "", "sums.py")
    own.write_text(own.read_text().replace("max_new_tokens=4", "max_new_tokens=5"))
    edited = replace(study)
    log(edited, job(edited))
    log_rankings(edited)
    version = edited.benchmark("sums").fingerprint
    found = Store(study).client.get_run(Store(study).run_id("A")).data.metrics
    assert {"accuracy/sums", f"accuracy/sums.{version}", "accuracy/capitals", "accuracy/mean"} <= found.keys()
    assert len([name for name in found if name.startswith("rank/mean")]) == 2
    assert [name for name in found if len(points(study, "A", name)) != 1] == []


def test_a_variant_may_be_called_like_the_run_of_the_rankings(study: Study) -> None:
    log(study, *(job(study, "ranking", benchmark=name) for name in study.benchmarks))
    log_rankings(study)
    store = Store(study)
    assert points(study, "ranking", "accuracy/sums")
    held = [
        {file.path for file in store.client.list_artifacts(i)} for i in (store.run_id("ranking"), store.ranking_run_id)
    ]
    assert held == [{"results"}, {"rankings.json"}]


def test_a_ranking_opens_the_results_of_its_step_and_remembers_what_others_said(study: Study) -> None:
    log(study, *(job(study, variant, benchmark=name) for variant in "AB" for name in study.benchmarks))
    first = log_rankings(study)
    assert [ranking.step for ranking in first.new] == [100]

    shutil.rmtree(f"{study.home}/results")
    shutil.rmtree(f"{study.home}/mlartifacts/{Store(study).run_id('A')}")  # step 100 can no longer be opened
    log(study, *(job(study, "A", step=200, benchmark=name) for name in study.benchmarks))
    jobs = Tracker(study).ledger.to_rank()
    assert [ranking.step for ranking in log_rankings(study).new] == [200]
    assert rank_at(Tracker(study), jobs, step=200)[0].incomplete == {"B": ("capitals", "sums")}
    assert points(study, "A", "rank/mean")[0].step == 100

    Path(study.home, "rankings.json").unlink()  # MLflow has it as well
    again = log_rankings(study)
    assert again.new == []
    assert again.rankings[0] == first.rankings[0]
    with pytest.raises(BadStudy, match=r"no results at step 150; there are at 100, 200"):
        rank_at(Tracker(study), jobs, step=150)
    with pytest.raises(BadStudy, match=r"There is no condition 'nonsense' in these results; there are cue"):
        rank_at(Tracker(study), jobs, step=200, condition="nonsense")


def test_a_variant_whose_jobs_failed_stands_in_the_ranking_and_its_error_in_mlflow(study: Study) -> None:
    def fail(*jobs: Job, error: str) -> None:
        for each in jobs:
            Tracker(study).log_failure(each, SoftPromptError(error))

    def notes(**how: Any) -> tuple[str, ...]:
        tracker = Tracker(study)
        return rank_at(tracker, *tracker.ledger.done_and_failed(), **how)[0].notes

    def tags(variant: str) -> dict[str, str]:
        store = Store(study)
        found = store.client.get_run(store.run_id(variant)).data.tags
        return {name: value for name, value in found.items() if name.startswith("failed")}

    both = [job(study, "F", benchmark=name) for name in study.benchmarks]
    fail(*both, error="Its weights are NaN.")
    with pytest.raises(
        BadStudy, match=r"no results to rank yet: F failed at step 100 on capitals, sums: Its wei.* NaN\.$"
    ):
        notes()
    log(study, *(job(study, "A", step=step, benchmark=name) for step in (100, 200) for name in study.benchmarks))
    failed = "F failed at step 100 on capitals, sums: Its weights are NaN"
    assert notes() == (failed,)
    tracker = Tracker(study)
    ranking, _ = rank_at(tracker, *tracker.ledger.done_and_failed())
    assert ranking.incomplete == {"F": ("capitals", "sums")}
    assert tags("F") == dict.fromkeys(("failed/capitals", "failed/sums"), "step 100: Its weights are NaN.")

    fail(job(study, "A", step=300), error="Killed.")
    assert notes() == ("A failed at step 300 on sums: Killed", failed)
    fail(job(study, "A", step=100, weights="second"), error="Killed.")  # older than the ranked step
    log(study, job(study, "A", step=300))  # tried again by hand
    assert notes() == (failed,)
    log(study, *(job(study, "F", weights="second", benchmark=name) for name in study.benchmarks))
    assert notes(step=200) == ()
    assert tags("F") == {}


def test_an_experiment_that_was_deleted_is_said_with_its_remedy(study: Study) -> None:
    store = Store(study)
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(BadStudy, match=rf"was deleted; restore it by `mlflow .* {store.experiment_id}`, or give"):
        Tracker(study).ledger.finished()


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
        deadline = time.monotonic() + 240
        while requests_fail(f"{self.uri}/health"):
            assert time.monotonic() < deadline, "waited 240 s for the MLflow server"
            time.sleep(0.5)

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
