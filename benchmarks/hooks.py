"""What a hook into the network saves: CPU seconds of a tuning step without and with it.

    python benchmarks/hooks.py --model PATH --mirror PATH --only last_mlp
    python benchmarks/hooks.py --model 135m-262k --benchmark synthetic --only output_layer

`last_mlp` reads positions without logits no further than the last layer's attention (`softprompt/last_layer.py`),
`output_layer` reads that layer's weights once for cross-entropies and gradients (`softprompt/output_layer.py`). The two
ways take the same steps in turns in one process.
"""

import copy
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from turns import TUNINGS, in_turns, ratio, read_arguments
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
        own = getattr(model, hook)
        ways = {
            "without": partial(vars(model).__setitem__, hook, WITHOUT[hook](own)),
            "with": partial(vars(model).__setitem__, hook, own),
        }
        for placement, num_seeds in TUNINGS:
            seconds = in_turns(work, placement, num_seeds, ways).cpu
            cells = [f"{statistics.median(seconds[way]):.3f}" for way in ways]
            cells.append(f"{ratio(seconds, 'without', 'with'):.2f}x")
            print(f"| {hook} | {placement}, seeds: {num_seeds} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
