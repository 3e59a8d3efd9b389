"""Rankings of a study from its ledger. A step's results are opened to rank at that step and at no other: what earlier
steps' rankings said is kept in the study's home and in MLflow, under the keys of the results that they rest on."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from softprompt.bucket import Bucket
from softprompt.errors import BadStudy, LostResult
from softprompt.files import usable, write_whole
from softprompt.fingerprints import fingerprint
from softprompt.ranking import Comparison, Ranking, Signal, Standing, matched_steps, on_later_steps, rank
from softprompt.result import Result
from softprompt.study import Study
from tasks.ledger import Finished, Place, by_error
from tasks.tracking import Tracker

RANKINGS_FILE = "rankings.json"
FIELDS = [name for kind in (Ranking, Standing, Comparison, Signal) for name in kind.__dataclass_fields__]


def rank_at(
    tracker: Tracker,
    jobs: Sequence[Finished],
    failed: Sequence[Finished] = (),
    *,
    step: int | None = None,
    condition: str | None = None,
) -> tuple[Ranking, list[Result]]:
    """The ranking of done `jobs` at `step` (default: the best matched one) and the results that it rests on. Variants
    of which all have `failed` are incomplete, as those that lack the step.

    Raises:
        BadStudy: there are no results, or none at that step.
    """
    benchmarks = tracker.study.benchmarks
    if failed and not jobs:
        raise BadStudy(f"There are no results to rank yet: {'. '.join(on_failures(failed, {}))}.")
    steps = matched_steps(jobs, benchmarks)
    if step is not None and step not in steps:
        raise BadStudy(
            f"There are no results at step {step}; there are at {', '.join(map(str, sorted(steps))) or 'none'}."
        )
    notes = on_later_steps(jobs, benchmarks) if steps and step is None else []
    step = steps[-1] if steps and step is None else step
    results = tracker.results(job for job in jobs if job.step == step)
    variants = {job.variant for job in (*jobs, *failed)}
    ranking = rank(results, benchmarks, condition=condition, step=step, variants=variants)
    ranked_at = dict.fromkeys(ranking.scores, ranking.step)
    ranked = [job for job in jobs if job.step == step and job.variant in ranking.scores]
    notes += [*from_elsewhere(tracker.study, ranked), *on_failures(failed, ranked_at)]
    return replace(ranking, notes=(*ranking.notes, *notes)), results


def from_elsewhere(study: Study, jobs: Iterable[Finished]) -> list[str]:
    """Which variants' checkpoints are not of the study's bucket: it may have had another one, or another study has the
    same name."""
    bucket = Bucket(study.bucket)
    uris = {job.variant: job.uri for job in jobs if bucket.path_of(job.uri) is None}
    return [
        f"{variant} was evaluated from {uri}, which is not in {study.bucket}" for variant, uri in sorted(uris.items())
    ]


def on_failures(failed: Iterable[Finished], ranked_at: Mapping[str, int]) -> list[str]:
    """The last failure of each variant, unless it is ranked at a later step."""
    errors: dict[Place, dict[str, str]] = defaultdict(dict)
    for job in sorted(failed, key=lambda job: (job.place, job.benchmark)):
        errors[job.place][job.benchmark] = job.error
    last = dict(errors.keys())  # variant -> step: they are sorted, so that the last one stays
    return [
        f"{variant} failed at step {step} on {by_error(errors[variant, step])}"
        for variant, step in last.items()
        if step >= ranked_at.get(variant, 0)
    ]


class PastRankings:
    """The rankings at all steps at which any variant has every benchmark, in the order of training."""

    def __init__(self, tracker: Tracker, jobs: Sequence[Finished]) -> None:
        self.tracker = tracker
        self.file = Path(tracker.study.home) / RANKINGS_FILE
        known, study = self._read(), tracker.study
        self.new: list[Ranking] = []
        self.notes: list[str] = []
        """On steps that cannot be ranked: others can."""
        by_step: dict[int, list[Finished]] = defaultdict(list)
        for job in jobs:
            by_step[job.step].append(job)
        self.known: dict[str, dict[str, Any]] = {}
        """As in the file: turning thousands of rankings into text takes seconds, so that only new ones are."""
        for step in sorted(by_step):
            key = self.key(by_step[step])
            if key not in known:
                try:
                    results = tracker.results(by_step[step], condition=study.protocol.headline)
                    self.new.append(rank(results, study.benchmarks, step=step))
                except (BadStudy, LostResult) as error:
                    self.notes.append(f"Step {step} is not ranked: {str(error).rstrip('.')}")
                    continue
            self.known[key] = known.get(key) or self.new[-1].to_dict()

    @property
    def rankings(self) -> list[Ranking]:
        return [Ranking.from_dict(values) for values in self.known.values() if values["standings"]]

    def key(self, jobs: Sequence[Finished]) -> str:
        """Of the ranking that rests on `jobs`, the results of one step. A job's run counts: in another one the ranking
        has no points yet."""
        return fingerprint([list(self.tracker.study.benchmarks), sorted((job.key, job.run_id) for job in jobs)])

    def save(self) -> Path:
        with usable(self.tracker.study.home):
            return write_whole(self.file, json.dumps({"fields": FIELDS, "rankings": self.known}))

    def _read(self) -> dict[str, dict[str, Any]]:
        """What is kept; if it is lost here, from MLflow; if another version wrote it, nothing."""
        store = self.tracker.store
        with store.answers():
            if not self.file.exists():
                run_id = store.ranking_run_id
                if RANKINGS_FILE in [artifact.path for artifact in store.client.list_artifacts(run_id)]:
                    self.tracker.fetch(run_id, RANKINGS_FILE, self.file)
        try:
            kept = json.loads(self.file.read_text())
            return kept["rankings"] if kept["fields"] == FIELDS else {}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {}
