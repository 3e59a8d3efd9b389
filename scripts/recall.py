"""Does the warning of lost recall tell the scores that are wrong? Variants of sixteen worlds against their truth.

    python scripts/recall.py --folder build/worlds --family build/family --out build/recall.md

A variant's score is off if it lies more than `OFF` from what it knows; it is warned of if `Result.loss_of_recall` says
so on one of the three benchmarks. Worlds 1 to 5 as in `scripts/five_worlds.py`, worlds 101 to 303 as in
`scripts/settings.py`, whose results are read again; on one core about 2 minutes a world that they have not evaluated.
`--family`: also what `scripts/post_trained.py` has left there, from half of the training on.
"""

import argparse
import datetime
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import family
import five_worlds
import post_trained
import settings
from worlds import evaluate_world, make_world, markdown, pooled, truths

from softprompt import Result

OFF = 0.05
WORLDS = {
    **dict.fromkeys(five_worlds.SEEDS, five_worlds.PROTOCOL),
    **dict.fromkeys((101, 102, 103, 104, 105, 301, 302, 303), settings.WORLD),
}


@dataclass(frozen=True)
class Score:
    """Of one variant in one placement, over all benchmarks of its world."""

    placement: str
    part: str
    world: str
    variant: str
    truth: float
    accuracy: float
    following: float
    lost_on: tuple[str, ...]

    @property
    def is_off(self) -> bool:
        return abs(self.accuracy - self.truth) > OFF


def in_worlds(folder: Path) -> Iterator[Score]:
    for seed, protocol in WORLDS.items():
        root = make_world(folder, seed)
        yield from scores("A, B, C", str(seed), truths(root), evaluate_world(root, protocol))


def in_families(folder: Path) -> Iterator[Score]:
    for step in (400, 600, 800):
        for seed in post_trained.SEEDS:
            world = family.FamilyWorld(folder / str(seed), seed)
            truth = dict(zip(family.VARIANTS, world.truth_at(step), strict=True))
            yield from scores(f"family at {step}", f"{seed} at {step}", truth, world.results(step))


def scores(part: str, world: str, truth: dict[str, float], results: list[Result]) -> Iterator[Score]:
    for placement in results[0].protocol.placements:
        for variant, known in truth.items():
            metrics = pooled(results, variant, placement)
            lost = [r.benchmark for r in results if r.variant == variant and r.loss_of_recall(placement)]
            accuracy, following = metrics["accuracy"].value, metrics["format_following"].value
            yield Score(placement, part, world, variant, known, accuracy, following, tuple(lost))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/worlds"), help="worlds and results are kept here")
    parser.add_argument("--family", type=Path, help="worlds and results of scripts/post_trained.py")
    parser.add_argument("--out", type=Path, help="write the tables here, too")
    arguments = parser.parse_args()
    families = in_families(arguments.family) if arguments.family else ()
    found = sorted((*in_worlds(arguments.folder), *families), key=lambda score: score.placement)
    counts = Counter((score.placement, score.part, score.is_off, bool(score.lost_on)) for score in found)
    head = ["placement", "worlds", "off, warned", "off, not warned", "right, warned", "right, not warned"]
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    parts = dict.fromkeys((score.placement, score.part) for score in found)
    summary = [[*part, *(str(counts[*part, *kind]) for kind in kinds)] for part in parts]
    text = f"{datetime.date.today()}, `python scripts/recall.py`\n\n{markdown(head, summary)}\n\n"
    head = ["placement", "world", "variant", "truth", "accuracy (format-following)", "warned of on"]
    rows = [
        [s.placement, s.world, s.variant, f"{s.truth:.2f}", f"{s.accuracy:.2f} ({s.following:.2f})", in_words(s)]
        for s in found
        if s.is_off or s.lost_on
    ]
    text += f"{markdown(head, rows)}\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def in_words(score: Score) -> str:
    return ", ".join(name.removeprefix("world_") for name in score.lost_on)


if __name__ == "__main__":
    main()
