"""One look at a study and all that it finds to do, in a process that dies or waits at a moment of choice:

    python tests/one_look.py STUDY.toml [MODULE:NAME before|after kill|wait]

Prints a line for each job whose computing begins, `failed: ...` for each error that a user can act on and, if it is to
wait, `waiting`; any line on its standard input lets it go on. Prefect's server takes no part.
"""

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from prefect.logging import disable_run_logger

from softprompt.errors import SoftPromptError
from softprompt.result import Job
from softprompt.study import Study
from tasks import evaluation
from tasks.discovery import find_jobs, find_pending


def interrupt(moment: str, when: str, how: str) -> None:
    """The first call of what `moment` names is the one."""
    module, _, path = moment.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    real = getattr(owner, name)

    def interrupted(*arguments: Any, **named: Any) -> Any:
        setattr(owner, name, real)
        if when == "before":
            now(how)
        result = real(*arguments, **named)
        if when == "after":
            now(how)
        return result

    setattr(owner, name, interrupted)


def now(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("waiting", flush=True)
    sys.stdin.readline()


def evaluate(study: Study, job: Job) -> None:
    try:
        evaluation.evaluate_benchmark.fn(study, job)
    except SoftPromptError as error:
        print(f"failed: {error}", flush=True)


def main(study_file: str, *moment: str) -> None:
    study, compute = Study.read(study_file), evaluation.compute

    def counted(study: Study, job: Job, folder: Path, devices: tuple[str, ...]) -> None:
        print(job.checkpoint.variant, job.checkpoint.step, job.benchmark.name, flush=True)
        compute(study, job, folder, devices)

    if moment:
        interrupt(*moment)
    evaluation.compute = counted
    with disable_run_logger():
        for checkpoint in find_pending.fn(study).pending:
            for job in find_jobs.fn(study, checkpoint.uri):
                evaluate(study, job)


if __name__ == "__main__":
    main(*sys.argv[1:])
