"""A whole small study in a folder: a bucket, two benchmarks of a user's own with their rows, a TOML file."""

import functools
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from softprompt.cost import Cost, Phase
from softprompt.errors import SoftPromptError
from softprompt.metrics import Outcome, summarise
from softprompt.result import Job, Result
from softprompt.study import Study

if TYPE_CHECKING:
    from tasks.tracking import Tracker

CAPITALS = """
from softprompt.answers import OptionInWords
from softprompt.benchmarks import Benchmark, Example

def to_example(row):
    answer = row["answer"]
    return Example(question=row["question"], answer=answer, golds=(answer,), options=tuple(row["options"]))

BENCHMARK = Benchmark(name="capitals", path="toy/capitals", chance=0.25, to_example=to_example,
                      grammar=OptionInWords(), max_new_tokens=4)
"""
SUMS = """
from softprompt.answers import Number
from softprompt.benchmarks import Benchmark, Example

def to_example(row):
    return Example(question=row["question"], answer=row["answer"], golds=(row["answer"],))

BENCHMARK = Benchmark(name="sums", path="toy/sums", to_example=to_example, grammar=Number(), max_new_tokens=4)
"""
SETTINGS = """
name = "{name}"
bucket = "bucket"
home = ".softprompt"
settle_s = 0
benchmarks = ["capitals", "sums"]
mirror = "mirror"
benchmark_folder = "own"

[protocol]
num_steps = 2
batch_size = 4
num_train = 8
num_vectors = 2
num_shots = 1
seeds = [0]
curve_steps = [0]
"""


def write_rows(folder: Path, split: str, rows: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")


@functools.cache
def empty_store() -> Path:
    """An MLflow store, made once: MLflow takes seconds to make one."""
    from mlflow import MlflowClient

    file = Path(tempfile.mkdtemp(prefix="softprompt-mlflow-")) / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


def make_study(
    folder: Path,
    checkpoint: Path | None = None,
    variants: tuple[str, ...] = ("A",),
    name: str = "toy",
    *,
    tracked: bool = True,
) -> Path:
    """Write the study; each variant's step 100 is a copy of `checkpoint`, if there is one. If it is `tracked`, MLflow's
    store is there, too."""
    (folder / ".softprompt").mkdir(parents=True)
    if tracked:
        shutil.copyfile(empty_store(), folder / ".softprompt" / "mlflow.db")
    (folder / "own").mkdir(parents=True)
    (folder / "own" / "capitals.py").write_text(CAPITALS)
    (folder / "own" / "sums.py").write_text(SUMS)
    for split, shift in (("train", 0), ("test", 1)):
        places = [("Norway", "Oslo"), ("Peru", "Lima"), ("Egypt", "Cairo"), ("Ecuador", "Quito")] * 4
        options = ["Oslo", "Lima", "Cairo", "Quito"]
        capitals = [
            {"question": f"{split} {i}: capital of {country}?", "answer": city, "options": options}
            for i, (country, city) in enumerate(places)
        ]
        sums = [{"question": f"What is {i} plus {i + shift}?", "answer": str(2 * i + shift)} for i in range(16)]
        write_rows(folder / "mirror" / "toy" / "capitals", split, capitals)
        write_rows(folder / "mirror" / "toy" / "sums", split, sums)
    for variant in variants if checkpoint else ():
        shutil.copytree(checkpoint, folder / "bucket" / variant / "step-100")
    file = folder / "study.toml"
    file.write_text(SETTINGS.format(name=name))
    return file


def recorded_result(job: Job, accuracy: float = 0.5) -> Result:
    """A result of `job` that nobody computed: eight items, the first of which are right."""
    outcomes = tuple(
        Outcome(
            condition="cue",
            item=f"item-{i}",
            seed=0,
            output="x",
            stopped=True,
            answer="x",
            correct=i < 8 * accuracy,
            lenient_correct=True,
        )
        for i in range(8)
    )
    return Result(
        job_key=job.key,
        variant=job.checkpoint.variant,
        step=job.checkpoint.step,
        tokens=None,
        benchmark=job.benchmark.name,
        chance=job.benchmark.chance,
        protocol=job.protocol,
        metrics={"cue": summarise(outcomes)},
        curves={},
        diverged={},
        cost=Cost(phases={"tune": Phase(seconds=1.0), "decode": Phase(seconds=2.0)}),
        provenance={},
        outcomes=outcomes,
    )


def log_recorded(file: Path, *, variant: str, benchmark: str) -> None:
    """Log a result that nobody computed for the variant's checkpoint in the study's bucket."""
    tracker, job = _job(file, variant, benchmark)
    tracker.log(job, recorded_result(job).save(tracker.results_folder / job.key))


def log_failure(file: Path, *, variant: str, benchmark: str, error: str) -> None:
    """Log that the same job failed for good."""
    tracker, job = _job(file, variant, benchmark)
    tracker.log_failure(job, SoftPromptError(error))


def _job(file: Path, variant: str, benchmark: str) -> "tuple[Tracker, Job]":
    from tasks.tracking import Tracker

    study = Study.read(file)
    checkpoint = study.locate(f"{study.bucket}/{variant}/step-100")
    return Tracker(study), Job(checkpoint, study.benchmark(benchmark), study.protocol)
