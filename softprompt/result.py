"""A job and what came of it."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from softprompt import controls
from softprompt.benchmarks import Benchmark
from softprompt.checkpoints import Checkpoint
from softprompt.conditions import Condition
from softprompt.cost import Cost
from softprompt.errors import BadStudy
from softprompt.files import write_whole
from softprompt.fingerprints import fingerprint
from softprompt.metrics import Estimate, Outcome, is_saturated
from softprompt.protocol import Protocol

if TYPE_CHECKING:
    import numpy as np

RESULT_FILE = "result.json"
ITEMS_FILE = "items.parquet"
VECTORS_FILE = "vectors.safetensors"


@dataclass(frozen=True)
class Job:
    """The unit of work: one checkpoint on one benchmark under one protocol."""

    checkpoint: Checkpoint
    benchmark: Benchmark
    protocol: Protocol

    @property
    def key(self) -> str:
        """Identity of the job: two jobs with the same key have the same result."""
        return fingerprint([self.checkpoint.fingerprint, self.benchmark.fingerprint, self.protocol.fingerprint])


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A soft prompt on the curve's items after `step` tuning steps, averaged over seeds."""

    step: int
    loss: float
    """Mean over the seeds, in nats a token: of the next batch under these vectors, before they learn from it; at the
    last step, which has none, of the last batch before it was learned from."""
    metrics: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything one job found out. `save` and `load` keep it in a folder of three files."""

    job_key: str
    variant: str
    step: int
    tokens: int | None
    benchmark: str
    chance: float
    protocol: Protocol
    metrics: dict[str, dict[str, Estimate]]
    """Condition -> metric -> estimate. A metric that is undefined is absent."""
    curves: dict[str, tuple[CurvePoint, ...]]
    """Condition that vectors are tuned for -> tuning curve."""
    diverged: dict[str, tuple[int, ...]]
    """The same -> seeds whose tuning diverged; empty when all went well."""
    cost: Cost
    """What it took; decides nothing."""
    provenance: dict[str, Any]
    """Versions, devices, dtype, world size, counts of items; whether what prompts begin with alike was read once
    (`prefix_caching`; false if some had to be read whole)."""
    learned_task: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """Placement -> format-free metric -> how much better true answers did than shuffled ones or the plain prompt,
    whichever is less sure; see `softprompt.controls`. Empty without the control `shuffled`."""
    outcomes: tuple[Outcome, ...] = field(default=(), repr=False)
    vectors: "dict[str, np.ndarray]" = field(default_factory=dict, repr=False, compare=False)
    """Condition that vectors are tuned for -> the vectors, (seed, vector, width), float32."""

    @property
    def headline(self) -> str:
        """The condition that ranks variants."""
        return self.protocol.headline

    @property
    def status(self) -> str:
        return "diverged" if any(self.diverged.values()) else "ok"

    def saturated(self, condition: str, metric: str) -> bool | None:
        """Has the tuning curve of `metric` stopped rising? None where it was measured less than twice."""
        values = [p.metrics[metric].value for p in self.curves.get(condition, ()) if metric in p.metrics]
        return is_saturated(values) if len(values) > 1 else None

    def divergence(self, condition: str) -> str | None:
        """That a tuning diverged, in words; None if none did."""
        seeds = self.diverged.get(condition)
        return f"tuning diverged on {self.benchmark} (seeds {', '.join(map(str, seeds))})" if seeds else None

    def loss_of_recall(self, condition: str) -> str | None:
        """What a tuning may have cost, in words: fewer right answers, format aside, than the plain prompt gives.

        A prompt can follow the format in every output and yet have closed the way to facts that the checkpoint recalls
        without it. None unless the two intervals of `lenient_accuracy` lie apart.
        """
        tuned, plain = (self.metrics.get(c, {}).get("lenient_accuracy") for c in (condition, Condition().name))
        if not (tuned and plain and tuned.high < plain.low):
            return None
        return (
            f"the tuning may have lost recall on {self.benchmark}: the right answer is found in {tuned.value:.2f} of "
            f"its outputs, in {plain.value:.2f} of the plain prompt's"
        )

    def sentences(self) -> list[str]:
        """What a reader of the metrics should mind, in so many words."""
        found = [(c, said) for c in self.curves for said in (self.divergence(c), self.loss_of_recall(c))]
        found += [(placement, controls.in_words(excess)) for placement, excess in self.learned_task.items()]
        return [f"{where}: {said}" for where, said in found if said]

    def __str__(self) -> str:
        """'A at step 800 on svamp: cue accuracy 0.710 (0.660 to 0.755), format-following 0.980'."""
        found = self.metrics[self.headline]
        accuracy = found["accuracy"]
        return (
            f"{self.variant} at step {self.step} on {self.benchmark}: {self.headline} accuracy {accuracy.value:.3f} "
            f"({accuracy.low:.3f} to {accuracy.high:.3f}), format-following {found['format_following'].value:.3f}"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from softprompt.tables import as_html

        return as_html(self)

    def to_dict(self) -> dict[str, Any]:
        """All but the outcomes and the vectors, as plain values for JSON."""
        values = asdict(replace(self, outcomes=(), vectors={}))  # which it would copy
        del values["outcomes"], values["vectors"]
        lights = {c: {name: self.saturated(c, name) for name in ("format_following", "accuracy")} for c in self.curves}
        said = {"headline": self.headline, "status": self.status, "saturated": lights}
        return {**values, **said, "loss_of_recall": {c: self.loss_of_recall(c) for c in self.curves}}

    def to_json(self) -> str:
        """`to_dict` as text."""
        return to_json(self.to_dict())

    def save(self, folder: str | Path) -> Path:
        """Write `items.parquet`, `vectors.safetensors` and, when they are there, `result.json` into `folder`.

        Raises:
            BadStudy: it was loaded in part, and saving it would lose the rest.
        """
        if missing := self.metrics.keys() - {outcome.condition for outcome in self.outcomes}:
            raise BadStudy(
                f"This result holds no items of {', '.join(sorted(missing))}; to save it, load it whole by "
                "Result.load(folder)."
            )
        import pyarrow as pa
        import pyarrow.parquet as pq
        from safetensors.numpy import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([asdict(o) for o in self.outcomes], schema=_schema()), folder / ITEMS_FILE)
        # `save_file` would let nobody else read it.
        (folder / VECTORS_FILE).write_bytes(save(self.vectors, metadata={"job_key": self.job_key}))
        write_whole(folder / RESULT_FILE, self.to_json())
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, with_items: bool = True, condition: str | None = None) -> Self:
        """Read what `save` wrote. A part is read sooner: no items and vectors, or the items of one `condition`."""
        folder = Path(folder)
        values = json.loads((folder / RESULT_FILE).read_text())
        outcomes: Iterable[Outcome] = ()
        vectors = {}
        if with_items and condition is None:
            from safetensors.numpy import load_file

            vectors = load_file(folder / VECTORS_FILE)
        if with_items:
            import pyarrow.parquet as pq

            rows = pq.read_table(folder / ITEMS_FILE, filters=condition and [("condition", "=", condition)])
            outcomes = (Outcome(**row) for row in rows.to_pylist())
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(
            **{
                **known,
                "protocol": Protocol.from_dict(values["protocol"]),
                "cost": Cost.from_dict(values["cost"]),
                "metrics": {condition: _estimates(found) for condition, found in values["metrics"].items()},
                "curves": {
                    condition: tuple(
                        CurvePoint(
                            **{
                                **p,
                                "loss": math.nan if p["loss"] is None else p["loss"],
                                "metrics": _estimates(p["metrics"]),
                            }
                        )
                        for p in points
                    )
                    for condition, points in values["curves"].items()
                },
                "diverged": {condition: tuple(seeds) for condition, seeds in values["diverged"].items()},
                "learned_task": {p: _estimates(found) for p, found in values["learned_task"].items()},
                "outcomes": tuple(outcomes),
                "vectors": vectors,
            }
        )


def is_saved(folder: Path) -> bool:
    """Whether a result lies in `folder` that can be read. A process that was killed while it removed one, or a loss of
    power, may have left a part."""
    import pyarrow.parquet as pq
    from safetensors import SafetensorError, safe_open

    try:
        json.loads((folder / RESULT_FILE).read_text())
        pq.read_metadata(folder / ITEMS_FILE)
        with safe_open(folder / VECTORS_FILE, "np"):
            return True
    except (OSError, ValueError, SafetensorError):
        return False


def _estimates(values: dict[str, Any]) -> dict[str, Estimate]:
    missing: dict[str, Any] = {"value": math.nan, "low": -math.inf, "high": math.inf}
    return {
        name: Estimate(**{key: missing[key] if value is None else value for key, value in estimate.items()})
        for name, estimate in values.items()
    }


def to_json(value: Any) -> str:
    """As text, with null for NaN and infinity, which JSON does not have."""
    return json.dumps(_finite(value), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _schema() -> Any:
    import pyarrow as pa

    text, flag, whole, real = pa.string(), pa.bool_(), pa.int64(), pa.float64()
    types = {
        "condition": text,
        "item": text,
        "seed": whole,
        "output": text,
        "stopped": flag,
        "answer": text,
        "correct": flag,
        "lenient_correct": flag,
        "choice_correct": flag,
        "gold_bits": real,
        "gold_bytes": whole,
        "group": text,
    }
    return pa.schema(list(types.items()))
