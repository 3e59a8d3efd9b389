"""Rankings of a study from its ledger. A step's results are opened to rank at that step and at no other: what earlier
steps' rankings said is kept in the study's home and in MLflow, under the keys of the results that they rest on."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompt.errors import BadStudy
from softprompt.files import write_whole
from softprompt.fingerprints import fingerprint
from softprompt.ranking import Ranking, Standing, matched_steps, rank
from softprompt.result import Result
from tasks.ledger import Finished
from tasks.store import RANKING_RUN
from tasks.tracking import Tracker

RANKINGS_FILE = "rankings.json"
FIELDS = [*Ranking.__dataclass_fields__, *Standing.__dataclass_fields__]


def rank_at(
    tracker: Tracker, jobs: Sequence[Finished], *, step: int | None = None, condition: str | None = None
) -> tuple[Ranking, list[Result]]:
    """The ranking at `step` (default: the best matched one) and the results that it rests on.

    Raises:
        BadStudy: there are no results, or none at that step.
    """
    benchmarks = tracker.study.benchmarks
    steps = matched_steps(jobs, benchmarks)
    if step is not None and step not in steps:
        raise BadStudy(
            f"There are no results at step {step}; there are at {', '.join(map(str, sorted(steps))) or 'none'}."
        )
    step = steps[-1] if steps and step is None else step
    results = tracker.results(job for job in jobs if job.step == step)
    variants = {job.variant for job in jobs}
    return rank(results, benchmarks, condition=condition, step=step, variants=variants), results


class PastRankings:
    """The rankings at all steps at which any variant has every benchmark, in the order of training."""

    def __init__(self, tracker: Tracker, jobs: Sequence[Finished]) -> None:
        self.tracker = tracker
        self.file = Path(tracker.study.home) / RANKINGS_FILE
        known, study = self._read(), tracker.study
        self.new: list[Ranking] = []
        by_step: dict[int, list[Finished]] = defaultdict(list)
        for job in jobs:
            by_step[job.step].append(job)
        self.known: dict[str, dict[str, Any]] = {}
        """As in the file: turning thousands of rankings into text takes seconds, so that only new ones are."""
        for step in sorted(by_step):
            key = self.key(by_step[step])
            if key not in known:
                results = tracker.results(by_step[step], condition=study.protocol.headline)
                self.new.append(rank(results, study.benchmarks, step=step))
            self.known[key] = known.get(key) or self.new[-1].to_dict()

    @property
    def rankings(self) -> list[Ranking]:
        return [Ranking.from_dict(values) for values in self.known.values() if values["standings"]]

    def key(self, jobs: Sequence[Finished]) -> str:
        """Of the ranking that rests on `jobs`, the results of one step."""
        return fingerprint([list(self.tracker.study.benchmarks), sorted(job.key for job in jobs)])

    def save(self) -> Path:
        return write_whole(self.file, json.dumps({"fields": FIELDS, "rankings": self.known}))

    def _read(self) -> dict[str, dict[str, Any]]:
        """What is kept; if it is lost here, from MLflow; if another version wrote it, nothing."""
        store = self.tracker.store
        with store.answers():
            if not self.file.exists():
                run_id = store.run_id(RANKING_RUN)
                if RANKINGS_FILE in [artifact.path for artifact in store.client.list_artifacts(run_id)]:
                    self.tracker.fetch(run_id, RANKINGS_FILE, self.file)
        try:
            kept = json.loads(self.file.read_text())
            return kept["rankings"] if kept["fields"] == FIELDS else {}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {}
