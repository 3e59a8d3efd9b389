"""One rule for all models? Settings of the protocol, one changed at a time, on Knowledge Worlds and on a real model.

    python scripts/settings.py --part worlds --out build/settings-worlds.md
    python scripts/settings.py --part real   --out build/settings-real.md --model FOLDER --mirror PATH

`worlds`: Knowledge Worlds, by default 101 to 103, whose truth is known, and whose scores settle settings and are no
independent evidence. `real`: test items from `FIRST_ITEM` on, behind those that results are reported on. Results are
kept in `--folder` and read again: a run that was cut off goes on, and `--only` names the settings to run.
"""

import argparse
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from real_model import QUICK
from worlds import LAST_STEP, VARIANTS, evaluate_world, kept, make_world, markdown, pooled, tau, truths

import softprompt
from softprompt import Protocol, Result, benchmarks
from softprompt.rows import Rows, load_rows

WORLD_SEEDS = (101, 102, 103)
BENCHMARKS = ("web_questions", "arc_easy_words")
FIRST_ITEM = 200
WORLD = Protocol(num_train=100, num_shots=0, curve_steps=())
REAL = Protocol(num_test=100, num_shots=0, curve_steps=(), seeds=(0,))
"""One seed and few items, so that a CPU core does a question in an hour."""
Found = TypeVar("Found")


@dataclass(frozen=True)
class Setting:
    question: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)

    def protocol(self, plain: Protocol) -> Protocol:
        return replace(plain, **self.changes)


PREFIX, CUE = {"placements": ("prefix",)}, {"placements": ("cue",)}
SETTINGS = (
    Setting("nothing", ""),
    Setting("loss", "cross-entropy (unknown share 0)", {"unknown_share": 0.0}),
    Setting("loss", "unknown share 0.05", {"unknown_share": 0.05}),
    Setting("loss", "unknown share 0.2", {"unknown_share": 0.2}),
    Setting("rate", "0.1", {"learning_rate": 0.1}),
    Setting("rate", "1", {"learning_rate": 1.0}),
    Setting("rate", "3", {"learning_rate": 3.0}),
    Setting("steps", "160", {"num_steps": 160}),
    Setting("steps", "320", {"num_steps": 320}),
    Setting("stop", "not learned", {"learn_stop": False}),
    Setting("warm-up", "20 steps", {"num_warmup_steps": 20}),
    Setting("placement", "both", {"placements": ("both",)}),
    Setting("vectors", "5", {**PREFIX, "num_vectors": 5}),
    Setting("vectors", "20", {**PREFIX, "num_vectors": 20}),
    Setting("vectors", "50", {**PREFIX, "num_vectors": 50}),
    Setting("start", "a question and its cue", {**PREFIX, "prefix_text": "Question: Where was born?\nAnswer:"}),
    Setting("start", "a longer cue", {**CUE, "cue_text": "\nAnswer: The answer is the word"}),
)


@dataclass(frozen=True)
class WorldScore:
    """What a setting makes of one world's variants in one placement."""

    setting: Setting
    placement: str
    world: int
    accuracies: list[float]
    followings: list[float]
    tau: float
    error: float
    """Largest distance of a variant's accuracy from its truth."""
    spread: float
    """Between the prompt seeds that come out highest and lowest, of the variant where it is largest."""

    @property
    def cells(self) -> list[str]:
        both = zip(self.accuracies, self.followings, strict=True)
        return [
            *(self.setting.question, self.setting.name, self.placement, str(self.world)),
            *(f"{accuracy:.3f} ({following:.2f})" for accuracy, following in both),
            *(f"{self.tau:+.2f}", f"{self.error:.2f}", f"{self.spread:.3f}"),
        ]

    @property
    def error_cell(self) -> str:
        return f"{self.error:.2f}" + (f" (tau {self.tau:+.2f})" if self.tau < 1 else "")


def on_worlds(roots: dict[int, Path], settings: list[Setting], step: int) -> Iterator[WorldScore]:
    for setting in settings:
        protocol = setting.protocol(WORLD)
        for seed, root in roots.items():
            truth, results = truths(root, step), evaluate_world(root, protocol, step)
            for placement in protocol.placements:
                found = [pooled(results, v, placement) for v in VARIANTS]
                accuracies = [metrics["accuracy"].value for metrics in found]
                yield WorldScore(
                    setting,
                    placement,
                    seed,
                    accuracies,
                    [metrics["format_following"].value for metrics in found],
                    tau(results, truth, placement),
                    max(abs(accuracy - truth[v]) for v, accuracy in zip(VARIANTS, accuracies, strict=True)),
                    max(_spread(results, v, placement, protocol.seeds) for v in VARIANTS),
                )


def _spread(results: list[Result], variant: str, placement: str, seeds: Sequence[int]) -> float:
    values = [pooled(results, variant, placement, seed)["accuracy"].value for seed in seeds]
    return max(values) - min(values)


def summary(scores: list[WorldScore]) -> str:
    """A row for each setting and placement: its largest error in each world."""
    worlds = list(dict.fromkeys(score.world for score in scores))
    by_row: dict[tuple[str, str, str], list[WorldScore]] = {}
    for score in scores:
        by_row.setdefault((score.setting.question, score.setting.name, f"`{score.placement}`"), []).append(score)
    rows = [
        [
            *place,
            *(score.error_cell for score in its),
            f"{min(min(score.followings) for score in its):.2f}",
            f"{max(score.spread for score in its):.2f}",
        ]
        for place, its in by_row.items()
    ]
    return markdown([*PLACE_HEAD, *map(str, worlds), "least format-following", "largest spread of seeds"], rows)


PLACE_HEAD = ["what is changed", "to", "placement"]
WORLD_HEAD = [*PLACE_HEAD, "world", *VARIANTS, "tau", "largest error", "largest spread of seeds"]


def on_real_model(
    folder: Path, settings: list[Setting], model: str, mirror: str | None, names: Sequence[str], plain: Protocol
) -> Iterator[list[str]]:
    for setting in settings:
        protocol = setting.protocol(plain)
        for name in names:
            place = folder / "results" / protocol.fingerprint / name
            rows = load_rows(benchmarks.get(name), mirror)
            rows = Rows(rows.train, rows.test[FIRST_ITEM:])
            result = kept(place, partial(softprompt.evaluate, model, name, protocol, rows=rows, resources=QUICK))
            for placement in protocol.placements:
                metrics = result.metrics[placement]
                cells = (f"{metrics[metric].value:.3f}" if metric in metrics else "" for metric in METRICS)
                yield [setting.question, setting.name, placement, name, *cells]


METRICS = ("format_following", "accuracy", "choice_accuracy", "gold_bits_per_byte")
REAL_HEAD = [*PLACE_HEAD, "benchmark", *METRICS]


def said(found: Iterator[Found], cells: Callable[[Found], list[str]]) -> Iterator[Found]:
    """Each is printed as soon as it is there."""
    for one in found:
        print(*cells(one), sep=" | ", flush=True)
        yield one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("worlds", "real"), required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/worlds"), help="worlds and results are kept here")
    parser.add_argument("--seeds", nargs="*", type=int, default=WORLD_SEEDS, help="of the worlds")
    parser.add_argument("--at", type=int, default=LAST_STEP, help="step of the worlds' checkpoints: 200, 400, 600, 800")
    parser.add_argument("--model", help="folder of a checkpoint")
    parser.add_argument("--mirror", help="folder laid out like the hub")
    parser.add_argument("--only", nargs="*", help="questions, such as loss and rate; the default is always run")
    parser.add_argument("--benchmarks", nargs="*", default=BENCHMARKS, help="of the real model")
    parser.add_argument("--placements", nargs="*", default=REAL.placements, help="of the real model, where none is set")
    parser.add_argument("--items", type=int, default=REAL.num_test, help="of each of the real model's benchmarks")
    parser.add_argument("--prompt-seeds", nargs="*", type=int, default=REAL.seeds, help="of the real model")
    parser.add_argument("--out", type=Path, help="write the table here, too")
    arguments = parser.parse_args()
    settings = [s for s in SETTINGS if not s.changes or arguments.only is None or s.question in arguments.only]
    rows: list[list[str]] = []
    if arguments.part == "worlds":
        roots = {seed: make_world(arguments.folder, seed, arguments.at) for seed in arguments.seeds}
        for seed, root in roots.items():
            truth = truths(root, arguments.at)
            rows.append(["truth", "", "", str(seed), *(f"{truth[v]:.3f}" for v in VARIANTS), "", "", ""])
        scores = list(said(on_worlds(roots, settings, arguments.at), lambda score: score.cells))
        rows += [score.cells for score in scores]
        text = f"{summary(scores)}\n\n{markdown(WORLD_HEAD, rows)}\n"
    else:
        if not arguments.model:
            parser.error("--part real needs --model")
        plain = replace(
            REAL,
            placements=tuple(arguments.placements),
            num_test=arguments.items,
            seeds=tuple(arguments.prompt_seeds),
        )
        found = on_real_model(
            arguments.folder, settings, arguments.model, arguments.mirror, arguments.benchmarks, plain
        )
        text = f"{markdown(REAL_HEAD, list(said(found, lambda row: row)))}\n"
    if arguments.out:
        command = f"python scripts/settings.py --part {arguments.part}"
        arguments.out.write_text(f"{datetime.date.today()}, `{command}`\n\n{text}")


if __name__ == "__main__":
    main()
