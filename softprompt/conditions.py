"""Conditions: the same questions under different prompts, and the controls that say what a soft prompt has learned."""

from collections.abc import Collection
from dataclasses import dataclass

PLACEMENTS = ("cue", "prefix", "both")
CONTROLS = ("untuned", "random", "shuffled", "few_shot", "instruction")


@dataclass(frozen=True)
class Condition:
    """What stands before every item's answer. Metrics, tables and settings call it by its name.

    >>> Condition("cue", vectors="shuffled").name
    'cue_shuffled'
    """

    placement: str = ""
    """Where the vectors stand; empty for a prompt in words alone."""
    vectors: str = "tuned"
    """Where they come from: 'tuned' on the true answers; 'shuffled', tuned on answers shuffled among the training
    items; 'untuned', as they start; 'random', directions drawn by seed, as long as the tuned vectors they replace."""
    words: str = ""
    """What stands in front of the question: nothing, solved examples ('few_shot'), or one line that states the
    answer's format ('instruction'). Vectors are tuned without them."""

    @property
    def name(self) -> str:
        source = "" if self.vectors == "tuned" else self.vectors
        return "_".join(part for part in (self.placement, source, self.words) if part) or "zero_shot"

    @property
    def is_tuning(self) -> bool:
        """Whether vectors are tuned for it, which leaves a tuning curve; others take theirs from such a one."""
        return bool(self.placement) and self.vectors in ("tuned", "shuffled") and not self.words


def planned(placements: Collection[str], controls: Collection[str], num_shots: int) -> tuple[Condition, ...]:
    """A protocol's conditions, in the order in which tables show them: in words alone, then by placement."""
    words = [Condition(), Condition(words="few_shot"), Condition(words="instruction")]
    found = [c for c in words if not c.words or (num_shots if c.words == "few_shot" else c.words in controls)]
    for placement in placements:
        found.append(Condition(placement))
        found += [Condition(placement, source) for source in ("untuned", "random", "shuffled") if source in controls]
        found += [Condition(placement, words="few_shot")] if "few_shot" in controls else []
    return tuple(found)
