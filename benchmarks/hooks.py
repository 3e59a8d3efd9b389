"""What a hook into the network saves: CPU seconds of a tuning step without and with it.

    python benchmarks/hooks.py --model PATH --mirror PATH --only last_mlp
    python benchmarks/hooks.py --model 135m-262k --benchmark synthetic --only output_layer

`last_mlp` reads positions without logits no further than the last layer's attention (`softprompt/last_layer.py`),
`output_layer` reads that layer's weights once for cross-entropies and gradients (`softprompt/output_layer.py`). The two
ways take the same steps in turns in one process.
"""

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from cores import TUNINGS, read_arguments, steps
from workload import Workload

from softprompt.output_layer import OutputLayer


class WholeLayer:
    """Stands for `LastMLP` and cuts nothing."""

    only = staticmethod(nullcontext)


def switched_off(hook: OutputLayer) -> OutputLayer:
    off = copy.copy(hook)
    off.is_on = False
    return off


WITHOUT: dict[str, Callable[[Any], Any]] = {"last_mlp": lambda _: WholeLayer(), "output_layer": switched_off}
"""What takes the place of each hook."""


def main() -> None:
    arguments = read_arguments(__doc__, only=tuple(WITHOUT))
    work = Workload(
        model=arguments.model,
        benchmark=arguments.benchmark,
        mirror=arguments.mirror,
        num_threads=arguments.threads,
    )
    model = work.language_model
    print("| hook | tuning | without, s | with, s | without / with |\n| --- | --- | --- | --- | --- |")
    for hook in arguments.only:
        ways: dict[str, Any] = {"without": WITHOUT[hook](getattr(model, hook)), "with": getattr(model, hook)}
        for placement, num_seeds in TUNINGS:
            running = {way: steps(work, placement, num_seeds) for way in ways}
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for i in range(2 * work.num_steps + 1):
                for way in sorted(ways, reverse=bool(i % 2)):
                    vars(model)[hook] = ways[way]
                    start = time.process_time()
                    next(running[way])
                    seconds[way].append(time.process_time() - start)
            without, with_it = seconds["without"][1:], seconds["with"][1:]  # the first brings the preparations
            ratio = statistics.median(a / b for a, b in zip(without, with_it, strict=True))
            cells = f"{statistics.median(without):.3f} | {statistics.median(with_it):.3f} | {ratio:.2f}x"
            print(f"| {hook} | {placement}, seeds: {num_seeds} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
