"""A process that is killed at any moment of a job, by SIGKILL: nothing is lost and nothing is there twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from studies import make_study

from softprompt.study import Study
from tasks.tracking import Tracker

STEPS = range(100, 600, 100)
MOMENTS = {
    "before a job is claimed": ("tasks.claims:Claim.take", "before"),
    "when it has been claimed": ("tasks.claims:Claim.take", "after"),
    "before anything is computed": ("softprompt.evaluation:load_model", "before"),
    "between tuning and evaluation": ("softprompt.evaluation:summarise", "before"),
    "when all is computed and nothing saved": ("softprompt.result:Result.save", "before"),
    "when it is saved and does not have its name yet": ("softprompt.result:Result.save", "after"),
    "between computing and logging": ("tasks.tracking:Tracker.log", "before"),
    "in the middle of logging, files there, no metrics": ("tasks.store:Store.log_points", "before"),
    "in the middle of logging, metrics there, no entry": ("tasks.ledger:Ledger.finish", "before"),
    "when it is finished and its claim still held": ("tasks.ledger:Ledger.finish", "after"),
}
COMPUTED_AGAIN = tuple(MOMENTS)[3:6]
"""Computing had begun and nothing was saved under its name."""
CHILD = """
import importlib, os, signal, sys
from prefect.logging import disable_run_logger
from softprompt.study import Study
from tasks.discovery import find_pending, jobs_of
from tasks import evaluation

study, moment, when = Study.read(sys.argv[1]), sys.argv[2], sys.argv[3]
if moment:
    module, _, path = moment.partition(":")
    *owners, name = path.split(".")
    owner = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    real = getattr(owner, name)

    def deadly(*arguments, **named):
        if when == "after":
            real(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, deadly)
compute = evaluation.compute

def counted(study, job, *rest):
    print(job.checkpoint.step, job.benchmark.name, flush=True)
    compute(study, job, *rest)

evaluation.compute = counted
with disable_run_logger():
    for checkpoint in find_pending.fn(study):
        for job in jobs_of(study, checkpoint):
            evaluation.evaluate_benchmark.fn(study, job)
"""


@pytest.mark.slow
def test_a_process_killed_at_ten_moments_loses_and_doubles_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Ten jobs. Each process dies on the first that is unfinished, at a moment of its own; the last one lives."""
    study_file = make_study(tmp_path, tiny_checkpoint, variants=())
    for step in STEPS:
        shutil.copytree(tiny_checkpoint, tmp_path / "bucket" / "A" / f"step-{step}")
    study_file.write_text(study_file.read_text().replace("settle_s = 0", "settle_s = 0\nlease_s = 1"))

    def run(moment: str = "", when: str = "") -> tuple[int, list[str]]:
        """Exit status, and the jobs whose computing began."""
        command = [sys.executable, "-c", CHILD, str(study_file), moment, when]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, env=os.environ, check=False)
        return done.returncode, done.stdout.splitlines()

    begun: list[str] = []
    for name, (moment, when) in MOMENTS.items():
        status, jobs = run(moment, when)
        assert status == -signal.SIGKILL, name
        begun += jobs
    status, jobs = run()
    assert status == 0
    begun += jobs

    study = Study.read(study_file)
    tracker = Tracker(study)
    wanted = {(step, benchmark) for step in STEPS for benchmark in ("capitals", "sums")}
    assert Counter((job.step, job.benchmark) for job in tracker.ledger.finished().values()) == Counter(wanted)
    store = tracker.store
    (run_id,) = {job.run_id for job in tracker.ledger.finished().values()}
    for benchmark in ("capitals", "sums"):
        points = store.client.get_metric_history(run_id, f"accuracy/{benchmark}")
        assert sorted(point.step for point in points) == list(STEPS)
        assert len({point.value for point in points}) == 1  # the same weights at every step
    for result in tracker.results():
        assert json.loads((tracker.results_folder / result.job_key / "result.json").read_text())["status"] == "ok"
    assert len(begun) == len(wanted) + len(COMPUTED_AGAIN) + 1  # one died when it was about to load the model
