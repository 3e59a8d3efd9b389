"""What rankings over training say of themselves: has the order settled, and which benchmarks tell variants apart?"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from softprompt.ranking import Ranking
from softprompt.statistics import LEVEL, decision_accuracy, kendall_tau, monotonicity


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One ranking among those before and after it."""

    step: int
    tau_before: float | None
    """Kendall's tau with the ranking before; None if there is none with two of the same variants."""
    decision_accuracy: float
    """Share of the pairs ordered as in the latest ranking."""


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What a benchmark is good for at this scale."""

    benchmark: str
    signal_to_noise: float | None
    p_above_chance: float
    monotonicity: float | None
    """Spearman's correlation of accuracy with step, averaged over the variants; None under three steps."""
    reasons: tuple[str, ...]
    """Why it had better be left out; empty if it is worth its cost."""

    def __str__(self) -> str:
        return f"{self.benchmark}: better left out at this scale, because {' and '.join(self.reasons)}"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Of a ranking and those before it."""

    moments: tuple[Moment, ...]
    """Those with at least two variants of the latest ranking, in the order of training."""
    num_apart: int
    """Pairs of variants that the latest ranking tells apart."""
    settled_at: int | None
    """First step from which on they are ordered as now; None if there are none, or one step only."""
    benchmarks: tuple[Worth, ...]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sentences": self.sentences()}

    def sentences(self) -> list[str]:
        """In so many words."""
        return [*self.on_order(), *(str(worth) for worth in self.benchmarks if worth.reasons)]

    def on_order(self) -> list[str]:
        """Whether it has settled; nothing of a single step."""
        found = []
        if len(self.moments) > 1:
            if self.settled_at is None:
                found.append("No two variants can be told apart yet, so there is no order that could have settled")
            elif self.settled_at == self.moments[-1].step:
                found.append("The order of the variants that can be told apart has not settled: it is new at this step")
            else:
                who = f"The {self.num_apart} pairs that can be told apart have"
                if self.num_apart == 1:
                    who = "The pair that can be told apart has"
                found.append(f"{who} been in this order since step {self.settled_at} of {self.moments[-1].step}")
            tau = self.moments[-1].tau_before
            if tau is not None:
                found.append(f"Kendall's tau with the ranking before is {tau:+.2f}")
        return found


def diagnose(latest: Ranking, past: Iterable[Ranking]) -> Diagnosis:
    """`past` are rankings by the same condition; those after the latest step, of fewer variants, are left aside."""
    before = sorted((ranking for ranking in past if ranking.step < latest.step), key=lambda r: r.step)
    rankings = [ranking for ranking in [*before, latest] if len(ranking.scores.keys() & latest.scores.keys()) > 1]
    apart = [
        (ahead, behind)
        for place, ahead in enumerate(latest.scores)
        for behind in list(latest.scores)[place + 1 :]
        if not any(ahead in group and behind in group for group in latest.groups)
    ]
    return Diagnosis(
        moments=tuple(_moments(latest, rankings)),
        num_apart=len(apart),
        settled_at=_settled_at(apart, rankings),
        benchmarks=tuple(_worths(latest, [*before, latest])),
    )


def _moments(latest: Ranking, rankings: Sequence[Ranking]) -> Iterable[Moment]:
    for number, ranking in enumerate(rankings):
        previous = rankings[number - 1].scores if number else {}
        common = {v: score for v, score in previous.items() if v in ranking.scores}
        final = {v: score for v, score in latest.scores.items() if v in ranking.scores}
        yield Moment(
            step=ranking.step,
            tau_before=kendall_tau(ranking.scores, common) if len(common) > 1 else None,
            decision_accuracy=decision_accuracy(ranking.scores, final),
        )


def _settled_at(apart: Sequence[tuple[str, str]], rankings: Sequence[Ranking]) -> int | None:
    if not apart or len(rankings) < 2:
        return None
    settled_at = None
    for ranking in reversed(rankings):
        scores = ranking.scores
        if any(a not in scores or b not in scores or scores[a] <= scores[b] for a, b in apart):
            break
        settled_at = ranking.step
    return settled_at


def _worths(latest: Ranking, rankings: Sequence[Ranking]) -> Iterable[Worth]:
    for signal in latest.signals:
        benchmark = signal.benchmark
        curves = [
            {r.step: s.accuracy[benchmark] for r in rankings for s in r.standings if s.variant == variant}
            for variant in latest.scores
        ]
        rise = monotonicity(curves)
        reasons = []
        if signal.p_above_chance > LEVEL:
            reasons.append(f"no variant is above chance yet (p = {signal.p_above_chance:.2f})")
        if signal.signal_to_noise is not None and signal.p_spread is not None and signal.p_spread > LEVEL:
            reasons.append(
                f"the variants differ no more than chance would make them (signal to noise "
                f"{signal.signal_to_noise:.1f}, p = {signal.p_spread:.2f})"
            )
        if rise is not None and rise[1] <= LEVEL:
            reasons.append(
                f"it falls over training (Spearman's correlation with the step {rise[0]:+.2f}, p = {rise[1]:.3f})"
            )
        yield Worth(
            benchmark=benchmark,
            signal_to_noise=signal.signal_to_noise,
            p_above_chance=signal.p_above_chance,
            monotonicity=rise and rise[0],
            reasons=tuple(reasons),
        )
