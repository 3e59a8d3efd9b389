"""Rows side by side on the cores against every operation shared out among them: seconds of a tuning step.

    python benchmarks/cores.py --model PATH --mirror PATH
    python benchmarks/cores.py --model world --benchmark synthetic

One core, all cores sharing every operation, and all cores side by side take the same steps in turns in one process; see
`softprompt/cores.py`. An epoch on questions that are new, then one on those that `cue` has kept.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence

import torch
from tuning import tuning_flops
from workload import SYNTHETIC, Workload

from softprompt import Protocol, cores
from softprompt.meter import matrix_rate
from softprompt.prefill import Prefill
from softprompt.prompt import Placement
from softprompt.tune import tune

TUNINGS = (("prefix", 1), ("prefix", 3), ("cue", 3))
"""Placement and number of seeds."""


def steps(
    work: Workload, placement: str, num_seeds: int, num_epochs: int = 2, prefill: Prefill | None = None
) -> Iterator[object]:
    """The first value comes before the first step, with the preparations."""
    model, benchmark = work.language_model, work.by_letter
    examples = work.train(benchmark)
    num_steps = num_epochs * work.num_steps
    protocol = Protocol(
        placements=(placement,),
        num_steps=num_steps,
        batch_size=work.batch_size,
        num_train=len(examples),
        seeds=tuple(range(num_seeds)),
        curve_steps=tuple(range(num_steps)),
    )
    where = Placement(placement, model, benchmark, protocol)
    targets = [example.answer for example in examples]
    return tune(prefill or Prefill(model), benchmark, where, examples, targets, protocol)


def read_arguments(doc: str | None, only: Sequence[str] = ()) -> argparse.Namespace:
    """Of a script that times tuning steps.

    Args:
        only: what `--only` may choose from.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a checkpoint, or a shape: world, 135m, ...")
    parser.add_argument("--benchmark", default="arc_easy", help=f"or {SYNTHETIC}")
    parser.add_argument("--mirror", help="folder laid out like the hub")
    parser.add_argument("--threads", type=int, default=2)
    if only:
        parser.add_argument("--only", nargs="+", choices=only, default=only)
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments(__doc__)
    num_cores, least = arguments.threads, cores.LEAST_FLOPS
    ways = {"one core": (1, least), "shared out": (num_cores, float("inf")), "side by side": (num_cores, least)}
    work = Workload(model=arguments.model, benchmark=arguments.benchmark, mirror=arguments.mirror, num_threads=1)
    one_core = matrix_rate(work.language_model)
    flops = tuning_flops(work, work.language_model, work.by_letter, work.train(work.by_letter), "prefix")
    print(f"matrix rate of one core: {one_core / 1e9:.0f} GFLOP/s")
    print("| tuning | questions | " + " | ".join(ways) + " | shared out / side by side |")
    print("| --- " * (len(ways) + 3) + "|")
    for placement, num_seeds in TUNINGS:
        running = {way: steps(work, placement, num_seeds) for way in ways}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(2 * work.num_steps + 1):
            for way, (num_threads, limit) in ways.items():
                torch.set_num_threads(num_threads)
                cores.LEAST_FLOPS = limit
                start = time.perf_counter()
                next(running[way])
                seconds[way].append(time.perf_counter() - start)
        for epoch, questions in enumerate(("new", "seen")):
            # A step's seconds come with the value after it; the very first value brings the preparations instead.
            taken = {way: its[1 + epoch * work.num_steps :][: work.num_steps - 1] for way, its in seconds.items()}
            medians = {way: statistics.median(its) for way, its in taken.items()}
            cells = [f"{seconds_a_step:.3f}" for seconds_a_step in medians.values()]
            ratio = medians["shared out"] / medians["side by side"]
            print(f"| {placement}, seeds: {num_seeds} | {questions} | {' | '.join(cells)} | {ratio:.2f}x |", flush=True)
            if placement == "prefix":
                for way, (num_threads, _) in ways.items():
                    share = num_seeds * flops / work.num_steps / statistics.mean(taken[way]) / one_core / num_threads
                    print(f"  {way}: {share:.0%} of the matrix rate")


if __name__ == "__main__":
    main()
