"""What a result cost: seconds, tokens and FLOPs by phase, memory, and how near to its device's limit it came.

FLOPs are those of the matrix products: forward 2 for each parameter and token, and as many again where gradients flow
back through the token; weights have no gradient (Kaplan et al., arXiv:2001.08361, section 2.1). The output layer counts
where logits are made. Attention's own products are left out, 2 x layers x width x context a token and at most a few per
cent of the rest at a benchmark's lengths, and so is padding: what is counted is what had to be done.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

PHASES = ("load", "tune", "prefill", "decode", "score", "other", "log")
"""In the order of a job. `other` is what lies between: tokens from text, answers from outputs."""
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What a phase of a job took."""

    seconds: float = 0.0
    """Wall clock of the first process, spent in this phase and none inside it."""
    tokens: int = 0
    """Read or produced by all processes, padding not counted; read again where a pass ran out of memory."""
    flops: float = 0.0
    """Operations, not operations a second; see above."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a job took, by phase."""

    phases: dict[str, Phase] = field(default_factory=dict)
    peak_bytes: int = 0
    """Most memory that a process held during the job: on a GPU what PyTorch allocated, else the resident set."""
    matrix_rate: float = 0.0
    """FLOPs a second that the processes' devices reach in a plain matrix product of the model's own shape."""

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases.values())

    @property
    def flops(self) -> float:
        return sum(phase.flops for phase in self.phases.values())

    def matrix_share(self) -> float | None:
        """Share of the matrix rate that the phases that compute reached; None if none did."""
        chosen = [phase for name, phase in self.phases.items() if phase.flops and name in PHASES]
        spent = sum(phase.seconds for phase in chosen) * self.matrix_rate
        return sum(phase.flops for phase in chosen) / spent if spent else None

    def __str__(self) -> str:
        """'61.0 s (load 0.5, tune 41.2, ...), 5.1 TFLOP at 34 % of the matrix rate, 1.3 GB'."""
        phases = ", ".join(f"{name} {self.phases[name].seconds:.1f}" for name in PHASES if name in self.phases)
        share = self.matrix_share()
        rate = "" if share is None else f" at {share:.0%} of the matrix rate".replace("%", " %")
        return f"{self.seconds:.1f} s ({phases}), {self.flops / 1e12:.3g} TFLOP{rate}, {self.peak_bytes / GB:.1f} GB"

    def with_seconds(self, phase: str, seconds: float) -> "Cost":
        return replace(self, phases={**self.phases, phase: Phase(seconds=seconds)})

    @classmethod
    def of_processes(cls, costs: Sequence["Cost"]) -> "Cost":
        """Of a job that several processes shared."""
        first = costs[0]
        return cls(
            phases={
                name: Phase(
                    seconds=phase.seconds,
                    tokens=sum(cost.phases[name].tokens for cost in costs if name in cost.phases),
                    flops=sum(cost.phases[name].flops for cost in costs if name in cost.phases),
                )
                for name, phase in first.phases.items()
            },
            peak_bytes=max(cost.peak_bytes for cost in costs),
            matrix_rate=sum(cost.matrix_rate for cost in costs),
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, "phases": {name: Phase(**phase) for name, phase in values["phases"].items()}})
