"""The same tuning steps in several ways, in turns in one process, so that whatever else the machine does meets all."""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tuning import tuning
from workload import SYNTHETIC, Workload

from softprompt.prefill import Prefill

TUNINGS = (("prefix", 1), ("prefix", 3), ("cue", 3))
"""Placement and number of seeds."""


@dataclass
class Turns:
    """Seconds of each step but the first, which brings the preparations, by way."""

    wall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of all threads together."""


def ratio(seconds: Mapping[str, Sequence[float]], first: str, second: str) -> float:
    """Median of the pairs."""
    return statistics.median(a / b for a, b in zip(seconds[first], seconds[second], strict=True))


def in_turns(work: Workload, placement: str, num_seeds: int, ways: Mapping[str, Callable[[], object]]) -> Turns:
    """Two epochs: one on questions that are new, then one on those that `cue` has kept.

    Args:
        ways: by name, what switches to it.
    """
    num_steps = 2 * work.num_steps
    whole = partial(tuning, work, placement=placement, seeds=range(num_seeds), num_steps=num_steps)
    running = {way: whole(prefill=Prefill(work.language_model), curve_steps=range(num_steps)) for way in ways}
    found = Turns()
    for number in range(num_steps):  # a value comes with each step's gradient, the first with the preparations as well
        for way in sorted(ways, reverse=bool(number % 2)):
            ways[way]()
            began, began_cpu = time.perf_counter(), time.process_time()
            next(running[way])
            if number:
                found.wall[way].append(time.perf_counter() - began)
                found.cpu[way].append(time.process_time() - began_cpu)
    return found


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
