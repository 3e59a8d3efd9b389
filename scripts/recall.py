"""Does the warning of lost recall tell the scores that are wrong? Every variant of thirteen worlds against its truth.

    python scripts/recall.py --folder build/worlds --out build/recall.md

A variant's score is off if it lies more than `OFF` from what it knows; it is warned of if `Result.loss_of_recall` says
so on one of the three benchmarks. Worlds 1 to 5 as in `scripts/five_worlds.py`, the others as in `scripts/settings.py`,
whose results are read again; on one core about 2 minutes a world that they have not evaluated.
"""

import argparse
import datetime
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import five_worlds
import settings
from worlds import VARIANTS, evaluate_world, make_world, markdown, pooled, truths

OFF = 0.05
WORLDS = {
    **dict.fromkeys(five_worlds.SEEDS, five_worlds.PROTOCOL),
    **dict.fromkeys((101, 102, 103, 104, 105, 301, 302, 303), settings.WORLD),
}


@dataclass(frozen=True)
class Score:
    """Of one variant in one placement, over all benchmarks of its world."""

    placement: str
    world: int
    variant: str
    truth: float
    accuracy: float
    following: float
    lost_on: tuple[str, ...]

    @property
    def is_off(self) -> bool:
        return abs(self.accuracy - self.truth) > OFF


def scores(folder: Path) -> Iterator[Score]:
    for world, protocol in WORLDS.items():
        root = make_world(folder, world)
        truth, results = truths(root), evaluate_world(root, protocol)
        for placement in protocol.placements:
            for variant in VARIANTS:
                metrics = pooled(results, variant, placement)
                lost = [r.benchmark for r in results if r.variant == variant and r.loss_of_recall(placement)]
                accuracy, following = metrics["accuracy"].value, metrics["format_following"].value
                yield Score(placement, world, variant, truth[variant], accuracy, following, tuple(lost))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/worlds"), help="worlds and results are kept here")
    parser.add_argument("--out", type=Path, help="write the tables here, too")
    arguments = parser.parse_args()
    found = sorted(scores(arguments.folder), key=lambda score: score.placement)
    counts = Counter((score.placement, score.is_off, bool(score.lost_on)) for score in found)
    head = ["placement", "off, warned", "off, not warned", "right, warned", "right, not warned"]
    cells = [(True, True), (True, False), (False, True), (False, False)]
    summary = [[p, *(str(counts[p, off, warned]) for off, warned in cells)] for p in ("cue", "prefix")]
    text = f"{datetime.date.today()}, `python scripts/recall.py`\n\n{markdown(head, summary)}\n\n"
    head = ["placement", "world", "variant", "truth", "accuracy (format-following)", "warned of on"]
    rows = [
        [s.placement, str(s.world), s.variant, f"{s.truth:.2f}", f"{s.accuracy:.2f} ({s.following:.2f})", *_names(s)]
        for s in found
        if s.is_off or s.lost_on
    ]
    text += f"{markdown(head, rows)}\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


def _names(score: Score) -> list[str]:
    return [", ".join(name.removeprefix("world_") for name in score.lost_on)]


if __name__ == "__main__":
    main()
