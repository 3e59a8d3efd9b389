"""What CUDA graphs save of a tuning, and how many there are.

    python benchmarks/graphs.py --model 135m --benchmark synthetic

Counted without a GPU: the operations of a layer, forth and back, in a pass that is launched and in one that is recorded
(`softprompt/fewer_kernels.py`), and how many sizes the passes of eighty steps are padded to, and by how much. Then, on
a GPU, milliseconds of a step whose kernels are launched one by one (median of ten) and of one that is replayed (median
of those of eighty that record nothing), and what the eighty take in all; see `softprompt/graphs.py`.
"""

import argparse
import statistics
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from measured import Stopwatch
from torch.utils._python_dispatch import TorchDispatchMode
from tuning import exhaust, tuning, tuning_flops
from turns import TUNINGS
from workload import SHAPES, SYNTHETIC, Workload

from softprompt import Protocol
from softprompt.fewer_kernels import FewerKernels
from softprompt.graphs import few_sizes
from softprompt.meter import matrix_rate
from softprompt.packing import packing_rows
from softprompt.prefill import Prefill
from softprompt.prompt import Placement
from softprompt.tune import answer_losses, learned_answers, pass_size, rows_of_steps
from softprompt.wording import Wording

NUM_STEPS = 80
NUM_LAUNCHED = 10
LAYERS = "a few layers"


def timed(prefill: Prefill, work: Workload, placement: str, num_seeds: int, num_steps: int) -> list[tuple[float, bool]]:
    """Of each step the seconds, and whether it recorded anything."""
    watch, num_recorded = Stopwatch(prefill.model.device), [prefill.graphs.num_recorded]

    def on_step() -> None:
        watch.lap()
        num_recorded.append(prefill.graphs.num_recorded)

    running = tuning(work, prefill, placement, range(num_seeds), num_steps, on_step=on_step)
    watch.start_lap()
    exhaust(running)
    return [
        (seconds, after > before) for seconds, (before, after) in zip(watch.laps, pairwise(num_recorded), strict=True)
    ]


class Operations(TorchDispatchMode):
    """Counts those that move data."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, operation: Any, _types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.num += not operation.is_view and operation.overloadpacket.__name__ not in ("empty", "scalar_tensor")
        return operation(*arguments, **(named or {}))


def num_operations(num_layers: int, num_seeds: int, dtype: str, *, is_recorded: bool) -> int:
    """Of a pass of `prefix`, forth and back, through a small Llama on a CPU."""
    SHAPES[LAYERS] = {**SHAPES["world"], "num_hidden_layers": num_layers}
    work = Workload(model=LAYERS, benchmark=SYNTHETIC, dtype=dtype, num_steps=1)
    protocol = Protocol(placements=("prefix",), num_steps=1, seeds=tuple(range(num_seeds)))
    model, benchmark, examples = work.language_model, work.by_letter, work.train(work.by_letter) * num_seeds
    placement = Placement("prefix", Wording(model, benchmark), protocol)
    answers = learned_answers(placement.wording, examples, [example.answer for example in examples], protocol)
    (rows,) = rows_of_steps(placement, examples, answers, protocol)
    vectors_SPD, prefill = placement.initial_vectors(protocol.seeds).requires_grad_(), Prefill(model)
    way = FewerKernels(model.network)() if is_recorded else nullcontext()
    with packing_rows(model, rows) as are_packed, way, Operations() as operations:
        losses_BA = answer_losses(prefill, rows, vectors_SPD, packed=are_packed)
        torch.autograd.grad(losses_BA.sum(), vectors_SPD)
    return operations.num


def print_operations(dtype: str, num_seeds: int = 3) -> None:
    def of_layer(*, is_recorded: bool) -> int:
        three, two = (num_operations(num, num_seeds, dtype, is_recorded=is_recorded) for num in (3, 2))
        return three - two

    states = torch.ones(2, 8, dtype=getattr(torch, dtype), requires_grad=True)
    weight = torch.ones(8, dtype=states.dtype)
    with Operations() as of_norm:  # on a CPU PyTorch spells it out; on a GPU it is one there and one back
        norm = F.rms_norm(states, weight.shape, weight, 1e-5)
        torch.autograd.grad(norm, states, torch.ones_like(norm))
    launched, recorded = of_layer(is_recorded=False), of_layer(is_recorded=True) - 2 * (of_norm.num - 1 - 2)
    print(f"| tuning of a small Llama, {dtype}, counted on a CPU | operations of a layer, launched | recorded |")
    print(f"| --- | --- | --- |\n| prefix, seeds: {num_seeds} | {launched} | {recorded} |", flush=True)


def print_sizes(work: Workload) -> None:
    print("| tuning | sizes | positions computed that are padding |")
    print("| --- | --- | --- |")
    benchmark, examples = work.by_letter, work.train(work.by_letter)
    for placement, num_seeds in TUNINGS:
        protocol = Protocol(placements=(placement,), num_steps=NUM_STEPS, seeds=tuple(range(num_seeds)))
        targets = [example.answer for example in examples]
        where = Placement(placement, Wording(work.language_model, benchmark), protocol)
        answers = learned_answers(where.wording, examples, targets, protocol)
        sizes = [pass_size(rows) for rows in rows_of_steps(where, examples, answers, protocol)]
        chosen = few_sizes(sizes)
        rooms = [next(room for room in chosen if all(map(int.__ge__, room, size))) for size in sizes]
        padding = sum(room.computed for room in rooms) / sum(size.computed for size in sizes) - 1
        print(f"| {placement}, seeds: {num_seeds} | {len(chosen)} | {padding:.0%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help=f"folder of a checkpoint, or a shape: {', '.join(SHAPES)}")
    parser.add_argument("--benchmark", default=SYNTHETIC, help="one by letter")
    parser.add_argument("--mirror", help="folder laid out like the hub")
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    work = Workload(
        model=given.model,
        benchmark=given.benchmark,
        mirror=given.mirror,
        device="cuda" if has_gpu else "cpu",
        dtype=given.dtype,
        num_steps=NUM_STEPS,
    )
    print_operations(given.dtype)
    print_sizes(work)
    if not has_gpu:
        print("Found no GPU, which the times need; on a CPU tuning records nothing.")
        return
    model = work.language_model
    timed(Prefill(model), work, "prefix", 1, 2)  # whatever is loaded on first use
    rate = matrix_rate(model)
    print(f"{given.model} on {torch.cuda.get_device_name()}, {rate / 1e12:.0f} TFLOP/s")
    print("| tuning | launched, ms | replayed, ms | - share of the rate | 80 steps, s | shapes recorded |")
    print("| --- | --- | --- | --- | --- | --- |")
    for placement, num_seeds in TUNINGS:
        plain, prefill = Prefill(model), Prefill(model)
        plain.graphs.are_on = False
        launched = statistics.median(seconds for seconds, _ in timed(plain, work, placement, num_seeds, NUM_LAUNCHED))
        whole = timed(prefill, work, placement, num_seeds, NUM_STEPS)
        replayed = statistics.median(seconds for seconds, has_recorded in whole if not has_recorded)
        flops = num_seeds * tuning_flops(work, model, work.by_letter, work.train(work.by_letter), placement) / NUM_STEPS
        cells = [
            f"{placement}, seeds: {num_seeds}",
            f"{1e3 * launched:.1f}",
            f"{1e3 * replayed:.1f}",
            f"{flops / replayed / rate:.1%}",
            f"{sum(seconds for seconds, _ in whole):.2f}",
            str(prefill.graphs.num_recorded),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
