"""prefect.yaml on real Prefect and S3 servers with a real worker: by hand, by event and on a schedule."""

import asyncio
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from s3 import S3Bucket, S3Server, free_ports
from studies import make_study
from waiting import wait_for

from softprompt.cache import CACHE_VARIABLE
from softprompt.rows import MIRROR_VARIABLE
from softprompt.study import Study
from tasks.slots import LOCKS_VARIABLE
from tasks.tracking import Tracker

ROOT = Path(__file__).parent.parent
PATIENCE_S = 240
SLOTS = """
[resources]
devices = ["0", "1", "2", "3", "4", "5"]
device = "cpu"
"""
"""More than one, or those who reach for the same job would queue for a slot and never meet at its claim."""


def prefect(*arguments: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Cluster:
    """A Prefect server with the deployments of prefect.yaml and a worker on them."""

    study: Path
    """On S3."""
    environment: dict[str, str]

    @property
    def api(self) -> str:
        return self.environment["PREFECT_API_URL"]

    def flow_runs(self, flow: str) -> list[dict[str, Any]]:
        wanted = {"flows": {"name": {"any_": [flow]}}}
        return requests.post(f"{self.api}/flow_runs/filter", json=wanted, timeout=60).json()

    def num_runs(self, flow: str, *states: str) -> int:
        return sum(run["state_type"] in states for run in self.flow_runs(flow))

    def prefect(self, *arguments: str) -> str:
        return prefect(*arguments, environment=self.environment)

    def finished(self) -> list[tuple[int, str]]:
        jobs = Tracker(Study.read(self.study)).ledger.finished().values()
        return sorted((job.step, job.benchmark) for job in jobs)


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> Iterator[S3Bucket]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        yield s3_server.new_place()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, bucket: S3Bucket) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    study = make_study(folder / "study")
    study.write_text(study.read_text().replace('bucket = "bucket"', f'bucket = "{bucket.url}"') + SLOTS)
    (port,) = free_ports(1)
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        "SOFTPROMPT_CHECKOUT": str(ROOT),
        "SOFTPROMPT_STUDY": str(study),
    }
    processes = []

    def start(*arguments: str) -> None:
        with (folder / f"{arguments[0]}.log").open("w") as output:
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
        yield Cluster(study, environment)
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


WAITS_FOR_GO = """
import os, time
from pathlib import Path

def waiting(row, example=to_example):
    with (Path(__file__).parent / "computed_by").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    while not (Path(__file__).parent / "go").exists():
        time.sleep(0.1)
    return example(row)

BENCHMARK = dataclasses.replace(BENCHMARK, to_example=waiting)
"""


@pytest.mark.slow
def test_a_checkpoint_named_by_hand_by_event_and_by_schedule_at_once_has_one_result(
    cluster: Cluster, bucket: S3Bucket, tiny_checkpoint: Path
) -> None:
    """Whoever claims the jobs first is held up until all three are there."""
    own = cluster.study.parent / "own"
    (own / "sums.py").write_text("import dataclasses\n" + (own / "sums.py").read_text() + WAITS_FOR_GO)
    uri = bucket.upload(tiny_checkpoint, "A/step-100")
    cluster.prefect("deployment", "schedule", "create", "watch-checkpoints/scheduled", "--interval", "30")
    cluster.prefect("deployment", "run", "evaluate-checkpoint/by-hand", "-p", f"checkpoint={uri}")
    announce = [sys.executable, "-m", "flows.cli", "announce", uri]
    subprocess.run(announce, cwd=ROOT, env=cluster.environment, check=True, timeout=PATIENCE_S)
    wait_for(lambda: cluster.num_runs("evaluate-checkpoint", "RUNNING", "COMPLETED") >= 2, "event and hand")
    wait_for(lambda: cluster.num_runs("watch-checkpoints", "RUNNING", "COMPLETED") >= 1, "the schedule")
    wait_for((own / "computed_by").exists, "the first claim")
    assert cluster.finished() in ([], [(100, "capitals")])
    (own / "go").touch()
    wait_for(lambda: cluster.num_runs("evaluate-checkpoint", "COMPLETED") >= 2, "the end of event and hand")
    wait_for(lambda: cluster.num_runs("watch-checkpoints", "COMPLETED") >= 1, "the end of the schedule's run")
    cluster.prefect("deployment", "schedule", "clear", "watch-checkpoints/scheduled", "--accept-yes")

    assert cluster.finished() == [(100, "capitals"), (100, "sums")]
    assert len(set((own / "computed_by").read_text().split())) == 1
    store = Tracker(Study.read(cluster.study)).store
    for benchmark in ("capitals", "sums"):
        assert len(store.client.get_metric_history(store.run_id("A"), f"accuracy/{benchmark}")) == 1


@pytest.fixture
def told(cluster: Cluster, tmp_path: Path) -> Iterator[list[str]]:
    """What comes to the team's address by deployments/notify.yaml."""
    messages: list[str] = []

    class Address(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["text"])
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Address) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        save = [sys.executable, "-c", SAVE_BLOCK, f"http://127.0.0.1:{server.server_port}"]
        block = subprocess.run(save, env=cluster.environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        file = tmp_path / "notify.yaml"
        file.write_text((ROOT / "deployments" / "notify.yaml").read_text().replace("BLOCK_ID", block.strip()))
        cluster.prefect("automation", "create", "--from-file", str(file))
        yield messages
        server.shutdown()


SAVE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock

block = CustomWebhookNotificationBlock(name="team", url=sys.argv[1], json_data={"text": "{{subject}} | {{body}}"})
print(block.save("team"))
"""


@pytest.mark.slow
def test_a_back_fill_and_a_ranking_by_hand_and_what_is_told(
    cluster: Cluster, bucket: S3Bucket, tiny_checkpoint: Path, told: list[str]
) -> None:
    bucket.upload(tiny_checkpoint, "B/step-300")
    steps = ("-p", "first_step=300", "-p", "last_step=300")
    cluster.prefect("deployment", "run", "backfill-checkpoints/by-hand", *steps, "--watch")
    assert [job for job in cluster.finished() if job[0] == 300] == [(300, "capitals"), (300, "sums")]
    wait_for(lambda: told, "word of the order")
    assert told[0].startswith("toy at step 300: B | ")
    cluster.prefect("deployment", "run", "rank-variants/by-hand", "--watch")

    missing = f"{bucket.url}/F/step-100"
    cluster.prefect("deployment", "run", "evaluate-checkpoint/by-hand", "-p", f"checkpoint={missing}")
    wait_for(lambda: len(told) > 1, "word of the failure")
    assert told[1].startswith(f"evaluate-checkpoint Failed: {missing} | ")
    assert len(told) == 2  # of an order that is known, nothing


@pytest.mark.slow
def test_a_run_that_is_cancelled_ends_its_processes_and_its_claim(
    cluster: Cluster, bucket: S3Bucket, tiny_checkpoint: Path
) -> None:
    uri = bucket.upload(tiny_checkpoint, "C/step-100")
    endless = cluster.study.with_name("endless.toml")
    text = re.sub(r"num_steps = \d+", "num_steps = 1000000", cluster.study.read_text())
    endless.write_text(text.replace('name = "toy"', 'name = "endless"'))
    study = Study.read(endless)
    parameters = ("-p", f"checkpoint={uri}", "-p", f"study={endless}")
    cluster.prefect("deployment", "run", "evaluate-checkpoint/by-hand", *parameters)

    def claims() -> list[str]:
        store = Tracker(study).store
        return [tag for tag in store.client.get_experiment(store.experiment_id).tags if tag.startswith("claim.")]

    def num_children() -> int:
        found = subprocess.run(["pgrep", "-fc", f"softprompt.worker .* {study.home}/"], capture_output=True, text=True)
        return int(found.stdout)

    wait_for(lambda: num_children() == 2, "a process for each benchmark")
    assert len(claims()) == 2
    (run,) = (run for run in cluster.flow_runs("evaluate-checkpoint") if run["parameters"]["study"] == str(endless))
    cluster.prefect("flow-run", "cancel", run["id"])
    wait_for(lambda: not num_children(), "the end of the processes")
    wait_for(lambda: cluster.num_runs("evaluate-checkpoint", "CANCELLED") == 1, "the end of the run")
    assert claims() == []
    assert Tracker(study).ledger.finished() == {}  # a cancelled job has not failed


@pytest.mark.slow
def test_a_server_takes_the_work_pool_templates(cluster: Cluster) -> None:
    for kind in ("docker", "kubernetes"):
        template = ("--base-job-template", f"deployments/{kind}.json")
        cluster.prefect("work-pool", "create", kind, "--type", kind, *template)


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


@pytest.mark.parametrize("missing", ["SOFTPROMPT_CHECKOUT", "SOFTPROMPT_STUDY"])
def test_nothing_is_deployed_without_a_variable(missing: str) -> None:
    (step,) = yaml.safe_load((ROOT / "prefect.yaml").read_text())["build"]
    ((function, inputs),) = step.items()
    module, name = function.rsplit(".", 1)
    given = {"SOFTPROMPT_CHECKOUT": "/opt/softprompt", "SOFTPROMPT_STUDY": "/srv/study.toml"}
    run = partial(getattr(importlib.import_module(module), name), **inputs)
    asyncio.run(run(env=given))
    with pytest.raises(RuntimeError, match=f"{missing}: is not set"):
        asyncio.run(run(env={**given, missing: ""}))


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
    own = {name for name in names if name.startswith("SOFTPROMPT_")}
    read = {LOCKS_VARIABLE, CACHE_VARIABLE, MIRROR_VARIABLE}
    assert own == {*read, *re.findall(r"SOFTPROMPT_\w+", (ROOT / "prefect.yaml").read_text())}
