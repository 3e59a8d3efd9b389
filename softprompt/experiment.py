"""An experiment: checkpoints under one or several protocols, the arms, on this machine, without Prefect and MLflow.

>>> arms = {"slow": Protocol(learning_rate=0.1), "fast": Protocol(learning_rate=1.0)}  # doctest: +SKIP
>>> Experiment(arms=arms, benchmarks=[benchmarks.get("svamp")], folder=Path("runs")).run(checkpoints)  # doctest: +SKIP
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from softprompt.arm import Arm
from softprompt.benchmarks import Benchmark
from softprompt.cache import Cache, tokenizer_fingerprint
from softprompt.checkpoints import Checkpoint, discover
from softprompt.errors import BadStudy, HomeUnavailable, SoftPromptError
from softprompt.files import remove_whole, temporary_folder, usable
from softprompt.progress import Progress, reporting
from softprompt.protocol import Protocol, Resources
from softprompt.result import Job, Result, is_saved
from softprompt.rows import Rows, load_rows
from softprompt.study import Study

NUM_REASONS = 3
"""Most checkpoints of which it is said why they are passed over."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Every checkpoint on every benchmark in every arm."""

    arms: Mapping[str, Protocol]
    benchmarks: Sequence[Benchmark]
    folder: Path
    """Of the results, by the keys of their jobs; what lies there is not computed again."""
    resources: Resources = field(default_factory=Resources)
    mirror: str | None = None
    tokenizer: str | None = None
    cache: Cache = field(default_factory=Cache)
    _read: dict[str, Rows] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, study: Study) -> Self:
        return cls(
            arms=study.arms or {study.name: study.protocol},
            benchmarks=[study.benchmark(name) for name in study.benchmarks],
            folder=study.results_folder,
            resources=study.resources,
            mirror=study.mirror,
            tokenizer=study.tokenizer,
            cache=study.cache,
        )

    def run(
        self,
        checkpoints: Iterable[Checkpoint],
        *,
        progress: Progress | None = None,
        on_failure: Callable[[Job, SoftPromptError], None] | None = None,
        on_end: Callable[[str], None] | None = None,
    ) -> list[Arm]:
        """Compute what is missing, one job after another in this process; the arms that have any result.

        Args:
            progress: called with what is being done and the share of the whole that is done; by default a bar is shown
                in a terminal or a notebook.
            on_failure: called for a job that cannot be done, after which the others go on. By default it is raised, as
                is always that results cannot be kept.
            on_end: called after each job with its place among all and what became of it, e.g. "2 of 8: slow, A at step
                100, svamp: done".
        """
        jobs = list(self.jobs(checkpoints))
        results: dict[str, list[Result]] = {name: [] for name in self.arms}
        with reporting(progress) as report:
            for number, (arm, job) in enumerate(jobs):
                where = f"{number + 1} of {len(jobs)}: {arm}, {job.checkpoint.name}, {job.benchmark.name}"

                def advance(what: str, share: float, number: int = number, where: str = where) -> None:
                    report(f"{where}: {what}", (number + share) / len(jobs))

                try:
                    results[arm].append(self.result(job, advance))
                    became = "done"
                except SoftPromptError as error:
                    if on_failure is None or isinstance(error, HomeUnavailable):
                        raise
                    on_failure(job, error)
                    became = "failed"
                if on_end:
                    on_end(f"{where}: {became}")
        names = [benchmark.name for benchmark in self.benchmarks]
        return [Arm.of(name, found, names) for name, found in results.items() if found]

    def jobs(self, checkpoints: Iterable[Checkpoint]) -> Iterator[tuple[str, Job]]:
        """With their arms' names; a checkpoint's jobs follow one another, so that it is loaded once."""
        tokenizer = tokenizer_fingerprint(self.tokenizer, self.cache)
        read = [replace(benchmark, tokenizer=tokenizer) for benchmark in self.benchmarks]
        for checkpoint in checkpoints:
            for benchmark in read:
                for arm, protocol in self.arms.items():
                    yield arm, Job(checkpoint, benchmark, protocol)

    def result(self, job: Job, progress: Progress) -> Result:
        """Out of the folder, or computed and kept there, whole or not at all."""
        folder = self.folder / job.key
        if not is_saved(folder):
            from softprompt.evaluation import evaluate

            with usable(self.folder):
                remove_whole(folder)
            found = evaluate(
                job.checkpoint,
                job.benchmark,
                job.protocol,
                resources=self.resources,
                rows=self._rows_of(job.benchmark),
                tokenizer=self.tokenizer,
                cache=self.cache,
                progress=progress,
            )
            with usable(self.folder), temporary_folder(folder) as half:
                found.save(half)
        return Result.load(folder)

    def _rows_of(self, benchmark: Benchmark) -> Rows:
        if benchmark.name not in self._read:
            self._read[benchmark.name] = load_rows(benchmark, self.mirror)
        return self._read[benchmark.name]


def checkpoints_of(study: Study, uris: Sequence[str] = (), steps: Sequence[int] = ()) -> list[Checkpoint]:
    """Those at `uris`, or all complete ones in the study's bucket but of variants that it leaves out; of these only
    those at `steps`, if any are named.

    Raises:
        BadStudy: there is something in the bucket, and nothing of it is a complete checkpoint; or none is at `steps`.
    """
    if uris:
        found = [study.locate(uri) for uri in uris]
    else:
        look = discover(study.bucket, study.layout, marker=study.marker, settle_s=study.settle_s)
        found = [checkpoint for checkpoint in look.checkpoints if checkpoint.variant not in study.leave_out]
        if look.rejected and not look.checkpoints:
            reasons = " ".join(map(str, [*look.rejected.values()][:NUM_REASONS]))
            raise BadStudy(f"No checkpoint in {study.bucket} can be evaluated. {reasons}")
    chosen = [checkpoint for checkpoint in found if not steps or checkpoint.step in steps]
    if found and not chosen:
        raise BadStudy(
            f"There are no checkpoints at step {_listed(steps)}; there are at {_listed(c.step for c in found)}."
        )
    return sorted(chosen, key=lambda c: (c.variant, c.step))


def _listed(steps: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(steps))))
