"""What one evaluation needs, as a value that another process can be sent."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from softprompt import benchmarks
from softprompt.cache import DEFAULT_GB, Cache
from softprompt.checkpoints import Checkpoint
from softprompt.progress import Progress
from softprompt.protocol import Protocol, Resources
from softprompt.result import Job, Result
from softprompt.study import Study

ERROR_SUFFIX = ".error"
"""Beside a request's file: what kept a worker from doing it, if a user can act on that."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A job of a study, and where its inputs are found."""

    checkpoint: Checkpoint
    benchmark: str
    benchmark_folder: str | None = None
    protocol: Protocol
    resources: Resources
    mirror: str | None = None
    tokenizer: str | None = None
    cache_gb: float = DEFAULT_GB

    @classmethod
    def of(cls, study: Study, job: Job) -> Self:
        return cls(
            checkpoint=job.checkpoint,
            benchmark=job.benchmark.name,
            benchmark_folder=study.benchmark_folder,
            protocol=job.protocol,
            resources=study.resources,
            mirror=study.mirror,
            tokenizer=study.tokenizer,
            cache_gb=study.cache_gb,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        read = {
            "checkpoint": Checkpoint(**values["checkpoint"]),
            "protocol": Protocol.from_dict(values["protocol"]),
            "resources": Resources.from_dict(values["resources"]),
        }
        return cls(**{**values, **read})

    def run(self, progress: Progress) -> Result:
        """Evaluate it in this process; see `softprompt.evaluate`."""
        from softprompt.evaluation import evaluate

        return evaluate(
            self.checkpoint,
            benchmarks.get(self.benchmark, self.benchmark_folder),
            self.protocol,
            resources=self.resources,
            mirror=self.mirror,
            tokenizer=self.tokenizer,
            cache=Cache(limit_gb=self.cache_gb),
            progress=progress,
        )
