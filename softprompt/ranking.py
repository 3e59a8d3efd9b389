"""Ranking variants at matched steps, with the uncertainty that items and prompt seeds leave."""

import itertools
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from softprompt import controls, statistics
from softprompt.errors import BadStudy
from softprompt.result import Result
from softprompt.scores import Scores, by_place, score

ONE_SEED = "One prompt seed: what another tuning would score is in no interval and no test"
TOKENS_ALIKE = 1.01
"""Up to this ratio variants have seen as many training tokens."""
FORMAT_LEARNED = 0.95
"""Below this share of outputs in the right format, `accuracy` still measures format."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A variant's place, which equal scores share. `score` is its chance-centred accuracy averaged over the benchmarks,
    with a 95 % interval."""

    rank: int
    variant: str
    score: float
    low: float
    high: float
    accuracy: dict[str, float]
    """By benchmark, not centred."""
    limits: dict[str, tuple[float, float]]
    """By benchmark, the 95 % interval of that accuracy."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A variant against the one ranked next: difference of their scores, with its paired 95 % interval."""

    ahead: str
    behind: str
    difference: float
    low: float
    high: float
    p_value: float
    """Adjusted for all pairs of the ranking (Holm, 1979)."""
    distinguishable: bool
    """Whether no group holds both."""

    def __str__(self) -> str:
        by = (
            f"{self.difference:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f}, "
            f"p {'< 0.001' if self.p_value < 0.001 else f'= {self.p_value:.3f}'} among all pairs"
        )
        if self.distinguishable:
            return f"{self.ahead} is ahead of {self.behind} ({by})"
        return f"{self.ahead} and {self.behind} are not distinguishable yet ({by})"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What a benchmark tells of the ranked variants; see `softprompt.statistics`."""

    benchmark: str
    p_above_chance: float
    """The smallest of the variants' p-values, adjusted for their number (Holm)."""
    signal_to_noise: float | None = None
    """None for a single variant, as the next."""
    p_spread: float | None = None
    """Chance that equal variants would differ as much."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Variants that have every benchmark at `step`, best first; those that do not are `incomplete`."""

    step: int
    condition: str
    benchmarks: tuple[str, ...]
    incomplete: dict[str, tuple[str, ...]]
    """Variant -> benchmarks that it lacks at this step."""
    notes: tuple[str, ...] = ()
    """What the results at this step do not tell, in sentences: of later steps, of evaluations that failed."""
    num_items: int = 0
    num_seeds: int = 0
    """Prompt seeds behind each score; 0 where nothing was tuned."""
    standings: tuple[Standing, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    """Variants that cannot be told apart, best first; a variant may be in two groups, those in none stand alone."""
    signals: tuple[Signal, ...] = ()

    @property
    def scores(self) -> dict[str, float]:
        return {standing.variant: standing.score for standing in self.standings}

    @property
    def tiers(self) -> tuple[tuple[str, ...], ...]:
        """Best first: every variant of a tier is ahead of all of the next. Of those in one, in alphabetical order, not
        all can be told apart."""
        tiers: list[list[str]] = [[standing.variant] for standing in self.standings[:1]]
        for comparison in self.comparisons:
            if comparison.distinguishable:
                tiers.append([])
            tiers[-1].append(comparison.behind)
        return tuple(tuple(sorted(tier)) for tier in tiers)

    @property
    def order(self) -> str:
        """The tiers as text: 'A > B, C'."""
        return " > ".join(", ".join(tier) for tier in self.tiers)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "order": self.order, "sentences": self.sentences()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` gave, from JSON or not."""
        standings = (
            Standing(
                **{
                    **standing,
                    "limits": {b: tuple(limits) for b, limits in standing["limits"].items()},
                    "warnings": tuple(standing["warnings"]),
                }
            )
            for standing in values["standings"]
        )
        return cls(
            **{
                **{name: values[name] for name in cls.__dataclass_fields__},
                "benchmarks": tuple(values["benchmarks"]),
                "standings": tuple(standings),
                "comparisons": tuple(Comparison(**comparison) for comparison in values["comparisons"]),
                "groups": tuple(map(tuple, values["groups"])),
                "signals": tuple(Signal(**signal) for signal in values["signals"]),
                "incomplete": {variant: tuple(absent) for variant, absent in values["incomplete"].items()},
                "notes": tuple(values["notes"]),
            }
        )

    def table(self) -> list[list[str]]:
        """Its head, then a row for each variant."""
        return [
            ["rank", "variant", "score", "95 % interval", *self.benchmarks],
            *(
                [
                    str(s.rank),
                    s.variant,
                    f"{s.score:.3f}",
                    f"{s.low:.3f} to {s.high:.3f}",
                    *(f"{s.accuracy[benchmark]:.3f}" for benchmark in self.benchmarks),
                ]
                for s in self.standings
            ),
        ]

    def sentences(self) -> list[str]:
        """What the ranking says, in so many words."""
        return [*map(str, self.comparisons), *self.on_groups(), *self.cautions()]

    def on_groups(self) -> list[str]:
        """Of more than two, which the comparisons do not say."""
        return [f"{', '.join(group)} cannot be told apart" for group in self.groups if len(group) > 2]

    def cautions(self) -> list[str]:
        """What is missing, and reasons to distrust a score."""
        return [
            *([ONE_SEED] if self.num_seeds == 1 else []),
            *self.notes,
            *(f"{v} is incomplete at step {self.step}: no {', '.join(b)}" for v, b in sorted(self.incomplete.items())),
            *(f"{s.variant}: {warning}" for s in self.standings for warning in s.warnings),
        ]


class Measured(typing.Protocol):
    """What is known of a result without opening it."""

    @property
    def variant(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def benchmark(self) -> str: ...


def rank(
    results: Sequence[Result],
    benchmarks: Sequence[str],
    *,
    condition: str | None = None,
    step: int | None = None,
    variants: Iterable[str] = (),
) -> Ranking:
    """Rank variants by `condition` (default: the protocol's headline) at `step` (default: see `matched_steps`).

    Only results at that step are used. `variants` names others that are to be called incomplete if they lack it.

    Intervals and tests are of items and prompt seeds, paired, and tests are adjusted for all pairs; see
    `softprompt.statistics`.

    Raises:
        BadStudy: there are no results, they are of several protocols or versions of a benchmark, there are two of one
            variant on one benchmark, or variants were given different items.
    """
    fingerprints = {result.protocol.fingerprint for result in results}
    if len(fingerprints) != 1:
        raise BadStudy(
            f"Found results of {len(fingerprints)} protocols, expected those of one; scores of different protocols are "
            "never compared."
            if results
            else "There are no results to rank yet; evaluate checkpoints first."
        )
    condition = condition or results[0].headline
    if condition not in (conditions := {name for result in results for name in result.metrics}):
        raise BadStudy(
            f"There is no condition {condition!r} in these results; there are {', '.join(sorted(conditions))}."
        )
    notes = on_later_steps(results, benchmarks) if step is None else []
    step = matched_steps(results, benchmarks)[-1] if step is None else step
    found = by_place(r for r in results if r.step == step and condition in r.metrics)
    variants = sorted({result.variant for result in results}.union(variants))
    missing = {v: tuple(b for b in benchmarks if (v, b) not in found) for v in variants}
    complete = [v for v in variants if not missing[v]]
    ranking = Ranking(
        step=step,
        condition=condition,
        benchmarks=tuple(benchmarks),
        incomplete={v: absent for v, absent in missing.items() if absent},
        notes=tuple(notes),
    )
    if not complete:
        return ranking
    notes += on_unlike_tokens({v: found[v, benchmarks[0]].tokens for v in complete}, step)
    accuracy = {place: result.metrics[condition]["accuracy"] for place, result in found.items()}
    scores = score((found[v, b] for v in complete for b in benchmarks), benchmarks, condition)
    means = scores.means
    standings = tuple(
        Standing(
            rank=1 + sum(other > score for other in means.value_X.tolist()),
            variant=v,
            score=score,
            low=low,
            high=high,
            accuracy={b: accuracy[v, b].value for b in benchmarks},
            limits={b: (accuracy[v, b].low, accuracy[v, b].high) for b in benchmarks},
            warnings=_warnings([found[v, b] for b in benchmarks], condition),
        )
        for v, score, low, high in zip(
            scores.variants, means.value_X.tolist(), *(limit.tolist() for limit in means.interval()), strict=True
        )
    )
    comparisons, groups = _compared(scores)
    return replace(
        ranking,
        notes=tuple(notes),
        num_items=scores.num_items,
        num_seeds=scores.num_seeds,
        standings=standings,
        comparisons=comparisons,
        groups=groups,
        signals=_signals(scores),
    )


def _compared(scores: Scores) -> tuple[tuple[Comparison, ...], tuple[tuple[str, ...], ...]]:
    """Neighbours in the order of the ranking, and the groups that cannot be told apart."""
    variants, differences = scores.variants, scores.differences
    p_values = statistics.holm(differences.p_values())
    low_P, high_P = differences.interval()
    runs = statistics.level_groups(p_values, len(variants))
    comparisons = [
        Comparison(
            ahead=variants[i],
            behind=variants[j],
            difference=float(differences.value_X[pair]),
            low=float(low_P[pair]),
            high=float(high_P[pair]),
            p_value=p_values[pair],
            distinguishable=not any(first <= i and j <= last for first, last in runs),
        )
        for pair, (i, j) in enumerate(itertools.combinations(range(len(variants)), 2))
        if j == i + 1
    ]
    return tuple(comparisons), tuple(tuple(variants[first : last + 1]) for first, last in runs)


def _signals(scores: Scores) -> tuple[Signal, ...]:
    found, num = [], len(scores.variants)
    parts = zip(scores.benchmarks, scores.by_benchmark, scores.differences_by_benchmark, strict=True)
    for benchmark, means, differences in parts:
        above = min(statistics.holm(means.p_above()))
        ratio = statistics.signal_to_noise(means.value_X, differences) if num > 1 else None
        spread = None if ratio is None else statistics.p_of_spread(ratio, differences, num)
        found.append(Signal(benchmark=benchmark, p_above_chance=above, signal_to_noise=ratio, p_spread=spread))
    return tuple(found)


def matched_steps(results: Iterable[Measured], benchmarks: Sequence[str]) -> list[int]:
    """All steps with results, the best to rank at last: first those at which fewer variants have all
    benchmarks, then the earlier ones."""
    complete = _complete(results, benchmarks)
    return sorted(complete, key=lambda step: (len(complete[step]), step))


def on_later_steps(results: Iterable[Measured], benchmarks: Sequence[str]) -> list[str]:
    """That several variants could be ranked at a later step than the best matched one, from which others keep them:
    where one comes late, or an old checkpoint is evaluated at last, the ranking goes back. Or that one goes on alone,
    by more than a step."""
    complete = _complete(results, benchmarks)
    *others, best = sorted(complete, key=lambda step: (len(complete[step]), step))
    beyond = [step for step in others if step > best and complete[step]]
    later = [step for step in beyond if len(complete[step]) > 1] or beyond[1:]
    if not later:
        return []
    ahead, late = complete[later[-1]], complete[best] - complete[later[-1]]
    everyone, ahead_names, late_names = (", ".join(sorted(its)) for its in (complete[best], ahead, late))
    return [
        f"Ranked at step {best}, the last that all of {everyone} have; {ahead_names} can be ranked at step {later[-1]} "
        f"(`--step {later[-1]}`), without {late_names}"
    ]


def on_unlike_tokens(seen: Mapping[str, int | None], step: int) -> list[str]:
    """That the ranked variants have seen different numbers of training tokens, as far as their metadata say."""
    known = {variant: tokens for variant, tokens in sorted(seen.items()) if tokens}
    if not known or max(known.values()) <= TOKENS_ALIKE * min(known.values()):
        return []
    each = ", ".join(f"{variant} {tokens:,}" for variant, tokens in known.items())
    return [f"At step {step} the variants have not seen as many training tokens: {each}"]


def _complete(results: Iterable[Measured], benchmarks: Sequence[str]) -> dict[int, set[str]]:
    """By step, the variants that have all benchmarks."""
    done: dict[int, dict[str, set[str]]] = {}
    for result in results:
        done.setdefault(result.step, {}).setdefault(result.variant, set()).add(result.benchmark)
    wanted = set(benchmarks)
    return {step: {variant for variant, found in by.items() if wanted <= found} for step, by in done.items()}


def history(results: Sequence[Result], benchmarks: Sequence[str]) -> list[Ranking]:
    """The headline's ranking at every step at which any variant has all benchmarks, in the order of training."""
    rankings = [rank(results, benchmarks, step=step) for step in sorted({result.step for result in results})]
    return [ranking for ranking in rankings if ranking.standings]


def _warnings(results: Sequence[Result], condition: str) -> tuple[str, ...]:
    """Reasons to distrust a variant's score."""
    found = []
    for result in results:
        if diverged := result.divergence(condition):
            found.append(diverged)
        if result.saturated(condition, "accuracy") is False:
            found.append(f"accuracy still rises at the end of the tuning on {result.benchmark} (not saturated)")
        if condition in result.curves and (loss := result.loss_of_recall(condition)):
            found.append(loss)
        following = result.metrics[condition]["format_following"].value
        if condition in result.curves and following < FORMAT_LEARNED:
            found.append(f"format-following is only {following:.2f} on {result.benchmark}")
    taught = [result.benchmark for result in results if controls.has_learned(result.learned_task.get(condition, {}))]
    if taught:
        found.append(
            f"true answers beat shuffled ones and the plain prompt on {', '.join(taught)}: the excess may be learned "
            "task"
        )
    return tuple(found)
