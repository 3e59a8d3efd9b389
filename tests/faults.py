"""What the tests of faults and scripts/faults.py share: looks in processes of their own, and the account afterwards."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from softprompt.study import Study
from tasks.tracking import Tracker

ONE_LOOK = [sys.executable, str(Path(__file__).with_name("one_look.py"))]
BENCHMARKS = ("capitals", "sums")
MOMENTS = {
    "before a job is claimed": ("tasks.claims:Claim.take", "before"),
    "when it has been claimed": ("tasks.claims:Claim.take", "after"),
    "before anything is computed": ("softprompt.evaluation:load_model", "before"),
    "between tuning and evaluation": ("softprompt.evaluation:summarise", "before"),
    "when all is computed and nothing saved": ("softprompt.result:Result.save", "before"),
    "when it is saved and does not have its name yet": ("softprompt.result:Result.save", "after"),
    "between computing and logging": ("tasks.tracking:Tracker.log", "before"),
    "in the middle of logging, files there, no metrics": ("tasks.store:Store.log_points", "before"),
    "in the middle of logging, metrics there, no entry": ("tasks.ledger:Ledger.finish", "before"),
    "when it is finished and its claim still held": ("tasks.ledger:Ledger.finish", "after"),
}
COMPUTED_AGAIN = tuple(MOMENTS)[2:6]
"""Computing had begun and nothing was saved under its name."""


@dataclass(frozen=True)
class Account:
    """What a study holds in the end, against what it should."""

    wanted: Counter[tuple[str, int, str]]
    finished: Counter[tuple[str, int, str]]
    """(variant, step, benchmark) of the ledger's entries; those of overwritten weights left out."""
    points: Counter[tuple[str, int, str]]
    """The same of MLflow's metric points."""

    @classmethod
    def of(cls, study: Study, wanted: Iterable[tuple[str, int]]) -> "Account":
        tracker = Tracker(study)
        jobs = tracker.ledger.to_rank()
        points: Counter[tuple[str, int, str]] = Counter()
        for variant in {job.variant for job in jobs}:
            for benchmark in BENCHMARKS:
                run_id = tracker.store.run_id(variant)
                history = tracker.store.client.get_metric_history(run_id, f"accuracy/{benchmark}")
                points.update((variant, point.step, benchmark) for point in history)
        return cls(
            wanted=Counter((variant, step, name) for variant, step in wanted for name in BENCHMARKS),
            finished=Counter((job.variant, job.step, job.benchmark) for job in jobs),
            points=points,
        )

    @property
    def num_lost(self) -> int:
        return (self.wanted - self.finished | self.wanted - self.points).total()

    @property
    def num_twice(self) -> int:
        return (self.finished - self.wanted | self.points - self.wanted).total()


def one_look(study_file: Path, *moment: str, through: Sequence[str] = ()) -> tuple[int, list[str]]:
    """Exit status and lines of one look, which dies at `moment` if there is one.

    Args:
        through: a command that runs the look.
    """
    command = [*through, *ONE_LOOK, str(study_file), *moment]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=400, check=False)
    return done.returncode, done.stdout.splitlines()
