"""How the ledger and the ranking hold up as a study grows; writes docs/evidence/scale.md.

    python scripts/scale.py

Nothing is evaluated: every job gets the same recorded result (200 items, four conditions, three seeds, drawn from a
fixed seed) under its own name. The product logs one checkpoint; its rows in MLflow's SQLite (LoggedModel, tags, params,
metrics) are then copied for all others, because filling MLflow through its API would take hours. The variants' runs
hold only what the product logged itself. Results lie in the study's home for the last steps only, and the rankings of
all earlier steps are given as known, which is how a home looks that has ranked before.

Each measurement is a process of its own: seconds of the call, MLflow already open; peak memory of the whole process.
"""

import argparse
import json
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
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from softprompt.checkpoints import Checkpoint
from softprompt.cost import Cost, Phase
from softprompt.metrics import Outcome, summarise
from softprompt.protocol import Protocol
from softprompt.result import CurvePoint, Job, Result
from softprompt.study import Study
from tasks.ledger import Finished
from tasks.publishing import publish
from tasks.rankings import PastRankings, rank_at
from tasks.tracking import Tracker

VARIANTS = ("A", "B", "C", "D")
NUM_BENCHMARKS, NUM_ITEMS, NUM_NEW, NUM_OPEN_STEPS = 12, 200, 10, 3
BENCHMARK = """
from softprompt.answers import OptionInWords
from softprompt.benchmarks import Benchmark, Example

BENCHMARK = Benchmark(name="{name}", path="recorded/{name}", to_example=Example, grammar=OptionInWords())
"""
STUDY = """
name = "scale"
bucket = "bucket"
benchmarks = {names}
benchmark_folder = "own"
"""
EVIDENCE = Path(__file__).parent.parent / "docs" / "evidence" / "scale.md"


def make_study(folder: Path) -> Study:
    names = [f"recorded_{i:02}" for i in range(NUM_BENCHMARKS)]
    (folder / "own").mkdir()
    for name in names:
        (folder / "own" / f"{name}.py").write_text(BENCHMARK.format(name=name))
    file = folder / "study.toml"
    file.write_text(STUDY.format(names=json.dumps(names)))
    return Study.read(file)


def checkpoint(number: int) -> Checkpoint:
    step, variant = 100 * (number // len(VARIANTS) + 1), VARIANTS[number % len(VARIANTS)]
    uri = f"/recorded/{variant}/step-{step}"
    return Checkpoint(uri=uri, variant=variant, step=step, fingerprint=f"{number:016x}", modified_ms=10**12 + number)


def jobs_of(study: Study, number: int) -> list[Job]:
    return [Job(checkpoint(number), study.benchmark(name), study.protocol) for name in study.benchmarks]


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
        headline=protocol.headline,
        protocol=protocol,
        metrics=metrics,
        curves={placement: points[placement] for placement in protocol.placements},
        diverged={},
        cost=Cost(phases={"tune": Phase(seconds=30.0), "decode": Phase(seconds=30.0)}),
        provenance={},
        outcomes=outcomes,
    )


def save_results(study: Study, number: int, recorded: Result) -> None:
    for job in jobs_of(study, number):
        own = {"job_key": job.key, "benchmark": job.benchmark.name}
        found = replace(recorded, variant=job.checkpoint.variant, step=job.checkpoint.step, **own)
        found.save(Tracker(study).results_folder / job.key)


def log(study: Study, numbers: range, recorded: Result) -> None:
    """As the product does."""
    tracker = Tracker(study)
    for number in numbers:
        save_results(study, number, recorded)
        for job in jobs_of(study, number):
            tracker.log(job, tracker.results_folder / job.key)


def fill(study: Study, num_checkpoints: int, recorded: Result) -> None:
    """Log the first checkpoint and copy its rows for the others."""
    log(study, range(1), recorded)
    run_ids = {variant: Tracker(study).store.run_id(variant) for variant in VARIANTS}
    with sqlite3.connect(Path(study.home) / "mlflow.db") as database:
        database.row_factory = sqlite3.Row
        for table in ("logged_models", "logged_model_tags", "logged_model_params", "logged_model_metrics"):
            rows = [dict(row) for row in database.execute(f"SELECT * FROM {table}")]
            places = ", ".join(f":{name}" for name in rows[0])
            database.executemany(
                f"INSERT INTO {table} VALUES ({places})", copies(study, rows, range(1, num_checkpoints), run_ids)
            )
    for number in range(1, num_checkpoints):
        if number >= num_checkpoints - NUM_OPEN_STEPS * len(VARIANTS):
            save_results(study, number, recorded)


def copies(
    study: Study, rows: list[dict[str, Any]], numbers: range, run_ids: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """A template's rows for each of `numbers`, every value that names the checkpoint or the job replaced."""
    first = {job.key: job.benchmark.name for job in jobs_of(study, 0)}
    for number in numbers:
        place, keys = checkpoint(number), {job.benchmark.name: job.key for job in jobs_of(study, number)}
        own = {
            "model_id": f"m-{uuid.uuid5(uuid.NAMESPACE_OID, str(number)).hex}",
            "name": f"{place.variant}-step-{place.step}",
            "source_run_id": run_ids[place.variant],
            "run_id": run_ids[place.variant],
            "metric_step": place.step,
            "metric_timestamp_ms": place.modified_ms,
            "last_updated_timestamp_ms": 1_700_000_000_000 + number,
            "creation_timestamp_ms": 1_700_000_000_000 + number,
        }
        values = {"fingerprint": place.fingerprint, "uri": place.uri, "modified_ms": str(place.modified_ms)}
        params = {"variant": place.variant, "step": str(place.step)}
        for row in rows:
            new = {**row, **{name: value for name, value in own.items() if name in row}}
            if "tag_key" in row:
                key = row["tag_key"].removeprefix("job.")
                new["tag_key"] = f"job.{keys[first[key]]}" if key in first else row["tag_key"]
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


def measure(study: Study, what: str) -> None:
    """In a process of its own: print seconds and megabytes as JSON."""
    tracker = Tracker(study)
    tracker.store.client.get_experiment(tracker.store.experiment_id)
    call: Callable[[], Any] = {"poll": tracker.ledger.finished, "ranking": lambda: publish(study)}[what]
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def measured(folder: Path, what: str) -> str:
    command = [sys.executable, __file__, "--measure", what, str(folder / "study.toml")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return f"{found['seconds']:.2f} s, {found['mb']:,.0f} MB"


def row(num_checkpoints: int) -> str:
    folder = Path(tempfile.mkdtemp(prefix="softprompt-scale-"))
    try:
        study = make_study(folder)
        recorded = recorded_result(study.protocol)
        fill(study, num_checkpoints, recorded)
        cells = [f"{num_checkpoints:,}", measured(folder, "poll"), measured(folder, "poll")]
        know_earlier_rankings(study)
        log(study, range(num_checkpoints, num_checkpoints + NUM_NEW), recorded)
        cells += [measured(folder, "poll"), measured(folder, "ranking"), measured(folder, "ranking")]
        return "| " + " | ".join(cells) + " |"
    finally:
        shutil.rmtree(folder)


PAGE = """# Scale: the ledger and the ranking as a study grows

{date}, `python scripts/scale.py`, two CPU cores shared with other work, SQLite. Nothing is evaluated: every job has the
same recorded result; the script's docstring says how MLflow was filled. Each cell is one call in a process of its own:
seconds of the call, peak memory of the process (of which MLflow and Prefect, once imported, are the most).

{num_benchmarks} benchmarks, {num_items} items, {num_variants} variants.

| checkpoints | no copy at home | nothing new | {num_new} new checkpoints | ranking after them | ranking again |
| --- | --- | --- | --- | --- | --- |
{rows}

The first three columns ask the ledger what is finished: without its copy at home, with it, and after {num_new} more
checkpoints were logged. The last two rank, write the report and publish it in MLflow: once with the new steps and the
{num_open} before them to be ranked for the first time, once with nothing new.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "STUDY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(Study.read(arguments.measure[1]), arguments.measure[0])
        return
    rows = []
    for num_checkpoints in arguments.checkpoints:
        rows.append(row(num_checkpoints))
        print(rows[-1], flush=True)
    EVIDENCE.write_text(
        PAGE.format(
            date=date.today(),
            num_benchmarks=NUM_BENCHMARKS,
            num_items=NUM_ITEMS,
            num_variants=len(VARIANTS),
            num_new=NUM_NEW,
            num_open=NUM_OPEN_STEPS,
            rows="\n".join(rows),
        )
    )


if __name__ == "__main__":
    main()
