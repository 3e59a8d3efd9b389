"""prefect.yaml on real Prefect and S3 servers with a real worker: by hand, by event and on a schedule."""

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from s3 import S3Bucket
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
def cluster(tmp_path: Path, s3: S3Bucket) -> Iterator[tuple[Path, dict[str, str]]]:
    """(study, environment) of a server with the deployments of prefect.yaml and a worker on them."""
    study = make_study(tmp_path / "study")
    study.write_text(study.read_text().replace('bucket = "bucket"', f'bucket = "{s3.url}"'))
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
def test_a_checkpoint_named_by_hand_by_event_and_by_schedule_has_one_result(
    cluster: tuple[Path, dict[str, str]], s3: S3Bucket, tiny_checkpoint: Path
) -> None:
    study, environment = cluster
    api = environment["PREFECT_API_URL"]
    uri = s3.upload(tiny_checkpoint, "A/step-100")

    def finished() -> set[tuple[int, str]]:
        return {(job.step, job.benchmark) for job in Tracker(Study.read(study)).ledger.finished().values()}

    by_hand = ("deployment", "run", "evaluate-checkpoint/by-hand", "-p", f"checkpoint={uri}", "--watch")
    prefect(*by_hand, environment=environment)
    results = Tracker(Study.read(study)).results()
    assert [(r.variant, r.step, r.benchmark) for r in results] == [("A", 100, "capitals"), ("A", 100, "sums")]

    announce = [sys.executable, "-m", "flows.cli", "announce", uri]
    subprocess.run(announce, cwd=ROOT, env=environment, check=True, timeout=PATIENCE_S)
    wait_for(lambda: num_completed(api, "evaluate-checkpoint") == 2, "the run that the event starts")
    assert Tracker(Study.read(study)).results() == results

    s3.upload(tiny_checkpoint, "A/step-200")
    every_half_minute = ("schedule", "create", "watch-checkpoints/scheduled", "--interval", "30")
    prefect("deployment", *every_half_minute, environment=environment)
    wait_for(lambda: num_completed(api, "watch-checkpoints") > 0, "a run that the schedule starts")
    assert finished() == {(step, benchmark) for step in (100, 200) for benchmark in ("capitals", "sums")}
    kept = [result for result in Tracker(Study.read(study)).results() if result.step == 100]
    assert kept == results

    s3.upload(tiny_checkpoint, "A/step-300")
    steps = ("-p", "first_step=300", "-p", "last_step=300")
    prefect("deployment", "run", "backfill-checkpoints/by-hand", *steps, "--watch", environment=environment)
    wait_for(lambda: {step for step, _ in finished()} == {100, 200, 300}, "the third step, by whom it may be")

    for kind in ("docker", "kubernetes"):
        template = ("--base-job-template", f"deployments/{kind}.json")
        prefect("work-pool", "create", kind, "--type", kind, *template, environment=environment)


def declared_deployments() -> dict[str, dict[str, Any]]:
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    return {f"{each['entrypoint'].split(':')[1]}/{each['name']}": each for each in declared["deployments"]}


def test_the_deployments_are_those_that_are_documented() -> None:
    assert declared_deployments().keys() == {
        "watch_checkpoints/scheduled",
        "evaluate_checkpoint/on-event",
        "evaluate_checkpoint/by-hand",
        "backfill_checkpoints/by-hand",
        "rank_variants/by-hand",
    }
    guide = (ROOT / "docs" / "deploying.md").read_text()
    for name in declared_deployments():
        assert name.replace("_", "-") in guide


@pytest.mark.parametrize("name", declared_deployments())
def test_a_deployments_parameters_are_those_of_its_flow(name: str) -> None:
    deployment = declared_deployments()[name]
    file, function = deployment["entrypoint"].split(":")
    flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), function)
    given = [deployment["parameters"], *(trigger["parameters"] for trigger in deployment.get("triggers", []))]
    assert all(parameters.keys() <= flow.parameters.properties.keys() for parameters in given)
    if deployment.get("triggers") or deployment.get("schedules"):  # nobody is there to add one
        assert set(flow.parameters.required) <= set().union(*given)


def test_an_announcement_is_what_the_trigger_waits_for() -> None:
    from tasks.announcing import EVENT, RESOURCE

    (trigger,) = declared_deployments()["evaluate_checkpoint/on-event"]["triggers"]
    assert trigger["expect"] == [EVENT]
    assert trigger["match"] == {"prefect.resource.id": f"{RESOURCE}*"}


@pytest.mark.parametrize(("collection", "kind"), [("prefect-docker", "docker"), ("prefect-kubernetes", "kubernetes")])
def test_a_work_pool_template_says_nothing_that_its_worker_does_not_know(collection: str, kind: str) -> None:
    import prefect as package

    known_to = Path(package.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
    known = json.loads(known_to.read_text())[collection][kind]["default_base_job_configuration"]
    template = json.loads((ROOT / "deployments" / f"{kind}.json").read_text())
    assert template["job_configuration"].keys() == known["job_configuration"].keys()
    named = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert named == template["variables"]["properties"].keys()


def test_the_image_is_made_of_what_there_is() -> None:
    containerfile = (ROOT / "deployments" / "Containerfile").read_text()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", containerfile, re.M) for name in line.split()}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_example_environment_sets_what_is_read() -> None:
    import prefect.settings

    text = (ROOT / "deployments" / "environment.example").read_text()
    names = re.findall(r"^#?([A-Z_]+)=", text, re.M)
    assert all(hasattr(prefect.settings, name) for name in names if name.startswith("PREFECT_"))
    assert {name for name in names if name.startswith("SOFTPROMPT_")} == set(
        re.findall(r"SOFTPROMPT_\w+", (ROOT / "prefect.yaml").read_text())
    )
