"""What it saves to read positions without logits no further than the last layer's attention.

    python benchmarks/last_layer.py --model PATH --mirror PATH
    python benchmarks/last_layer.py --model world --benchmark synthetic

CPU seconds of a tuning step without and with it, the two in turns in one process on one core; see
`softprompt/last_layer.py`.
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch
from cores import TUNINGS, steps
from workload import SYNTHETIC, Workload


class WholeLayer:
    """Stands for `LastMLP` and cuts nothing."""

    only = staticmethod(nullcontext)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a checkpoint, or a shape: world, 135m, ...")
    parser.add_argument("--benchmark", default="arc_easy", help=f"or {SYNTHETIC}")
    parser.add_argument("--mirror", help="folder laid out like the hub")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = Workload(model=arguments.model, benchmark=arguments.benchmark, mirror=arguments.mirror, num_threads=1)
    model = work.language_model
    ways: dict[str, Any] = {"without": WholeLayer(), "with": model.last_mlp}
    num_last = model.num_last_parameters - model.num_head_parameters
    share = num_last / (num_last + model.num_body_parameters)
    print(f"the last MLP is {share:.1%} of the layers' weights")
    print("| tuning | without, s | with, s | without / with |\n| --- | --- | --- | --- |")
    for placement, num_seeds in TUNINGS:
        running = {way: steps(work, placement, num_seeds) for way in ways}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for i in range(2 * work.num_steps + 1):
            for way in sorted(ways, reverse=bool(i % 2)):
                vars(model)["last_mlp"] = ways[way]
                start = time.process_time()
                next(running[way])
                seconds[way].append(time.process_time() - start)
        without, with_it = seconds["without"][1:], seconds["with"][1:]  # the first brings the preparations
        ratio = statistics.median(a / b for a, b in zip(without, with_it, strict=True))
        cells = f"{statistics.median(without):.3f} | {statistics.median(with_it):.3f} | {ratio:.2f}x"
        print(f"| {placement}, seeds: {num_seeds} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
