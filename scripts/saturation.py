"""Does format-following saturate, and does knowledge stay where it is? Tuning curves to 160 steps, on true answers and
on answers shuffled among the training items, which teach the format alone.

    python scripts/saturation.py --part worlds --out build/saturation-worlds.md
    python scripts/saturation.py --part real   --out build/saturation-real.md --model FOLDER --mirror PATH

`worlds`: the variants of worlds 1 to 3 after pre-training, three prompt seeds. `real`: a model on benchmarks of
different answer grammars, one seed. Results are kept in `--folder` and read again: a run that was cut off goes on.
"""

import argparse
import datetime
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure
from real_model import QUICK
from worlds import BENCHMARKS as ATTRIBUTES
from worlds import LAST_STEP, VARIANTS, make_world, markdown, truths

from softprompt import Protocol, Resources, Result, benchmarks, controls
from softprompt.checkpoints import open_checkpoint
from softprompt.experiment import Experiment
from softprompt.figures import COLOURS, in_style
from softprompt.metrics import FORMAT_FREE, Estimate, average

WORLD_SEEDS = (1, 2, 3)
BENCHMARKS = ("arc_easy", "svamp", "web_questions", "rte", "snips", "commonsense_qa_words", "arc_easy_words", "gsm8k")
"""The quick ones first."""
STEPS = (0, 10, 20, 40, 80, 160)
WORLD = Protocol(num_train=100, num_shots=0, num_steps=STEPS[-1], curve_steps=STEPS, controls=("shuffled",))
REAL = replace(WORLD, num_train=640, num_test=100, seeds=(0,), placements=("cue",))
"""One seed, one placement and few items, so that a CPU core does it in an hour."""
ENOUGH = 0.95
METRICS = ("format_following", "knowledge_accuracy", "lenient_accuracy")


@dataclass(frozen=True)
class Curve:
    """A tuning's, averaged over results: by metric a value at each of `STEPS`, None where it is undefined."""

    title: str
    condition: str
    by_metric: dict[str, list[Estimate | None]]

    @classmethod
    def of(cls, title: str, condition: str, results: Iterable[Result]) -> "Curve":
        points = [result.curves[condition] for result in results]
        return cls(
            title,
            condition,
            {
                metric: [average(curve[i].metrics.get(metric) for curve in points) for i in range(len(STEPS))]
                for metric in METRICS
            },
        )

    def cells(self, metric: str) -> list[str]:
        return ["" if value is None else f"{value.value:.2f}" for value in self.by_metric[metric]]


def on_worlds(folder: Path) -> dict[str, list[Result]]:
    """By variant, all its worlds and attributes together."""
    found: dict[str, list[Result]] = {variant: [] for variant in VARIANTS}
    truth: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for seed in WORLD_SEEDS:
        root = make_world(folder, seed)
        for variant, share in truths(root).items():
            truth[variant].append(share)
        checkpoints = [root / "bucket" / variant / f"step-{LAST_STEP}" for variant in VARIANTS]
        for result in run(root, WORLD, ATTRIBUTES, checkpoints, str(root / "mirror"), Resources()):
            found[result.variant].append(replace(result, variant=f"{result.variant} of world {seed}"))
    return {f"{v} (knows {sum(truth[v]) / len(truth[v]):.2f})": found[v] for v in VARIANTS}


def on_real_model(folder: Path, names: Iterable[str], model: str, mirror: str | None) -> dict[str, list[Result]]:
    """By benchmark."""
    results = run(folder, REAL, names, [Path(model)], mirror, QUICK)
    return {result.benchmark: [result] for result in results}


def run(
    folder: Path,
    protocol: Protocol,
    names: Iterable[str],
    checkpoints: Iterable[Path],
    mirror: str | None,
    resources: Resources,
) -> list[Result]:
    experiment = Experiment(
        arms={"": protocol},
        benchmarks=[benchmarks.get(name) for name in names],
        folder=folder / "results" / "saturation",
        resources=resources,
        mirror=mirror,
    )
    (arm,) = experiment.run(open_checkpoint(str(checkpoint)) for checkpoint in checkpoints)
    return list(arm.results)


def excess_rows(title: str, results: list[Result]) -> list[list[str]]:
    """By how much true answers beat shuffled ones or the plain prompt, whichever is less; mean of the results."""
    rows = []
    for placement in results[0].learned_task:
        cells = []
        for metric in FORMAT_FREE:
            found = average(result.learned_task[placement].get(metric) for result in results)
            cells.append("" if found is None else f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})")
        rows.append([title, placement, *cells])
    return rows


def draw(curves: list[Curve], file: Path) -> None:
    """A panel for each title: format-following solid, knowledge dashed, a colour for each condition."""
    titles = list(dict.fromkeys(curve.title for curve in curves))
    colours = dict(zip(dict.fromkeys(curve.condition for curve in curves), COLOURS, strict=False))
    num_columns = min(4, len(titles))
    num_rows = -(-len(titles) // num_columns)
    with in_style():
        figure = Figure(figsize=(2.7 * num_columns, 0.5 + 2.1 * num_rows), facecolor="white", layout="constrained")
        panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True).flat
        for axes, title in itertools.zip_longest(panels, titles):
            if title is None:
                axes.remove()
                continue
            for curve in (curve for curve in curves if curve.title == title):
                for metric, dashes in (("format_following", "-"), ("knowledge_accuracy", "--")):
                    points = [(s, e.value) for s, e in zip(STEPS, curve.by_metric[metric], strict=True) if e]
                    axes.plot(
                        [step for step, _ in points],
                        [value for _, value in points],
                        dashes,
                        color=colours[curve.condition],
                        marker="o",
                        markersize=3,
                        label=f"{curve.condition}: {metric.replace('_', '-')}",
                    )
            axes.axhline(ENOUGH, color="black", linewidth=0.6, linestyle=":")
            axes.set(title=title, ylim=(-0.03, 1.03), xlabel="tuning step")
            axes.tick_params(labelbottom=True)  # below the last panel of a column there may be none
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("worlds", "real"), required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/worlds"), help="worlds and results are kept here")
    parser.add_argument("--model", help="folder of a checkpoint")
    parser.add_argument("--mirror", help="folder laid out like the hub")
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS, help="of the real model's benchmarks; default: all")
    parser.add_argument("--out", type=Path, help="write the tables here, and the figure beside them")
    arguments = parser.parse_args()
    if arguments.part == "worlds":
        groups = on_worlds(arguments.folder)
    else:
        if not arguments.model:
            parser.error("--part real needs --model")
        names = arguments.only or BENCHMARKS
        groups = on_real_model(arguments.folder, names, arguments.model, arguments.mirror)
    results = [result for its in groups.values() for result in its]
    curves = [Curve.of(title, name, its) for title, its in groups.items() for name in its[0].protocol.tunings]
    excess = [row for title, its in groups.items() for row in excess_rows(title, its)]
    head = ["", "condition", *(f"step {step}" for step in STEPS)]
    text = f"{datetime.date.today()}, `python scripts/saturation.py --part {arguments.part}`\n"
    for metric in METRICS:
        text += f"\n### {metric}\n\n{markdown(head, [[c.title, c.condition, *c.cells(metric)] for c in curves])}\n"
    text += "\n### True answers less shuffled ones, or less the plain prompt, whichever is less\n\n"
    text += f"{markdown(['', 'placement', *FORMAT_FREE], excess)}\n\n"
    text += "".join(f"- `{placement}`: {says}\n" for placement, says in controls.summary(results).items())
    print(text)
    if arguments.out:
        arguments.out.write_text(text)
        draw(curves, arguments.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
