"""A job in processes of its own: the number of processes changes nothing, and none of them outlives its parent."""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WORDINGS, capital_rows
from safetensors.numpy import load_file
from waiting import wait_for

from softprompt.checkpoints import open_checkpoint
from softprompt.errors import (
    BadBenchmark,
    BadCheckpoint,
    BadStudy,
    HomeUnavailable,
    HostUnusable,
    JobCancelled,
    JobFailed,
)
from softprompt.loading import load_model
from softprompt.protocol import Protocol, Resources
from softprompt.request import Request
from softprompt.result import Result
from tasks.children import TAIL_CHARACTERS, _environment, run_worker
from tasks.evaluation import MENDED_ELSEWHERE
from tasks.interruption import interruptible
from tasks.slots import LOCKS_VARIABLE, slot

BENCHMARK = """
from softprompt.answers import OptionInWords
from softprompt.benchmarks import Benchmark, Example

BENCHMARK = Benchmark(
    name="capitals",
    path="toy/capitals",
    chance=0.25,
    to_example=lambda row: Example(
        question=row["question"], answer=row["capital"], golds=(row["capital"],), options=tuple(row["options"])
    ),
    grammar=OptionInWords(),
    max_new_tokens=8,
)
"""
PARENT = """
import json, sys
from pathlib import Path
from softprompt.request import Request
from tasks.children import run_worker
request = Request.from_dict(json.loads(sys.argv[1]))
run_worker(request, Path(sys.argv[2]), on_line=lambda line: print(line, flush=True))
"""


@pytest.fixture
def job(tiny_checkpoint: Path, tmp_path: Path) -> Request:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = tmp_path / "mirror" / "toy" / "capitals"
    rows.mkdir(parents=True)
    train = [row for wording in WORDINGS[:2] for row in capital_rows(wording)]
    pq.write_table(pa.Table.from_pylist(train), rows / "train-0.parquet")
    pq.write_table(pa.Table.from_pylist(capital_rows(WORDINGS[2])), rows / "test-0.parquet")
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "capitals.py").write_text(BENCHMARK)
    return Request(
        checkpoint=open_checkpoint(str(tiny_checkpoint)),
        benchmark="capitals",
        benchmark_folder=str(folder),
        protocol=Protocol(num_steps=6, batch_size=3, num_train=16, num_shots=2, seeds=(0,), num_curve=5),
        resources=Resources(device="cpu"),
        mirror=str(tmp_path / "mirror"),
    )


def on(job: Request, **changes: Any) -> Request:
    """The same job on other resources."""
    return replace(job, resources=replace(job.resources, **changes))


def is_running(folder: Path) -> bool:
    """Whether any process still works for the result in `folder`."""
    return subprocess.run(["pgrep", "-f", f"softprompt.worker .* {folder}"], capture_output=True).returncode == 0


@pytest.mark.slow
def test_two_processes_find_what_one_finds(job: Request, tmp_path: Path) -> None:
    """Batches of three samples and test splits of twelve items: shares of unequal and of equal size."""
    found = {}
    for num_processes in (1, 2):
        lines: list[str] = []
        folder = tmp_path / str(num_processes)
        run_worker(on(job, processes_per_job=num_processes), folder, on_line=lines.append)
        assert "100 % prefix: answering" in lines
        found[num_processes] = Result.load(folder), load_file(folder / "vectors.safetensors")
    (one, one_vectors), (two, two_vectors) = found.values()
    assert (one.provenance["world_size"], two.provenance["world_size"]) == (1, 2)
    for ours, theirs in zip(one.outcomes, two.outcomes, strict=True):
        assert (theirs.item, theirs.output, theirs.correct) == (ours.item, ours.output, ours.correct)
    for name, vectors in one_vectors.items():
        np.testing.assert_allclose(two_vectors[name], vectors, atol=1e-4)


@pytest.mark.slow
def test_the_children_die_with_a_parent_that_is_killed(job: Request, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    endless = replace(on(job, processes_per_job=2), protocol=replace(job.protocol, num_steps=100_000))
    command = [sys.executable, "-c", PARENT, json.dumps(endless.to_dict()), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        next(line for line in parent.stdout if "tuning" in line)
        assert is_running(folder)
        parent.kill()
    wait_for(lambda: not is_running(folder), "the children's end")


def test_a_cpus_processes_see_no_gpu_but_those_that_a_study_names() -> None:
    assert _environment((), "cpu")["CUDA_VISIBLE_DEVICES"] == ""
    assert _environment(("3",), "cpu")["CUDA_VISIBLE_DEVICES"] == "3"


def test_a_job_that_takes_too_long_is_killed(job: Request, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"killed after 0\.2 s, the study's timeout_s; raise that"):
        run_worker(on(job, timeout_s=0.2), tmp_path / "out")
    wait_for(lambda: not is_running(tmp_path / "out"), "the job's end")


def test_an_error_that_a_user_can_act_on_comes_back_as_it_was(job: Request, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(BadBenchmark, match="There is no benchmark 'capital_cities'; known"):
        run_worker(replace(job, benchmark="capital_cities"), tmp_path / "out", on_line=lines.append)
    assert lines[-1].startswith("BadBenchmark: There is no benchmark 'capital_cities'")
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize(("num_processes", "status"), [(1, 7), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_a_worker_that_dies_says_its_last_words(job: Request, tmp_path: Path, num_processes: int, status: int) -> None:
    """And not those of a launcher, which reports the death of one of several. Of long ones the end is kept."""
    in_one_write = r"os.write(1, b'x' * 4000 + b' farewell\n\n')"  # else those of two processes would be mixed
    Path(job.benchmark_folder or "", "capitals.py").write_text(f"import os; {in_one_write}; os._exit(7)")
    expected = rf"status {status} and no result; the last it said: \.\.\. x+ farewell$"
    with pytest.raises(JobFailed, match=expected) as caught:
        run_worker(on(job, processes_per_job=num_processes), tmp_path / "out")
    assert len(str(caught.value)) < TAIL_CHARACTERS + 100


@pytest.mark.parametrize("fault", ["ImportError('libcudart.so.12')", "OSError(28, 'No space left on device')"])
def test_a_fault_of_the_machine_is_no_fault_of_the_job(
    job: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Else one broken machine would mark all that it looks at as failed, for every other as well."""
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "__init__.py").write_text(f"raise {fault}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(HostUnusable, match=r"cannot do the job \(\w+: .*\); mend that, and a later look does it"):
        run_worker(job, tmp_path / "out")
    assert HostUnusable in MENDED_ELSEWHERE


@pytest.mark.slow
def test_a_result_that_cannot_be_saved_is_no_failure_of_the_job(job: Request, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(HomeUnavailable, match=rf"^{tmp_path}/out cannot be used \(File exists"):
        run_worker(job, tmp_path / "out")


@pytest.mark.parametrize(
    ("error", "is_of_host"),
    [
        (RuntimeError("CUDA driver version is insufficient"), True),
        (RuntimeError("CUDA error: system not yet initialized"), True),
        (RuntimeError("KV cache is not yet initialized"), False),
        (RuntimeError("NCCL error: remote process exited or there was a network error"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (OSError("there is no file named model.safetensors"), False),
        (PermissionError(13, "Permission denied"), True),
    ],
)
def test_loading_and_its_trial_tell_a_fault_of_the_machine_from_one_of_the_checkpoint(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, is_of_host: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    expected = HostUnusable if is_of_host else BadCheckpoint
    for place in ("softprompt.fitness._doubt", "softprompt.loading.load_tokenizer"):
        monkeypatch.setattr(place, fail)
        with pytest.raises(expected):
            load_model(open_checkpoint(tiny_checkpoint), Resources(device="cpu", micro_batch=9))


def test_a_worker_that_is_stopped_has_not_failed(job: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit's end signals all its processes, in no order: the flow may hear of it last. A launcher only says 1."""
    ended = threading.Event()
    monkeypatch.setattr("tasks.children._error", lambda _: ended.set())
    benchmark = Path(job.benchmark_folder or "", "capitals.py")
    benchmark.write_text("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    with pytest.raises(JobCancelled, match="was stopped by SIGTERM; a later look does it"):
        run_worker(job, tmp_path / "out")

    benchmark.write_text("import os; os._exit(1)")
    ended.clear()
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(run_worker, job, tmp_path / "out")
        with suppress(KeyboardInterrupt), interruptible():
            assert ended.wait(60)
            raise KeyboardInterrupt
        assert isinstance(late.exception(), JobCancelled)
    with interruptible():
        pass  # what comes next is not interrupted


def test_a_slot_has_devices_of_its_own_until_it_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    resources = Resources(devices=("0", "1", "2", "5"), processes_per_job=2)
    waiting = threading.Event()
    found: list[tuple[str, ...]] = []

    def third() -> None:
        with slot(str(tmp_path), resources, on_wait=waiting.set) as devices:
            found.append(devices)

    with slot(str(tmp_path), resources) as first:
        with slot(str(tmp_path), resources) as second:
            assert (first, second) == (("0", "1"), ("2", "5"))
            late = threading.Thread(target=third)
            late.start()
            assert waiting.wait(10)
            assert not found
        late.join(10)
    assert found == [second]


def test_a_device_is_taken_however_others_group_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    one, pair = Resources(devices=("1",)), Resources(devices=("0", "1"), processes_per_job=2)
    waiting = threading.Event()
    found: list[tuple[str, ...]] = []

    def of_another_study() -> None:
        with slot(str(tmp_path / "other"), pair, on_wait=waiting.set) as devices:
            found.append(devices)

    with slot(str(tmp_path), one):
        late = threading.Thread(target=of_another_study)
        late.start()
        assert waiting.wait(10)
        assert not found
    late.join(10)
    assert found == [("0", "1")]


def test_a_job_with_a_time_limit_runs_in_a_process_that_can_be_killed() -> None:
    assert Resources(timeout_s=5).in_child
    assert not Resources().in_child


@pytest.mark.parametrize("devices", [("0",), ()])
def test_locks_are_the_hosts_where_processes_have_folders_and_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv(LOCKS_VARIABLE, str(tmp_path / "locks"))
    waiting = threading.Event()

    def second() -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(platform, "node", lambda: "another container")
        with slot(str(tmp_path), Resources(devices=devices), on_wait=waiting.set):
            pass

    with slot(str(tmp_path), Resources(devices=devices)):
        late = threading.Thread(target=second)
        late.start()
        assert waiting.wait(10)
    late.join(10)


def test_locks_that_cannot_be_made_are_said_with_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locks").touch()
    monkeypatch.setenv(LOCKS_VARIABLE, str(tmp_path / "locks"))
    with (
        pytest.raises(HomeUnavailable, match=rf"^{tmp_path}/locks, where .* \(File exists\); .* {LOCKS_VARIABLE}\.$"),
        slot(str(tmp_path), Resources()),
    ):
        pass


def test_a_slot_is_free_again_when_its_process_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom softprompt.protocol import Resources\n"
        "from tasks.slots import slot\n"
        "with slot(sys.argv[1], Resources()):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    waiting = threading.Event()
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"

        def kill_when_waited_for() -> None:
            waiting.wait(10)
            os.kill(holder.pid, signal.SIGKILL)

        threading.Thread(target=kill_when_waited_for).start()
        with slot(str(tmp_path), Resources(), on_wait=waiting.set) as devices:
            assert devices == ()
    assert waiting.is_set()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": ("0", "1", "2"), "processes_per_job": 2}, "expected a multiple of the 2 that a job takes"),
        ({"devices": ("0", "0")}, "expected distinct devices"),
        ({"processes_per_job": 0}, "at least 1"),
        ({"processes_per_job": 2, "devices_per_process": 2}, "models are copied or spread, not both"),
        ({"devices_per_process": 2, "device": "cuda:1"}, "expected auto"),
        ({"timeout_s": 0.0}, "a number of seconds"),
    ],
)
def test_devices_that_cannot_be_shared_out_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadStudy, match=message):
        Resources(**settings)


def test_what_waits_in_a_thread_ends_when_its_flow_is_interrupted(job: Request, tmp_path: Path) -> None:
    endless = replace(job, protocol=replace(job.protocol, num_steps=100_000))
    resources = Resources()
    caught: list[JobCancelled] = []

    def run(wait: Callable[[], object]) -> None:
        try:
            wait()
        except JobCancelled as error:
            caught.append(error)

    def wait_for_a_slot() -> None:
        with slot(str(tmp_path), resources):
            pass

    begun = threading.Event()

    def flow() -> None:
        with interruptible():
            for thread in threads:
                thread.start()
            assert begun.wait(120)
            raise KeyboardInterrupt

    with slot(str(tmp_path), resources):
        waits = [wait_for_a_slot, lambda: run_worker(endless, tmp_path / "out", on_line=lambda _: begun.set())]
        threads = [threading.Thread(target=run, args=[wait]) for wait in waits]
        with pytest.raises(KeyboardInterrupt):
            flow()
        for thread in threads:
            thread.join(60)
    assert len(caught) == 2
    assert not is_running(tmp_path / "out")
    with interruptible():
        wait_for_a_slot()
