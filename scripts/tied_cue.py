"""What `cue` gains or loses where the line break before it stays with the question.

    python scripts/tied_cue.py --folder build/worlds --model FOLDER --mirror PATH --out build/tied-cue.md

Tokenizers of the kind of Llama 3's and Qwen's join a line break to the punctuation before it; with them `Wording.tie`
leaves it to the question, and `cue` has a vector less. No such model was at hand. So the same is forced on models whose
tokenizers do not join, and held beside what they do by themselves: three variants of six Knowledge Worlds, and a real
model. About two minutes of a CPU core a world, half an hour for the real model.
"""

import argparse
import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from real_model import QUICK
from worlds import BENCHMARKS, HEAD, VARIANTS, condition_cells, kept, make_world, markdown, truth_cells, truths

import softprompt
from softprompt import Protocol, Result
from softprompt.wording import Wording

WORLD_SEEDS = (1, 2, 3, 101, 102, 103)
WORLD = Protocol(num_train=100, num_shots=0, curve_steps=(), placements=("cue",))
REAL = Protocol(num_test=200, num_shots=0, curve_steps=(), placements=("cue",), seeds=(0,))
REAL_BENCHMARKS = ("web_questions", "arc_easy_words", "svamp", "rte")
METRICS = ("accuracy", "format_following", "lenient_accuracy", "choice_accuracy", "gold_bits_per_byte")
WAYS = ("replaced", "kept")
"""The line break by a vector, as such tokenizers have it, or as it is."""


@contextmanager
def line_break(way: str) -> Iterator[None]:
    joins = Wording._joins
    Wording._joins = joins if way == "replaced" else lambda _wording, _end: True  # type: ignore[method-assign]
    try:
        yield
    finally:
        Wording._joins = joins  # type: ignore[method-assign]


def evaluated(folder: Path, checkpoint: Path, benchmark: str, protocol: Protocol, **how: object) -> dict[str, Result]:
    """By way."""
    found = {}
    for way in WAYS:
        with line_break(way):
            evaluate = partial(softprompt.evaluate, checkpoint, benchmark, protocol, **how)
            found[way] = kept(folder / way / protocol.fingerprint / checkpoint.parent.name / benchmark, evaluate)
    return found


def on_worlds(folder: Path, seeds: list[int]) -> Iterator[list[str]]:
    for seed in seeds:
        root = make_world(folder, seed)
        truth = truths(root)
        found = [
            evaluated(root / "tied-cue", root / "bucket" / variant / "step-800", name, WORLD, mirror=root / "mirror")
            for variant in VARIANTS
            for name in BENCHMARKS
        ]
        yield [str(seed), "truth", *truth_cells(truth)]
        for way in WAYS:
            yield [str(seed), way, *condition_cells([each[way] for each in found], truth, "cue", WORLD.seeds)]


def on_real_model(folder: Path, model: Path, mirror: str | None) -> Iterator[list[str]]:
    for name in REAL_BENCHMARKS:
        found = evaluated(folder / "tied-cue", model, name, REAL, mirror=mirror, resources=QUICK)
        for way, result in found.items():
            metrics, (_, num_vectors, _) = result.metrics["cue"], result.vectors["cue"].shape
            cells = (f"{metrics[metric].value:.3f}" if metric in metrics else "" for metric in METRICS)
            yield [name, way, str(num_vectors), *cells]


def said(rows: Iterator[list[str]]) -> list[list[str]]:
    """Each is printed as soon as it is there."""
    found = []
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/worlds"), help="worlds and results are kept here")
    parser.add_argument("--seeds", nargs="*", type=int, default=WORLD_SEEDS, help="of the worlds")
    parser.add_argument("--model", type=Path, help="folder of a checkpoint; left out, worlds only")
    parser.add_argument("--mirror", help="folder laid out like the hub")
    parser.add_argument("--out", type=Path, help="write the tables here, too")
    arguments = parser.parse_args()
    text = f"{datetime.date.today()}, `python scripts/tied_cue.py`\n\n"
    text += markdown(["world", "line break", *HEAD], said(on_worlds(arguments.folder, arguments.seeds))) + "\n"
    if arguments.model:
        rows = said(on_real_model(arguments.folder, arguments.model, arguments.mirror))
        text += "\n" + markdown(["benchmark", "line break", "vectors", *METRICS], rows) + "\n"
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
