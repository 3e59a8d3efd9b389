"""What it saves to pack a tuning step's rows into one.

    python benchmarks/packing.py --model PATH --mirror PATH
    python benchmarks/packing.py --model world --benchmark synthetic

Seconds of a step of `prefix` in a batch and packed, the two in turns in one process; see `softprompt/packing.py`.
"""

import statistics
from functools import partial

import torch
from turns import in_turns, ratio, read_arguments
from workload import Workload

from softprompt import packing, trials

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
    known = trials._FOUND[model]
    ways = {way: partial(known.__setitem__, packing._proves_to_pack, packs) for way, packs in WAYS.items()}
    for num_seeds in (1, 3):
        found = in_turns(work, "prefix", num_seeds, ways)
        cells = [f"{statistics.median(found.wall[way]):.3f}" for way in WAYS]
        cells += [f"{ratio(seconds, *WAYS):.2f}x" for seconds in (found.wall, found.cpu)]
        print(f"| {num_seeds} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
