"""Does cheaper tuning measure the same? `prefix` with its full and its truncated gradient, and `cue`, side by side.

    python scripts/cheaper_work.py --part worlds  --out docs/evidence/cheaper-work-worlds.md
    python scripts/cheaper_work.py --part quality --model FOLDER --mirror PATH
    python scripts/cheaper_work.py --part speed   --model FOLDER --mirror PATH

`worlds`: three variants of three Knowledge Worlds, three prompt seeds, against the truth. `quality`: a real model on
four benchmarks, one seed. `speed`: CPU seconds of a tuning step, the settings in turns in one process, so that a
machine that does other work tells nearly the same. Results are kept in `--folder` and read again: a run that was cut
off goes on.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from real_model import QUICK
from worlds import HEAD, condition_cells, evaluate_world, kept, make_world, markdown, truth_cells, truths

import softprompt
from softprompt import Protocol, Resources, Result
from softprompt.metrics import Outcome
from softprompt.wording import Wording

WORLD_SEEDS = (301, 302, 303)
BENCHMARKS = ("svamp", "web_questions", "commonsense_qa", "arc_easy_words")
SETTINGS = {
    "prefix": {"placements": ("prefix",)},
    "prefix, truncated": {"placements": ("prefix",), "prefix_gradient": "truncated"},
    "cue": {"placements": ("cue",)},
}
WORLD = Protocol(num_train=100, num_shots=0)
REAL = Protocol(num_test=100, num_shots=0, seeds=(0,), curve_steps=())
"""One seed and few items, so that two CPU cores do it in an hour."""
NUM_TIMED_STEPS = 5


def worlds(folder: Path, most: int | None) -> str:
    rows = []
    for seed in WORLD_SEEDS[:most]:
        root = make_world(folder, seed)
        truth = truths(root)
        rows.append([str(seed), "truth", *truth_cells(truth)])
        for name, changes in SETTINGS.items():
            protocol = replace(WORLD, **changes)
            results = evaluate_world(root, protocol)
            rows.append(["", name, *condition_cells(results, truth, protocol.headline, protocol.seeds)])
        print(markdown(WORLDS_HEAD, rows[-4:]), flush=True)
    return markdown(WORLDS_HEAD, rows)


WORLDS_HEAD = ["world", "setting", *HEAD]


def quality(folder: Path, model: str, mirror: str | None, most: int | None) -> str:
    rows = []
    for benchmark in BENCHMARKS[:most]:
        found = {}
        for name, changes in SETTINGS.items():
            protocol = replace(REAL, **changes)
            place = folder / "results" / protocol.fingerprint / benchmark
            evaluate = partial(softprompt.evaluate, model, benchmark, protocol, mirror=mirror, resources=QUICK)
            found[name] = kept(place, evaluate)
            rows.append([benchmark, name, *_cells(found[name], found["prefix"])])
        print(markdown(QUALITY_HEAD, rows[-3:]), flush=True)
    return markdown(QUALITY_HEAD, rows)


QUALITY_HEAD = [
    *("benchmark", "setting", "accuracy", "format-following", "choice accuracy", "gold bits per byte"),
    *("accuracy minus prefix's", "bits per byte minus prefix's"),
]


def _cells(result: Result, full: Result) -> list[str]:
    metrics = result.metrics[result.headline]
    names = ("accuracy", "format_following", "choice_accuracy", "gold_bits_per_byte")
    values = [f"{metrics[name].value:.3f}" if name in metrics else "" for name in names]
    if result is full:
        return [*values, "", ""]
    return [
        *values,
        _difference(result, full, lambda o: float(o.correct)),
        _difference(result, full, lambda o: (o.gold_bits or 0.0) / (o.gold_bytes or 1)),
    ]


def _difference(result: Result, other: Result, value) -> str:  # type: ignore[no-untyped-def]
    """Mean difference of a value of outcomes, paired by item, with its 95 % interval."""

    def by_item(one: Result) -> dict[str, Outcome]:
        return {o.item: o for o in one.outcomes if o.condition == one.headline}

    ours, theirs = by_item(result), by_item(other)
    differences = [value(ours[item]) - value(theirs[item]) for item in ours]
    spread = 1.96 * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.3f} ± {spread:.3f}"


def speed(model: str, mirror: str | None, most: int | None) -> str:
    """Steps of all settings in turns, all on questions that they meet for the first time."""
    rows = []
    for benchmark in BENCHMARKS[:most]:
        steps = {name: _steps(model, benchmark, mirror, changes) for name, changes in SETTINGS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
        for _ in range(1 + NUM_TIMED_STEPS):
            for name, its in steps.items():
                start = time.process_time()
                next(its)
                seconds[name].append(time.process_time() - start)
        medians = {name: statistics.median(its[1:]) for name, its in seconds.items()}
        for name, its in seconds.items():
            spread = f"{min(its[1:]):.2f} to {max(its[1:]):.2f}"
            rows.append([benchmark, name, f"{medians[name]:.2f}", spread, f"{medians['prefix'] / medians[name]:.2f}x"])
        print(markdown(SPEED_HEAD, rows[-3:]), flush=True)
    return markdown(SPEED_HEAD, rows)


SPEED_HEAD = ["benchmark", "setting", "CPU s a step, median", "range", "against prefix"]


def _steps(model: str, name: str, mirror: str | None, changes: dict[str, object]) -> Iterator[object]:
    """Yields after every step; the first one comes with the preparations."""
    from softprompt import benchmarks
    from softprompt.checkpoints import open_checkpoint
    from softprompt.loading import load_model
    from softprompt.prefill import Prefill
    from softprompt.prompt import Placement
    from softprompt.rows import load_rows
    from softprompt.tune import tune

    protocol = replace(REAL, **changes, curve_steps=tuple(range(REAL.num_steps)))
    benchmark = benchmarks.get(name)
    _, train, _ = load_rows(benchmark, mirror).sample(protocol)
    loaded = load_model(open_checkpoint(model), Resources())
    placement = Placement(protocol.headline, Wording(loaded, benchmark), protocol)
    return tune(Prefill(loaded), placement, train, [example.answer for example in train], protocol)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("worlds", "quality", "speed"), required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/cheaper-work"), help="worlds and results")
    parser.add_argument("--model", help="folder of a checkpoint")
    parser.add_argument("--mirror", help="folder laid out like the hub")
    parser.add_argument("--most", type=int, help="only the first so many worlds or benchmarks")
    parser.add_argument("--out", type=Path, help="write the table here, too")
    arguments = parser.parse_args()
    if arguments.part == "worlds":
        table = worlds(arguments.folder, arguments.most)
    elif arguments.part == "quality":
        table = quality(arguments.folder, arguments.model, arguments.mirror, arguments.most)
    else:
        table = speed(arguments.model, arguments.mirror, arguments.most)
    if arguments.out:
        arguments.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
