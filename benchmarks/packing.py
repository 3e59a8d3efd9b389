"""What it saves to pack a tuning step's rows into one.

    python benchmarks/packing.py --model PATH --mirror PATH
    python benchmarks/packing.py --model world --benchmark synthetic

Seconds of a step of `prefix` in a batch and packed, the two in turns in one process; see `softprompt/packing.py`.
"""

import statistics
import time

import torch
from cores import read_arguments, steps
from workload import Workload

from softprompt import packing

WAYS = {"in a batch": False, "packed": True}


def main() -> None:
    arguments = read_arguments(__doc__)
    torch.set_num_threads(arguments.threads)
    work = Workload(
        model=arguments.model, benchmark=arguments.benchmark, mirror=arguments.mirror, num_threads=arguments.threads
    )
    model = work.language_model
    assert packing.packs(model), "This network's rows cannot be packed."
    print("| seeds | in a batch, s | packed, s | ratio | ratio of CPU seconds |\n| --- | --- | --- | --- | --- |")
    for num_seeds in (1, 3):
        running = {way: steps(work, "prefix", num_seeds) for way in WAYS}
        wall: dict[str, list[float]] = {way: [] for way in WAYS}
        cpu: dict[str, list[float]] = {way: [] for way in WAYS}
        for i in range(2 * work.num_steps + 1):
            for way in sorted(WAYS, reverse=bool(i % 2)):
                packing._PACKS[model] = WAYS[way]
                began, began_cpu = time.perf_counter(), time.process_time()
                next(running[way])
                wall[way].append(time.perf_counter() - began)
                cpu[way].append(time.process_time() - began_cpu)
        seconds = [f"{statistics.median(wall[way][1:]):.3f}" for way in WAYS]  # the first brings the preparations
        cells = [f"{ratio(wall):.2f}x", f"{ratio(cpu):.2f}x"]
        print(f"| {num_seeds} | {' | '.join(seconds + cells)} |", flush=True)


def ratio(seconds: dict[str, list[float]]) -> float:
    """Median of the pairs."""
    first, second = (seconds[way][1:] for way in WAYS)
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


if __name__ == "__main__":
    main()
