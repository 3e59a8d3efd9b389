"""What Prefect calls the runs of flows that work on a whole study."""

import tomllib
from pathlib import Path

from prefect.runtime import flow_run


def by_study() -> str:
    """The study's name, off its file alone; the file's path where it has none, of which the flow itself complains."""
    file = str(flow_run.parameters["study"])
    try:
        return str(tomllib.loads(Path(file).read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError):
        return file


def by_study_and_steps() -> str:
    return f"{by_study()}, steps {flow_run.parameters['first_step']} to {flow_run.parameters['last_step']}"
