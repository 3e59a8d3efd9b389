"""One rule for all models? Settings of the protocol, one changed at a time, on Knowledge Worlds and on a real model.

    python scripts/settings.py --part worlds --out build/settings-worlds.md
    python scripts/settings.py --part real   --out build/settings-real.md --model FOLDER --mirror PATH

`worlds`: Knowledge Worlds, by default 101 to 103, whose truth is known, and on which no result is reported. `real`:
test items from `FIRST_ITEM` on, behind those that results are reported on. Results are kept in `--folder` and read
again: a run that was cut off goes on, and `--only` names the settings to run.
"""

import argparse
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from real_model import QUICK
from worlds import LAST_STEP, VARIANTS, evaluate_world, make_world, markdown, pooled, tau, truths

import softprompt
from softprompt import Protocol, Result, benchmarks
from softprompt.benchmarks import Rows

WORLD_SEEDS = (101, 102, 103)
BENCHMARKS = ("svamp", "arc_easy_words")
FIRST_ITEM = 200
WORLD = Protocol(num_train=100, num_shots=0, curve_steps=())
REAL = Protocol(num_test=100, num_shots=0, curve_steps=(), seeds=(0,))
"""One seed and few items, so that a CPU core does a question in an hour."""


@dataclass(frozen=True)
class Setting:
    question: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)

    def protocol(self, plain: Protocol) -> Protocol:
        return replace(plain, **self.changes)


PREFIX, CUE = {"placements": ("prefix",)}, {"placements": ("cue",)}
SETTINGS = (
    Setting("", "default"),
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


def on_worlds(folder: Path, settings: list[Setting], seeds: Sequence[int], step: int) -> Iterator[list[str]]:
    roots = {seed: make_world(folder, seed, step) for seed in seeds}
    for seed, root in roots.items():
        yield ["truth", "", "", str(seed), *(f"{truths(root, step)[v]:.3f}" for v in VARIANTS), "", "", ""]
    for setting in settings:
        protocol = setting.protocol(WORLD)
        for seed, root in roots.items():
            truth, results = truths(root, step), evaluate_world(root, protocol, step)
            for placement in protocol.placements:
                found = {v: pooled(results, v, placement) for v in VARIANTS}
                values = {v: metrics["accuracy"].value for v, metrics in found.items()}
                formats = (f"{metrics['format_following'].value:.2f}" for metrics in found.values())
                yield [
                    *(setting.question, setting.name, placement, str(seed)),
                    *(f"{values[v]:.3f} ({following})" for v, following in zip(VARIANTS, formats, strict=True)),
                    f"{tau(results, truth, placement):+.2f}",
                    f"{max(abs(values[v] - truth[v]) for v in VARIANTS):.2f}",
                    f"{max(_spread(results, v, placement, protocol.seeds) for v in VARIANTS):.3f}",
                ]


def _spread(results: list[Result], variant: str, placement: str, seeds: Sequence[int]) -> float:
    """Between the prompt seeds that come out highest and lowest."""
    values = [pooled(results, variant, placement, seed)["accuracy"].value for seed in seeds]
    return max(values) - min(values)


WORLD_HEAD = ["", "setting", "placement", "world", *VARIANTS, "tau", "largest error", "largest spread of seeds"]


def on_real_model(
    folder: Path, settings: list[Setting], model: str, mirror: str | None, names: Sequence[str], plain: Protocol
) -> Iterator[list[str]]:
    for setting in settings:
        protocol = setting.protocol(plain)
        for name in names:
            place = folder / "results" / protocol.fingerprint / name
            if not (place / "result.json").exists():
                rows = benchmarks.load(benchmarks.get(name), mirror)
                rows = Rows(rows.train, rows.test[FIRST_ITEM:])
                softprompt.evaluate(model, name, protocol, rows=rows, resources=QUICK).save(place)
            result = Result.load(place)
            for placement in protocol.placements:
                metrics = result.metrics[placement]
                cells = (f"{metrics[metric].value:.3f}" if metric in metrics else "" for metric in METRICS)
                yield [setting.question, setting.name, placement, name, *cells]


METRICS = ("format_following", "accuracy", "choice_accuracy", "gold_bits_per_byte")
REAL_HEAD = ["", "setting", "placement", "benchmark", *METRICS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("worlds", "real"), required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/settings"), help="worlds and results are kept here")
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
    settings = [s for s in SETTINGS if not s.question or arguments.only is None or s.question in arguments.only]
    run: Callable[[], Iterator[list[str]]]
    if arguments.part == "worlds":
        head, run = WORLD_HEAD, lambda: on_worlds(arguments.folder, settings, arguments.seeds, arguments.at)
    else:
        if not arguments.model:
            parser.error("--part real needs --model")
        plain = replace(
            REAL,
            placements=tuple(arguments.placements),
            num_test=arguments.items,
            seeds=tuple(arguments.prompt_seeds),
        )
        where = arguments.folder, settings, arguments.model, arguments.mirror, arguments.benchmarks, plain
        head, run = REAL_HEAD, lambda: on_real_model(*where)
    rows = []
    for row in run():
        print(*row, sep=" | ", flush=True)
        rows.append(row)
        if arguments.out:
            command = f"python scripts/settings.py --part {arguments.part}"
            arguments.out.write_text(f"{datetime.date.today()}, `{command}`\n\n{markdown(head, rows)}\n")


if __name__ == "__main__":
    main()
