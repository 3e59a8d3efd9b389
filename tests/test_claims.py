"""Claims on a real MLflow store: a job is computed by one process at a time."""

import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from recorded import job, log, points
from studies import recorded_result

import tasks.evaluation
import tasks.store
from softprompt.errors import BadCheckpoint, TrackingUnavailable
from softprompt.result import Job
from softprompt.study import Study
from tasks.claims import Claim, claimed
from tasks.evaluation import evaluate_and_log
from tasks.store import Store
from tasks.tracking import Tracker


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


def test_what_was_given_up_while_mlflow_was_away_is_no_longer_in_the_way(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the process that gave it up; to others it may be alive until its lease has ended."""
    from mlflow import MlflowClient

    def away(*_: object) -> None:
        raise ConnectionError("MLflow is away.")

    with monkeypatch.context() as patched, claimed(Store(study), "key", patience_s=0) as is_mine:
        assert is_mine
        patched.setattr(MlflowClient, "delete_experiment_tag", away)
    assert len(Claim(Store(study), "key").others()) == 0
    with claimed(Store(study), "key", patience_s=0) as is_mine:
        assert is_mine


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


def test_a_late_failure_leaves_what_another_process_finished(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = job(study)

    def compute(*_: object) -> None:
        log(study, mine)
        shutil.rmtree(f"{study.home}/results")
        raise BadCheckpoint("Its weights are NaN.")

    monkeypatch.setattr(tasks.evaluation, "compute", compute)
    with pytest.raises(BadCheckpoint):
        evaluate_and_log(Tracker(study), mine)
    assert [entry.status for entry in Tracker(study).ledger.finished().values()] == ["done"]


def test_who_cannot_be_alone_makes_no_run(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.store, "CREATION_S", 0)
    store = Store(study)
    with store.alone("run", "variant", "A"), pytest.raises(TrackingUnavailable, match="still making run variant A"):
        Store(study).run_id("A")
    assert store.active_runs() == set()
