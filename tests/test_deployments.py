"""prefect.yaml on a real Prefect server with a real worker: by hand and by event, one result."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import yaml
from studies import make_study

from softprompt.study import Study
from tasks.tracking import Tracker

ROOT = Path(__file__).parent.parent
PATIENCE_S = 240


def prefect(*arguments: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(1)


def num_completed(api: str, flow: str) -> int:
    wanted = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    return int(requests.post(f"{api}/flow_runs/count", json=wanted, timeout=30).json())


@pytest.fixture
def cluster(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """(study, environment) of a server with the deployments of prefect.yaml and a worker on them."""
    study = make_study(tmp_path / "study", tiny_checkpoint)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        "SOFTPROMPT_HOME": str(ROOT),
        "SOFTPROMPT_STUDY": str(study),
    }
    processes = []

    def start(*arguments: str) -> None:
        with (tmp_path / f"{arguments[0]}.log").open("w") as output:
            command = [sys.executable, "-m", "prefect", *arguments]
            processes.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
                )
            )

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        start("server", "start", "--port", str(port))
        wait_for(listens, "the Prefect server")
        prefect("work-pool", "create", "softprompt", "--type", "process", environment=environment)
        prefect("deploy", "--all", "--no-prompt", environment=environment)
        start("worker", "start", "--pool", "softprompt")
        yield study, environment
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_a_checkpoint_named_by_hand_and_by_event_has_one_result(cluster: tuple[Path, dict[str, str]]) -> None:
    study, environment = cluster
    checkpoint = study.parent / "bucket" / "A" / "step-100"
    prefect(
        *("deployment", "run", "evaluate-checkpoint/by-hand", "-p", f"checkpoint={checkpoint}", "--watch"),
        environment=environment,
    )
    results = Tracker(Study.read(study)).results()
    assert [(r.variant, r.step, r.benchmark) for r in results] == [("A", 100, "capitals"), ("A", 100, "sums")]

    emit = (
        "from prefect.events import emit_event\n"
        "emit_event('checkpoint.ready', {'prefect.resource.id': 'softprompt.checkpoint.A-100'},"
        f" payload={{'uri': {str(checkpoint)!r}}})"
    )
    subprocess.run([sys.executable, "-c", emit], env=environment, check=True, timeout=PATIENCE_S)

    def completed() -> bool:
        return num_completed(environment["PREFECT_API_URL"], "evaluate-checkpoint") == 2

    wait_for(completed, "the run that the event starts")
    assert Tracker(Study.read(study)).results() == results
    assert len(Tracker(Study.read(study)).ledger.finished()) == 2


def test_every_deployment_names_a_flow_that_exists() -> None:
    import importlib

    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert len(declared["deployments"]) == 4
    for deployment in declared["deployments"]:
        file, name = deployment["entrypoint"].split(":")
        flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
        assert set(deployment["parameters"]) <= set(flow.parameters.properties)
