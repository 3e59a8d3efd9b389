"""An arm: one protocol and what was found under it."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from softprompt.conditions import Condition
from softprompt.diagnosis import Diagnosis, diagnose
from softprompt.metrics import Estimate, average
from softprompt.protocol import Protocol
from softprompt.ranking import Ranking, Standing, history, rank
from softprompt.result import Result


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Results of one protocol with their rankings. Two arms may be shown beside one another, never on one curve."""

    name: str
    results: tuple[Result, ...]
    """Those at the ranked step, per-item outcomes included; others may be there."""
    ranking: Ranking
    past: tuple[Ranking, ...]
    """Rankings by the headline condition at all steps, in the order of training; see `history`."""

    @classmethod
    def of(cls, name: str, results: Sequence[Result], benchmarks: Sequence[str]) -> Self:
        """Ranked at the best matched step.

        Raises:
            BadStudy: see `rank`.
        """
        past = tuple(history(results, benchmarks))
        return cls(name=name, results=tuple(results), ranking=rank(results, benchmarks), past=past)

    @property
    def protocol(self) -> Protocol:
        return self.results[0].protocol

    @functools.cached_property
    def diagnosis(self) -> Diagnosis:
        return diagnose(self.ranking, self.past)

    @functools.cached_property
    def latest(self) -> list[Result]:
        """Results at the ranked step."""
        return [result for result in self.results if result.step == self.ranking.step]

    @functools.cached_property
    def by_condition(self) -> dict[str, Ranking]:
        """The ranking by every condition, at the ranked step."""
        ranking = self.ranking
        return {
            condition: ranking
            if condition == ranking.condition
            else rank(self.latest, ranking.benchmarks, condition=condition, step=ranking.step)
            for condition in self.protocol.conditions
        }

    @property
    def seconds_per_job(self) -> float:
        return sum(result.cost.seconds for result in self.results) / len(self.results)

    def to_dict(self) -> dict[str, Any]:
        return {
            "protocol": {"fingerprint": self.protocol.fingerprint, **self.protocol.to_dict()},
            "ranking": self.ranking.to_dict(),
            "diagnosis": self.diagnosis.to_dict(),
            "results": [result.to_dict() for result in self.results],
        }


WORD_SETTINGS = ("num_shots", "num_train", "num_test", "chat")
"""Settings that decide what conditions in words alone show."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One condition of an arm, for a table of arms beside one another."""

    arm: str
    """Empty where the arms share it."""
    condition: Condition
    ranking: Ranking
    format_following: Estimate | None
    """Mean over all results at the ranked step."""

    @property
    def standings(self) -> dict[str, Standing]:
        return {standing.variant: standing for standing in self.ranking.standings}


def side_by_side(arms: Sequence[Arm]) -> list[Row]:
    """A row for each condition of each arm. Arms that ask alike without vectors, at the same step, share those."""
    are_alike = len({(arm.ranking.step, *(getattr(arm.protocol, name) for name in WORD_SETTINGS)) for arm in arms}) == 1
    rows: dict[tuple[str, str], Row] = {}
    for arm in arms:
        for condition in arm.protocol.planned:
            name = "" if are_alike and not condition.placement else arm.name
            row = Row(
                arm=name,
                condition=condition,
                ranking=arm.by_condition[condition.name],
                format_following=average(r.metrics[condition.name]["format_following"] for r in arm.latest),
            )
            rows.setdefault((name, condition.name), row)
    return list(rows.values())


def own_settings(arm: Arm, arms: Sequence[Arm]) -> dict[str, Any]:
    """Settings in which the arms differ, as this one has them."""
    own, others = arm.protocol.to_dict(), [other.protocol.to_dict() for other in arms]
    return {name: value for name, value in own.items() if any(other[name] != value for other in others)}
