"""A process that is killed at any moment of a job, by SIGKILL: nothing is lost and nothing is there twice. More faults:
scripts/faults.py."""

import shutil
import signal
from pathlib import Path

import pytest
from faults import BENCHMARKS, COMPUTED_AGAIN, MOMENTS, Account, one_look
from studies import make_study

from softprompt.study import Study
from tasks.tracking import Tracker

STEPS = range(100, 600, 100)


@pytest.mark.slow
def test_a_process_killed_at_ten_moments_loses_and_doubles_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Ten jobs. Each process dies on the first that is unfinished, at a moment of its own; the last one lives."""
    study_file = make_study(tmp_path, tiny_checkpoint, variants=())
    for step in STEPS:
        shutil.copytree(tiny_checkpoint, tmp_path / "bucket" / "A" / f"step-{step}")
    study_file.write_text(study_file.read_text().replace("settle_s = 0", "settle_s = 0\nlease_s = 1"))
    begun: list[str] = []
    for name, moment in MOMENTS.items():
        status, jobs = one_look(study_file, *moment, "kill")
        assert status == -signal.SIGKILL, name
        begun += jobs
    status, jobs = one_look(study_file)
    assert status == 0
    begun += jobs

    study = Study.read(study_file)
    account = Account.of(study, [("A", step) for step in STEPS])
    assert account.finished == account.points == account.wanted
    store = Tracker(study).store
    for benchmark in BENCHMARKS:
        points = store.client.get_metric_history(store.run_id("A"), f"accuracy/{benchmark}")
        assert len({point.value for point in points}) == 1  # the same weights at every step
    assert {result.status for result in Tracker(study).results()} == {"ok"}
    assert len(begun) == account.wanted.total() + len(COMPUTED_AGAIN)
