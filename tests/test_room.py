"""Room for a job: on a host's devices, and within the limit that counts a cluster's."""

import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from httpx import ConnectError
from prefect.client.orchestration import PrefectClient, SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.logging import disable_run_logger
from studies import make_study
from waiting import wait_for

from flows.watch_checkpoints import watch_checkpoints
from softprompt.study import Study
from tasks.evaluation import room_for_a_job
from tasks.retries import PrefectUnavailable
from tasks.tracking import Tracker

pytestmark = pytest.mark.usefixtures("prefect_api")


def test_jobs_on_named_devices_run_in_processes_that_see_only_theirs(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Two benchmarks on two devices; their rows are read where the job runs."""
    study = make_study(tmp_path, tiny_checkpoint)
    study.write_text(study.read_text() + '\n[resources]\ndevices = ["3", "5"]\ndevice = "cpu"\n')
    for benchmark in (tmp_path / "own").glob("*.py"):
        note = f"import os; open({str(tmp_path / 'seen')!r}, 'a').write(os.environ['CUDA_VISIBLE_DEVICES'] + '\\n')"
        benchmark.write_text(
            benchmark.read_text() + f"\nimport sys\nif 'softprompt.worker' in ' '.join(sys.orig_argv):\n    {note}\n"
        )
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert sorted((tmp_path / "seen").read_text().split()) == ["3", "5"]
    assert len(Tracker(Study.read(study)).results()) == 2


def test_a_concurrency_limit_that_prefect_lacks_is_named_with_its_remedy(
    tmp_path: Path, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = make_study(tmp_path, tiny_checkpoint)
    study.write_text(study.read_text() + '\n[resources]\nconcurrency_limit = "gpus"\n')
    assert watch_checkpoints(str(study), return_state=True).is_failed()
    assert "`prefect gcl create gpus --limit NUMBER_OF_GPUS`" in caplog.text
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="gpus", limit=1))
    assert watch_checkpoints(str(study), return_state=True).is_completed()


def test_a_prefect_that_grants_no_limit_is_named_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.read(make_study(tmp_path))
    limited = replace(study, resources=replace(study.resources, concurrency_limit="gpus"))

    def refuse(*_: object, **__: object) -> None:
        raise ConnectError("Connection refused")

    monkeypatch.setattr(PrefectClient, "increment_concurrency_slots_with_lease", refuse)
    with (
        disable_run_logger(),
        pytest.raises(PrefectUnavailable, match=r"has not granted its limit 'gpus' .*ConnectError.*; start Prefect"),
        room_for_a_job(limited),
    ):
        pass


def test_a_job_goes_on_when_prefects_server_forgets_that_it_holds_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that starts anew has no leases; here the one there is ends before it is renewed."""
    study = Study.read(make_study(tmp_path))
    limited = replace(study, resources=replace(study.resources, concurrency_limit="forgotten"))
    renew = SyncPrefectClient.renew_concurrency_lease

    def forget(self: SyncPrefectClient, lease_id: UUID, lease_duration: float) -> None:
        self.release_concurrency_slots_with_lease(lease_id)
        renew(self, lease_id, lease_duration)

    monkeypatch.setattr(SyncPrefectClient, "renew_concurrency_lease", forget)
    monkeypatch.setattr("prefect.concurrency._leases._RENEWAL_RETRY_BASE_DELAY", 0)
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="forgotten", limit=1))
    with disable_run_logger(), room_for_a_job(limited):
        wait_for(lambda: "failed after 3 attempts" in caplog.text, "the lease's end", timeout_s=30)
        time.sleep(0.5)  # whoever is cancelled is so by now
