"""How a poll and a ranking hold up as a study grows; writes docs/evidence/scale.md.

    python scripts/scale.py

The checkpoints, of one number each, lie on a real S3 server (SeaweedFS, of the packages of `.[test]`). Nothing is
evaluated: every job gets the same recorded result (200 items, four conditions, three seeds, drawn from a fixed seed)
under its own name. The product logs one checkpoint; its rows in MLflow's SQLite (LoggedModel, tags, params, metrics)
are then copied for all others, because filling MLflow through its API would take hours. The variants' runs hold only
what the product logged itself. Results lie in the study's home for the last steps only, and the rankings of all earlier
steps are given as known, which is how a home looks that has ranked before.

Each measurement is a process of its own: seconds of the call, MLflow already open; peak memory of the whole process.
"""

import argparse
import json
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from aiobotocore.httpsession import AIOHTTPSession
from safetensors.numpy import save

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from s3 import S3Server  # noqa: E402 (its folder is no package)

from softprompt.checkpoints import Checkpoint, discover  # noqa: E402
from softprompt.cost import Cost, Phase  # noqa: E402
from softprompt.metrics import Outcome, summarise  # noqa: E402
from softprompt.protocol import Protocol  # noqa: E402
from softprompt.result import CurvePoint, Result  # noqa: E402
from softprompt.study import Study  # noqa: E402
from tasks.discovery import jobs_of, look  # noqa: E402
from tasks.ledger import Finished  # noqa: E402
from tasks.publishing import publish  # noqa: E402
from tasks.rankings import PastRankings, rank_at  # noqa: E402
from tasks.second_looks import SecondLook  # noqa: E402
from tasks.tracking import Tracker  # noqa: E402

VARIANTS = ("A", "B", "C", "D")
NUM_BENCHMARKS, NUM_ITEMS, NUM_NEW, NUM_OPEN_STEPS = 12, 200, 10, 3
BENCHMARK = """
from softprompt.answers import OptionInWords
from softprompt.benchmarks import Benchmark, Example

BENCHMARK = Benchmark(name="{name}", path="recorded/{name}", to_example=Example, grammar=OptionInWords())
"""
STUDY = """
name = "scale"
bucket = "{bucket}"
settle_s = 0
benchmarks = {names}
benchmark_folder = "own"
"""
EVIDENCE = ROOT / "docs" / "evidence" / "scale.md"


def make_study(folder: Path, bucket: str) -> Study:
    names = [f"recorded_{i:02}" for i in range(NUM_BENCHMARKS)]
    (folder / "own").mkdir()
    for name in names:
        (folder / "own" / f"{name}.py").write_text(BENCHMARK.format(name=name))
    file = folder / "study.toml"
    file.write_text(STUDY.format(bucket=bucket, names=json.dumps(names)))
    return Study.read(file)


def place(number: int) -> tuple[str, int]:
    """(variant, step) of a checkpoint."""
    return VARIANTS[number % len(VARIANTS)], 100 * (number // len(VARIANTS) + 1)


def upload(url: str, numbers: range) -> None:
    fs, root = fsspec.core.url_to_fs(url)
    weights = save({"weight": np.ones(1, np.float32)})
    for start in range(numbers.start, numbers.stop, 1000):
        files: dict[str, bytes] = {}
        for variant, step in map(place, range(start, min(start + 1000, numbers.stop))):
            folder = f"{root}/{variant}/step-{step}"
            files |= {f"{folder}/config.json": b"{}", f"{folder}/tokenizer.json": b"{}"}
            files[f"{folder}/model.safetensors"] = weights
        fs.pipe(files)


def checkpoints_of(study: Study) -> list[Checkpoint]:
    """By number."""
    found = {(c.variant, c.step): c for c in discover(study.bucket, study.layout).checkpoints}
    return [found[place(number)] for number in range(len(found))]


def recorded_result(protocol: Protocol) -> Result:
    chance = random.Random(0)
    outcomes = tuple(
        Outcome(
            condition=condition,
            item=f"item-{i}",
            seed=seed,
            output="an answer",
            stopped=True,
            answer="an answer",
            correct=chance.random() < 0.6,
            lenient_correct=True,
            gold_bits=1.0,
            gold_bytes=8,
        )
        for condition in protocol.conditions
        for seed in (protocol.seeds if condition in protocol.placements else (None,))
        for i in range(NUM_ITEMS)
    )
    metrics = {c: summarise([o for o in outcomes if o.condition == c]) for c in protocol.conditions}
    points = {
        p: tuple(CurvePoint(step=s, loss=1.0, metrics=metrics[p]) for s in protocol.measured_steps) for p in metrics
    }
    return Result(
        job_key="",
        variant="",
        step=0,
        tokens=None,
        benchmark="",
        chance=0.25,
        protocol=protocol,
        metrics=metrics,
        curves={placement: points[placement] for placement in protocol.placements},
        diverged={},
        cost=Cost(phases={"tune": Phase(seconds=30.0), "decode": Phase(seconds=30.0)}),
        provenance={},
        outcomes=outcomes,
    )


def save_results(study: Study, checkpoint: Checkpoint, recorded: Result) -> None:
    for job in jobs_of(study, checkpoint):
        own = {"job_key": job.key, "benchmark": job.benchmark.name}
        found = replace(recorded, variant=checkpoint.variant, step=checkpoint.step, **own)
        found.save(Tracker(study).results_folder / job.key)


def log(study: Study, checkpoints: Iterable[Checkpoint], recorded: Result) -> None:
    """As the product does."""
    tracker = Tracker(study)
    for checkpoint in checkpoints:
        save_results(study, checkpoint, recorded)
        for job in jobs_of(study, checkpoint):
            tracker.log(job, tracker.results_folder / job.key)


def fill(study: Study, checkpoints: Sequence[Checkpoint], recorded: Result) -> None:
    """Log the first checkpoint and copy its rows for the others."""
    first, *others = checkpoints
    log(study, [first], recorded)
    run_ids = {variant: Tracker(study).store.run_id(variant) for variant in VARIANTS}
    with sqlite3.connect(Path(study.home) / "mlflow.db") as database:
        database.row_factory = sqlite3.Row
        for table in ("logged_models", "logged_model_tags", "logged_model_params", "logged_model_metrics"):
            rows = [dict(row) for row in database.execute(f"SELECT * FROM {table}")]
            places = ", ".join(f":{name}" for name in rows[0])
            its = (copy for other in others for copy in copies(study, rows, first, other, run_ids))
            database.executemany(f"INSERT INTO {table} VALUES ({places})", its)
    for checkpoint in others[-NUM_OPEN_STEPS * len(VARIANTS) :]:
        save_results(study, checkpoint, recorded)


def copies(
    study: Study, rows: list[dict[str, Any]], first: Checkpoint, other: Checkpoint, run_ids: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The first checkpoint's rows for another, every value that names the checkpoint or the job replaced."""
    names = {job.key: job.benchmark.name for job in jobs_of(study, first)}
    keys = {job.benchmark.name: job.key for job in jobs_of(study, other)}
    run_id = run_ids[other.variant]
    own = {
        "model_id": f"m-{uuid.uuid5(uuid.NAMESPACE_OID, other.uri).hex}",
        "name": f"{other.variant}-step-{other.step}",
        "source_run_id": run_id,
        "run_id": run_id,
        "metric_step": other.step,
        "metric_timestamp_ms": other.modified_ms,
        "last_updated_timestamp_ms": 1_700_000_000_000 + other.step,
        "creation_timestamp_ms": 1_700_000_000_000 + other.step,
    }
    values = {"fingerprint": other.fingerprint, "uri": other.uri, "modified_ms": str(other.modified_ms)}
    params = {"variant": other.variant, "step": str(other.step)}
    for row in rows:
        new = {**row, **{name: value for name, value in own.items() if name in row}}
        if "tag_key" in row:
            key = row["tag_key"].removeprefix("job.")
            new["tag_key"] = f"job.{keys[names[key]]}" if key in names else row["tag_key"]
            new["tag_value"] = values.get(key, row["tag_value"])
        if "param_key" in row:
            new["param_value"] = params[row["param_key"]]
        yield new


def know_earlier_rankings(study: Study) -> None:
    """Put the ranking of the last step under the keys of all steps but the last ones, so that they need no ranking."""
    tracker = Tracker(study)
    by_step: dict[int, list[Finished]] = defaultdict(list)
    for job in tracker.ledger.to_rank():
        by_step[job.step].append(job)
    *earlier, last = sorted(by_step)
    latest, _ = rank_at(tracker, by_step[last])
    past = PastRankings(tracker, by_step[last])
    for step in earlier[: 1 - NUM_OPEN_STEPS]:
        past.known[past.key(by_step[step])] = replace(latest, step=step).to_dict()
    past.save()


@dataclass(frozen=True)
class Measurement:
    """Of one call in a process of its own."""

    seconds: float
    cpu_s: float
    """Of all its threads, which a busy machine does not stretch."""
    mb: float
    """Peak memory of the process, in 2^20 bytes."""
    num_requests: int
    """To the S3 server."""
    found: int
    """Checkpoints to be evaluated, of a poll."""

    def __str__(self) -> str:
        requests = f", {self.num_requests} requests" if self.num_requests else ""
        return f"{self.seconds:.2f} s, {self.cpu_s:.2f} CPU-s, {self.mb:,.0f} MB{requests}"


def measure(study: Study, what: str) -> Measurement:
    tracker = Tracker(study)
    tracker.store.client.get_experiment(tracker.store.experiment_id)
    requests, send = [0], AIOHTTPSession.send

    async def counted(self: AIOHTTPSession, request: Any) -> Any:
        requests[0] += 1
        return await send(self, request)

    AIOHTTPSession.send = counted
    start, cpu_start = time.perf_counter(), time.process_time()
    found = len(look(study).pending) if what == "poll" else len(publish(study)[0].standings)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    return Measurement(seconds, cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, requests[0], found)


def measured(study: Study, what: str) -> Measurement:
    command = [sys.executable, __file__, "--measure", what, f"{study.benchmark_folder}/../study.toml"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def row(num_checkpoints: int, url: str) -> list[Measurement]:
    """A poll without the ledger's copy, with nothing new, a second look, 10 new, once they are logged; two rankings."""
    folder = Path(tempfile.mkdtemp(prefix="softprompt-scale-"))
    try:
        study = make_study(folder, url)
        recorded = recorded_result(study.protocol)
        upload(url, range(num_checkpoints))
        fill(study, checkpoints_of(study), recorded)
        SecondLook(study, time.time()).done()
        found = [measured(study, "poll"), measured(study, "poll")]
        know_earlier_rankings(study)
        SecondLook(study, time.time()).file.unlink()
        found.append(measured(study, "poll"))
        upload(url, range(num_checkpoints, num_checkpoints + NUM_NEW))
        found.append(measured(study, "poll"))
        log(study, look(study).pending, recorded)
        found.append(measured(study, "poll"))
        assert [each.found for each in found] == [0, 0, 0, NUM_NEW, 0]
        return [*found, measured(study, "ranking"), measured(study, "ranking")]
    finally:
        shutil.rmtree(folder)


PAGE = """# Scale: a poll and a ranking as a study grows

{date}, `python scripts/scale.py`, two CPU cores{busy}, SQLite, SeaweedFS on the same machine.
Nothing is evaluated: every job has the same recorded result; the script's docstring says how MLflow was filled. Each
cell is one call in a process of its own: seconds of the call, CPU seconds of the process in it, its peak memory (of
which MLflow and Prefect, once imported, are the most) and requests to the S3 server.

{num_benchmarks} benchmarks, {num_items} items, {num_variants} variants.

{head}
{rows}

A poll lists the bucket, asks the ledger what is finished, and describes what is not. A home's first poll has no copy of
the ledger. The second look comes once in an hour ([003](../decisions/003-discovery.md)). The first ranking has the new
steps and the {num_open} before them to rank for the first time, the second has nothing new; both write the report and
publish it in MLflow. Growth is in CPU seconds, from one row to the next.
"""
COLUMNS = (
    "checkpoints",
    "a home's first poll",
    "**nothing new**",
    "hourly second look",
    f"{NUM_NEW} new",
    "once they are logged",
    "**ranking**",
    "again",
)


def growth(smaller: list[Measurement], larger: list[Measurement]) -> str:
    return " | ".join(f"x {b.cpu_s / a.cpu_s:.1f}" for a, b in zip(smaller, larger, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--busy", default="", help="How busy the machine was, for the page: ' shared with other work'.")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "STUDY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(asdict(measure(Study.read(arguments.measure[1]), arguments.measure[0]))))
        return
    lines, before = [], None
    server = S3Server(Path(tempfile.mkdtemp(prefix="softprompt-s3-")))
    server.start()
    try:
        os.environ.update(server.environment)
        for num_checkpoints in arguments.checkpoints:
            found = row(num_checkpoints, server.new_place().url)
            if before:
                lines.append(f"| growth | {growth(before, found)} |")
            lines.append(f"| {num_checkpoints:,} | {' | '.join(map(str, found))} |")
            print(lines[-1], flush=True)
            before = found
    finally:
        server.stop()
        shutil.rmtree(server.folder)
    EVIDENCE.write_text(
        PAGE.format(
            date=date.today(),
            busy=arguments.busy,
            num_benchmarks=NUM_BENCHMARKS,
            num_items=NUM_ITEMS,
            num_variants=len(VARIANTS),
            num_new=NUM_NEW,
            num_open=NUM_OPEN_STEPS,
            head="\n".join("| " + " | ".join(cells) + " |" for cells in (COLUMNS, ["---"] * len(COLUMNS))),
            rows="\n".join(lines),
        )
    )


if __name__ == "__main__":
    main()
