"""Rows side by side on the cores against every operation shared out among them: seconds of a tuning step.

    python benchmarks/cores.py --model PATH --mirror PATH
    python benchmarks/cores.py --model world --benchmark synthetic

One core, all cores sharing every operation, and all cores side by side take the same steps in turns in one process; see
`softprompt/cores.py`. An epoch on questions that are new, then one on those that `cue` has kept.
"""

import statistics
from functools import partial

import torch
from tuning import tuning_flops
from turns import TUNINGS, in_turns, read_arguments
from workload import Workload

from softprompt import cores
from softprompt.meter import matrix_rate


def switch_to(num_threads: int, least_flops: float) -> None:
    torch.set_num_threads(num_threads)
    cores.MIN_FLOPS = least_flops


def main() -> None:
    arguments = read_arguments(__doc__)
    num_cores, least = arguments.threads, cores.MIN_FLOPS
    ways = {"one core": (1, least), "shared out": (num_cores, float("inf")), "side by side": (num_cores, least)}
    work = Workload(model=arguments.model, benchmark=arguments.benchmark, mirror=arguments.mirror, num_threads=1)
    one_core = matrix_rate(work.language_model)
    flops = tuning_flops(work, work.language_model, work.by_letter, work.train(work.by_letter), "prefix")
    print(f"matrix rate of one core: {one_core / 1e9:.0f} GFLOP/s")
    print("| tuning | questions | " + " | ".join(ways) + " | shared out / side by side |")
    print("| --- " * (len(ways) + 3) + "|")
    for placement, num_seeds in TUNINGS:
        found = in_turns(work, placement, num_seeds, {way: partial(switch_to, *how) for way, how in ways.items()})
        for epoch, questions in enumerate(("new", "seen")):
            num = work.num_steps
            taken = {way: its[num - 1 :] if epoch else its[: num - 1] for way, its in found.wall.items()}
            medians = {way: statistics.median(taken[way]) for way in ways}
            cells = [f"{seconds_a_step:.3f}" for seconds_a_step in medians.values()]
            ratio = medians["shared out"] / medians["side by side"]
            print(f"| {placement}, seeds: {num_seeds} | {questions} | {' | '.join(cells)} | {ratio:.2f}x |", flush=True)
            if placement == "prefix":
                for way, (num_threads, _) in ways.items():
                    share = num_seeds * flops / work.num_steps / statistics.mean(taken[way]) / one_core / num_threads
                    print(f"  {way}: {share:.0%} of the matrix rate")


if __name__ == "__main__":
    main()
