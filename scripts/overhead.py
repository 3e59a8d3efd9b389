"""What orchestration adds: one checkpoint on three World benchmarks through the flow, and where its seconds went.

    python scripts/overhead.py --folder build/overhead --out docs/evidence/overhead.md

Three variants are pre-trained for a moment. The first goes through the flow to warm up what is made once (Prefect's
server, MLflow's store, imports); the second is measured. The aim is at most 1 s a benchmark beyond computing, and
`import flows` within 3 s.
"""

import argparse
import datetime
import functools
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from worlds import BENCHMARKS, markdown

STEPS = 20
FLOWS = ("flows.cli", "flows.watch_checkpoints", "flows.evaluate_checkpoint", "flows.rank_variants")
STUDY = f"""
name = "overhead"
bucket = "bucket"
settle_s = 0
benchmarks = {list(BENCHMARKS)}
mirror = "mirror"
home = "home"

[protocol]
num_train = 100
num_test = 40
num_curve = 20
num_steps = 20
seeds = [0]
"""
LAYERS = {
    "computing": ("tasks.evaluation", "compute"),
    "logging to MLflow": ("tasks.tracking", "Tracker.log"),
    "asking MLflow what is finished": ("tasks.evaluation", "is_finished"),
    "claiming the job": ("tasks.claims", "Claim.take"),
    "giving the claim back": ("tasks.claims", "Claim.withdraw"),
    "finding the jobs": ("flows.evaluate_checkpoint", "find_jobs"),
}


def seconds_to_import(module: str) -> list[float]:
    found = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        found.append(time.perf_counter() - start)
    return found


def timed(seconds: dict[str, float], name: str, place: tuple[str, str]) -> None:
    """Have every call of a function add to `seconds[name]`."""
    import importlib

    module, path = place
    owner: Any = importlib.import_module(module)
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function = getattr(owner, attribute)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[name] += time.perf_counter() - start

    setattr(owner, attribute, call)


def measure(folder: Path) -> tuple[float, dict[str, float], float]:
    """Seconds of the second checkpoint's flow, of its layers, and of the first one's flow."""
    command = [sys.executable, "-m", "softprompt.world", str(folder), "--steps", str(STEPS), "--save-every", str(STEPS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (folder / "study.toml").write_text(STUDY)
    from flows.evaluate_checkpoint import evaluate_checkpoint

    def flow(variant: str) -> float:
        start = time.perf_counter()
        checkpoint = str((folder / "bucket" / variant / f"step-{STEPS}").absolute())
        # Without ranking, as the watcher calls it, which ranks once for all checkpoints.
        states = evaluate_checkpoint(str(folder / "study.toml"), checkpoint, rank=False)
        assert [state.name for state in states] == ["Done"] * len(BENCHMARKS), states
        return time.perf_counter() - start

    first = flow("A")
    seconds: dict[str, float] = defaultdict(float)
    for name, place in LAYERS.items():
        timed(seconds, name, place)
    return flow("B"), seconds, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/overhead"), help="must not exist yet")
    parser.add_argument("--out", type=Path, help="write the page here, too")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} is there already; remove it, or name another --folder")
    arguments.folder.mkdir(parents=True)
    os.environ.update(PREFECT_HOME=str((arguments.folder / "prefect").absolute()), DO_NOT_TRACK="true")
    imports = {module: seconds_to_import(module) for module in FLOWS}
    whole, seconds, first = measure(arguments.folder)
    beyond = whole - seconds["computing"]
    seconds["Prefect and the rest"] = whole - sum(seconds.values())
    num = len(BENCHMARKS)
    rows = [[name, f"{spent:.2f}", f"{spent / num:.2f}"] for name, spent in seconds.items()]
    import_rows = [
        [f"`{module}`", f"{statistics.median(its):.2f}", f"{min(its):.2f} to {max(its):.2f}"]
        for module, its in imports.items()
    ]
    load = os.getloadavg()[0]
    page = (
        f"# Overhead\n\n{datetime.date.today()}, `python scripts/overhead.py`, {os.cpu_count()} cores, load "
        f"{load:.1f}, Python {platform.python_version()}.\n\nOne checkpoint on {num} benchmarks through "
        f"`evaluate-checkpoint`, Prefect's own server and MLflow on SQLite: {whole:.1f} s, of which {beyond:.2f} s, "
        f"**{beyond / num:.2f} s a benchmark**, beyond computing. The flow before it, which starts the server and "
        f"makes the store, took {first:.1f} s.\n\n{markdown(['where', 's', 's a benchmark'], rows)}\n\n"
        "Import in a fresh process, five times:\n\n"
        f"{markdown(['module', 's, median', 'range'], import_rows)}\n"
    )
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
