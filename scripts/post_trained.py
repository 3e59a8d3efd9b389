"""Which ranking of base models foretells the ranking of their post-trained selves, and how early?

    python scripts/post_trained.py --folder build/family --out docs/evidence/post-trained.md

Eight variants that differ in knowledge, format, width and order (`FAMILY` in `softprompt/world/corpus.py`) in worlds
11, 12 and 13, fixed before any of them was made and used for nothing else. Every piece of work is kept in the folder
and not done again; `--minutes` begins no piece after so long, and the page is written of what is there. On one core a
variant takes 1 to 2 minutes to pre-train, a checkpoint about 15 seconds to evaluate.

Shapes: R the data as they are and then their resamples, V variants, S prompt seeds, I items.
"""

import argparse
import datetime
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from family import LAST_STEP, PROTOCOL, SCHEDULE, VARIANTS, FamilyWorld, Piece, do
from matplotlib.figure import Figure
from worlds import BENCHMARKS, markdown

from softprompt.figures import COLOURS, INK, in_style
from softprompt.statistics import Floats, concordance, crossed_bootstrap, pairs

SEEDS = (11, 12, 13)
STEPS = (LAST_STEP, 400, 600, 200)
"""In the order in which they are evaluated."""
SCORES = {
    "zero_shot": ("zero_shot", "correct"),
    "few_shot": ("few_shot", "correct"),
    "prefix": ("prefix", "correct"),
    "cue": ("cue", "correct"),
    "both": ("both", "correct"),
    "zero_shot, lenient": ("zero_shot", "lenient_correct"),
    "zero_shot, choice": ("zero_shot", "choice_correct"),
    "few_shot, choice": ("few_shot", "choice_correct"),
}
"""Strict accuracy by condition; then what needs no format: the answer found anywhere in the output
(`lenient_accuracy`), the option that is most likely (`choice_accuracy`)."""
LINES = {"correct": "-", "lenient_correct": "--", "choice_correct": ":"}
TARGETS = {"post-trained": "asked", "truth": "", "post-trained on the train split": "train"}
"""What rankings are held against, each at the last step, with the people whom post-training asked about."""
FAR = 0.1
"""Three standard errors of a difference of two accuracies on 420 items."""
PROSE = "## What it says"


def pieces(worlds: list[FamilyWorld]) -> Iterator[Piece]:
    """The last step of one world after the other, then earlier steps."""
    yield from chain.from_iterable(chain(world.make(), world.evaluate(LAST_STEP)) for world in worlds)
    yield from chain.from_iterable(world.evaluate(step) for step in STEPS[1:] for world in worlds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/family"), help="worlds and results are kept here")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no piece of work after so long")
    parser.add_argument("--out", type=Path, help="write the page here, and its figure beside it; its prose is kept")
    arguments = parser.parse_args()
    worlds = [FamilyWorld(arguments.folder / str(seed), seed) for seed in SEEDS]
    if not do(pieces(worlds), arguments.minutes):
        print("Not all is done; the same command goes on.")
    worlds = [world for world in worlds if world.is_evaluated(LAST_STEP)]
    if not worlds:
        return
    steps = [step for step in SCHEDULE.saved_steps if all(world.is_evaluated(step) for world in worlds)]
    drawn = [Drawn(world, steps) for world in worlds]
    text = page(drawn, steps)
    print(text)
    if arguments.out:
        drawing = arguments.out.with_suffix(".svg")
        draw(drawn, steps, drawing)
        prose = arguments.out.read_text().partition(PROSE)[2] if arguments.out.exists() else "\n"
        arguments.out.write_text(
            f"{text}\n![Agreement by step, and scores at the last]({drawing.name})\n\n{PROSE}{prose}"
        )


class Drawn:
    """A world's scores and targets, (R, V) each, on the same resamples of its items and prompt seeds."""

    def __init__(self, world: FamilyWorld, steps: list[int]) -> None:
        self.world = world
        known_RV = self._means(world.truth())
        self.targets = {
            name: self._means(world.post_trained(people)) if people else known_RV for name, people in TARGETS.items()
        }
        self.scores: dict[int, dict[str, Floats]] = {}
        for step in steps:
            self.scores[step] = {name: self._means(world.scores(step, *source)) for name, source in SCORES.items()}
            fixed_RV = np.tile(world.truth_at(step), (len(known_RV), 1))
            self.scores[step]["truth"] = known_RV if step == LAST_STEP else fixed_RV

    def tau(self, step: int, score: str, target: str) -> Floats:
        return concordance(self.scores[step][score], self.targets[target])[0]

    def decisions(self, step: int, score: str, target: str) -> Floats:
        return concordance(self.scores[step][score], self.targets[target])[1]

    def far_decisions(self, step: int, score: str, target: str) -> Floats:
        """The same of pairs that lie far apart in the target."""
        scores_RV, target_RV = self.scores[step][score], self.targets[target]
        first, second = pairs(scores_RV.shape[1])
        far = np.abs(target_RV[0, first] - target_RV[0, second]) >= FAR
        ours, theirs = (np.sign(of_RV[:, first] - of_RV[:, second])[:, far] for of_RV in (scores_RV, target_RV))
        return 0.5 + 0.5 * (ours * theirs).mean(1)

    def _means(self, values_VSI: Floats) -> Floats:
        """Benchmark by benchmark, which have equally many items."""
        found = []
        for number, part_VSI in enumerate(np.split(values_VSI, len(BENCHMARKS), axis=2)):
            drawn_RV = crossed_bootstrap(
                part_VSI, np.ones(part_VSI.shape[2]), len(BENCHMARKS) * self.world.seed + number
            )
            found.append(np.concatenate([part_VSI.mean((1, 2))[None], drawn_RV]))
        return np.mean(found, axis=0)


def page(drawn: list[Drawn], steps: list[int]) -> str:
    seeds = ", ".join(str(one.world.seed) for one in drawn)
    parts = [
        "# Post-trained selves",
        f"{datetime.date.today()}, `python scripts/post_trained.py`, protocol `{PROTOCOL.fingerprint}` "
        f"(`num_train = 100`, no tuning curve), worlds {seeds}, {len(VARIANTS)} variants, 420 test items a world, "
        "three prompt seeds. Brackets: 95 % of 2,000 bootstrap resamples of items and prompt seeds, the same for all "
        "scores; the worlds themselves are not resampled. Resampling adds noise of its own, so that a high value may "
        "stand at the upper end of its bracket or above.",
        "## At the last step",
        "Agreement of each score of the base models with the zero-shot accuracy of their post-trained selves and with "
        "the truth, mean of the worlds. Decisions: share of the pairs of variants ordered alike; far: of the pairs at "
        f"least {FAR} apart. Accuracy: mean of variants and worlds; distance: mean absolute distance from the "
        "post-trained accuracy.",
        last_table(drawn),
        "Kendall's tau by world, against the post-trained selves | against the truth:",
        by_world_table(drawn),
        "How much better than `cue` the others agree with the post-trained selves (difference in tau, paired):",
        difference_table(drawn),
        "## By step",
        "Kendall's tau of each score of the base models at a step with the post-trained selves *of the last step*:",
        step_table(drawn, steps, "post-trained"),
        "The same with the truth of the last step:",
        step_table(drawn, steps, "truth"),
        "## Variants at the last step",
        "Accuracy (format-following).",
        *(variants_table(one) for one in drawn),
    ]
    return "\n\n".join(parts) + "\n"


def mean_of(worlds: Iterable[Floats]) -> Floats:
    return np.mean(list(worlds), axis=0)


def interval(values_R: Floats) -> tuple[float, float, float]:
    """Value, and the 95 % percentile interval of its resamples."""
    low, high = np.quantile(values_R[1:], [0.025, 0.975])
    return float(values_R[0]), float(low), float(high)


def cell(values_R: Floats, form: str = "+.2f") -> str:
    value, low, high = interval(values_R)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def last_table(drawn: list[Drawn]) -> str:
    header = ["score", *(f"tau, {name}" for name in TARGETS), "decisions, post-trained", "far", "accuracy", "distance"]
    rows = []
    for score in (*SCORES, "truth"):
        taus = [cell(mean_of(one.tau(LAST_STEP, score, target) for one in drawn)) for target in TARGETS]
        decisions = [
            cell(mean_of(decided(one, LAST_STEP, score, "post-trained") for one in drawn), ".2f")
            for decided in (Drawn.decisions, Drawn.far_decisions)
        ]
        found = np.array([one.scores[LAST_STEP][score][0] for one in drawn])
        wanted = np.array([one.targets["post-trained"][0] for one in drawn])
        rows.append([score, *taus, *decisions, f"{found.mean():.2f}", f"{np.abs(found - wanted).mean():.2f}"])
    return markdown(header, rows)


def by_world_table(drawn: list[Drawn]) -> str:
    rows = [
        [
            score,
            *(
                " | ".join(f"{one.tau(LAST_STEP, score, t)[0]:+.2f}" for one in drawn)
                for t in ("post-trained", "truth")
            ),
        ]
        for score in (*SCORES, "truth")
    ]
    numbers = [str(one.world.seed) for one in drawn]
    return markdown(["score", *numbers, *numbers], rows)


def difference_table(drawn: list[Drawn]) -> str:
    steps = list(drawn[0].scores)
    rows = []
    for score in (*SCORES, "truth"):
        if score == "cue":
            continue
        differences = [
            mean_of(one.tau(s, score, "post-trained") - one.tau(s, "cue", "post-trained") for one in drawn)
            for s in steps
        ]
        rows.append([score, *map(cell, differences)])
    return markdown(["score", *(f"step {step}" for step in steps)], rows)


def step_table(drawn: list[Drawn], steps: list[int], target: str) -> str:
    rows = [
        [score, *(cell(mean_of(one.tau(step, score, target) for one in drawn)) for step in steps)]
        for score in (*SCORES, "truth")
    ]
    return markdown(["score", *(f"step {step}" for step in steps)], rows)


def variants_table(one: Drawn) -> str:
    strict = [name for name, (_, field) in SCORES.items() if field == "correct"]
    other = [name for name in SCORES if name not in strict]
    scores = one.scores[LAST_STEP]
    rows = []
    for i, variant in enumerate(VARIANTS):
        rows.append(
            [
                variant,
                *(f"{one.targets[target][0, i]:.2f}" for target in ("truth", "post-trained")),
                *(f"{scores[n][0, i]:.2f} ({one.world.following(LAST_STEP, variant, n):.2f})" for n in strict),
                *(f"{scores[n][0, i]:.2f}" for n in other),
            ]
        )
    return markdown([f"world {one.world.seed}", "truth", "post-trained", *strict, *other], rows)


def draw(drawn: list[Drawn], steps: list[int], file: Path) -> None:
    """Left and middle: agreement by step. Right: accuracy of base models against that of their post-trained selves."""
    colours = dict(zip(dict.fromkeys(condition for condition, _ in SCORES.values()), COLOURS, strict=False))
    looks = {score: (colours[condition], LINES[field]) for score, (condition, field) in SCORES.items()}
    looks["truth"] = INK, "--"
    with in_style():
        figure = Figure(figsize=(11, 3.8))
        panels = figure.subplots(1, 3)
        figure.subplots_adjust(0.05, 0.13, 0.85, 0.92, 0.2)
        for axes, target in zip(panels, ("post-trained", "truth"), strict=False):
            for score, (colour, style) in looks.items():
                found = [interval(mean_of(one.tau(step, score, target) for one in drawn)) for step in steps]
                axes.plot(steps, [value for value, _, _ in found], style, marker="o", color=colour, label=score)
                if style == "-":
                    axes.fill_between(
                        steps, *zip(*[low_high for _, *low_high in found], strict=True), color=colour, alpha=0.1
                    )
            axes.set(
                title=f"tau with {target} at {LAST_STEP}", xlabel="training step", ylim=(-1.05, 1.05), xticks=steps
            )
        for score in ("zero_shot", "prefix", "cue", "both"):
            x = np.concatenate([one.targets["post-trained"][0] for one in drawn])
            y = np.concatenate([one.scores[LAST_STEP][score][0] for one in drawn])
            panels[2].plot(x, y, "o", color=looks[score][0], alpha=0.7)
        panels[2].plot([0, 1], [0, 1], color="#7a7a7a", linewidth=0.8)
        panels[2].set(title=f"accuracy of base models at {LAST_STEP}", xlabel="accuracy of their post-trained selves")
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(0.855, 0.5), frameon=False
        )
        figure.savefig(
            file, format="svg", facecolor="white", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )


if __name__ == "__main__":
    main()
