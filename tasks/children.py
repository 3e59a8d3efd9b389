"""A job in child processes of its own, so that it can be killed and sees its own devices only."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from softprompt import errors
from softprompt.request import ERROR_SUFFIX, Request
from tasks.interruption import check_interrupted, sleep

TAIL_LINES = 30
TAIL_CHARACTERS = 2000
"""Of the last words in an error, which every look repeats."""
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What systemd, Slurm or a terminal sends to all processes of a unit; a child may end by it before its flow knows."""
SECONDS_UNTIL_A_STOP_IS_KNOWN = 3.0
"""To the flow, where a launcher was stopped, which says 1 as for a failure."""
LAUNCHERS_REPORT = "torch/distributed/elastic/multiprocessing"
"""In the first line of what a launcher says of a process that failed: forty lines below the reason itself."""


def run_worker(
    request: Request,
    folder: Path,
    *,
    devices: Sequence[str] = (),
    on_line: Callable[[str], None] = lambda _line: None,
) -> None:
    """Run `softprompt.worker`, by `accelerate launch` if there is more than one process, and wait for it.

    The children die with this process, however it dies: they watch a pipe that only it holds open.

    Raises:
        JobFailed: it ended without a result, or took longer than its resources' `timeout_s`.
        JobCancelled: its flow was cancelled, or the process stopped.
        SoftPromptError: what the worker itself raised.
    """
    num_processes, timeout_s = request.resources.processes_per_job, request.resources.timeout_s
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "request.json"
        file.write_text(json.dumps(request.to_dict()))
        child = subprocess.Popen(
            [*_launcher(num_processes), "-m", "softprompt.worker", str(file), str(folder), "--while-stdin-is-open"],
            env=_environment(devices, request.resources.device),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            tail = _follow(child, timeout_s, on_line)
        finally:
            _end(child)
        if child.returncode:
            if error := _error(file.with_suffix(ERROR_SUFFIX)):
                raise error
            if -child.returncode in STOPS:
                raise errors.JobCancelled(
                    f"The job's process was stopped by {signal.Signals(-child.returncode).name}; a later look does it."
                )
            sleep(SECONDS_UNTIL_A_STOP_IS_KNOWN)
            raise errors.JobFailed(
                f"The job's process ended with status {child.returncode} and no result; the last it said: {_last(tail)}"
            )


def _launcher(num_processes: int) -> list[str]:
    if num_processes == 1:
        return [sys.executable]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    options = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return [*launch, "--num_processes", str(num_processes), *options]


def _environment(devices: Sequence[str], device: str) -> dict[str, str]:
    """The parent's, with only these devices in sight. Where none is named, a CPU's processes see no GPU, or they would
    talk to one another through GPUs."""
    place = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices or device == "cpu" else {}
    return {**os.environ, "PYTHONUNBUFFERED": "1", **place}


def _follow(child: subprocess.Popen[str], timeout_s: float | None, on_line: Callable[[str], None]) -> deque[str]:
    """Pass on what the child prints until it ends; returns the last lines, those of the launcher left out."""
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(child, lines), daemon=True).start()
    deadline = time.monotonic() + timeout_s if timeout_s else None
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    is_childs = True
    while True:
        if deadline and time.monotonic() > deadline:
            raise errors.JobFailed(
                f"The job was killed after {timeout_s:g} s, the study's timeout_s; raise that, or processes_per_job."
            )
        check_interrupted()
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            continue
        if line is None:
            child.wait()
            return tail
        is_childs = is_childs and LAUNCHERS_REPORT not in line
        if is_childs and line:
            tail.append(line)
        on_line(line)


def _last(words: Iterable[str]) -> str:
    said = " | ".join(words)
    return said if len(said) <= TAIL_CHARACTERS else f"... {said[-TAIL_CHARACTERS:]}"


def _read(child: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    assert child.stdout
    with child.stdout:
        for line in child.stdout:
            lines.put(line.rstrip())
    lines.put(None)


def _end(child: subprocess.Popen[str]) -> None:
    """Kill the child, and by closing their standard input all that it started; nothing happens if it has ended."""
    assert child.stdin
    child.stdin.close()
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _error(file: Path) -> errors.SoftPromptError | None:
    """What the worker left behind if it met an error that a user can act on."""
    if not file.exists():
        return None
    name, message = json.loads(file.read_text())
    kind: type[errors.SoftPromptError] = getattr(errors, name)
    return kind(message)
