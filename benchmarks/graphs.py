"""What CUDA graphs save of a tuning, and how many there are.

    python benchmarks/graphs.py --model 135m --benchmark synthetic

How many sizes the passes of eighty steps are padded to, and by how much, counted without a pass. Then, on a GPU,
milliseconds of a step whose kernels are launched one by one (median of ten) and of one that is replayed (median of
those of eighty that record nothing), and what the eighty take in all; see `softprompt/graphs.py`.
"""

import argparse
import statistics
import time

import torch
from cores import TUNINGS, steps
from tuning import tuning_flops
from workload import SHAPES, SYNTHETIC, Workload, wait

from softprompt import Protocol
from softprompt.graphs import few_sizes
from softprompt.meter import matrix_rate
from softprompt.prefill import Prefill
from softprompt.prompt import Placement
from softprompt.tune import learned_answers, pass_size, rows_of_steps

NUM_STEPS = 80
NUM_LAUNCHED = 10


def timed(prefill: Prefill, work: Workload, placement: str, num_seeds: int, num_steps: int) -> list[tuple[float, bool]]:
    """Of each of the first steps of an epoch the seconds, and whether it recorded anything."""
    found = []
    running = steps(work, placement, num_seeds, num_epochs=1, prefill=prefill)
    for _ in range(num_steps):
        num_recorded, since = prefill.graphs.num_recorded, time.perf_counter()
        next(running)
        wait(prefill.model.device)
        found.append((time.perf_counter() - since, prefill.graphs.num_recorded > num_recorded))
    return found


def print_sizes(work: Workload) -> None:
    print("| tuning | sizes | positions computed that are padding |")
    print("| --- | --- | --- |")
    benchmark, examples = work.by_letter, work.train(work.by_letter)
    for placement, num_seeds in TUNINGS:
        protocol = Protocol(placements=(placement,), num_steps=NUM_STEPS, seeds=tuple(range(num_seeds)))
        targets = [example.answer for example in examples]
        answers = learned_answers(work.language_model, benchmark, examples, targets, protocol)
        where = Placement(placement, work.language_model, benchmark, protocol)
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
