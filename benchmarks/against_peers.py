"""Ours against PEFT's PromptTuning under the HF Trainer, and against lm-evaluation-harness.

    python benchmarks/against_peers.py --model PATH --mirror PATH --out docs/evidence/peers.md

Same model, rows and prompts; each contender in a process of its own, one after the other, in rounds, so that whatever
else the machine does meets all of them. The peers come with `pip install -e '.[peers]'`. On a GPU:

    python benchmarks/against_peers.py --model 7b --benchmark synthetic --device cuda --dtype bfloat16

wants nothing but torch, transformers, accelerate and peft; `--only tune` leaves lm-evaluation-harness out.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS, measure
from measured import Measured
from workload import SHAPES, Workload

PEERS = {"tune": "peft", "zero-shot": "lm-eval", "few-shot": "lm-eval", "options": "lm-eval"}
"""What each task is held against."""
HERE = Path(__file__).parent


class Laboratory:
    """Runs every contender in a process of its own, forked from one that has imported what they need and nothing more.

    Args:
        num_threads: of a CPU.
    """

    def __init__(self, num_threads: int | None) -> None:
        os.environ |= {
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # the other way leaves a CUDA behind that does not survive a fork
        }
        if num_threads:
            os.environ |= {"OMP_NUM_THREADS": str(num_threads), "OMP_WAIT_POLICY": "PASSIVE"}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["contenders", "preloaded"])

    def run(self, name: str, work: Workload) -> Measured:
        with ProcessPoolExecutor(1, mp_context=self._context) as pool:
            return pool.submit(measure, name, work).result()


def table(runs: dict[str, list[Measured]]) -> str:
    """Ratios are of medians over rounds; in brackets the least and the greatest ratio of one round."""
    lines = [
        "| task | contender | items/s | against its peer | - in CPU seconds | peak memory, GB | share of matrix rate "
        "| - of a median step | - its ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in runs.items():
        task, _, contender = name.partition("/")
        base = runs.get(f"{task}/{PEERS[task]}", [])
        rate = statistics.median(one.num_items / sum(one.seconds) for one in found)
        memory = statistics.median(one.peak_bytes for one in found) / 1e9
        share = statistics.median(one.flops / sum(one.seconds) / one.matrix_rate for one in found)
        step_s = [statistics.median(one.seconds) for one in found]
        in_step = statistics.median(
            one.flops / len(one.seconds) / s / one.matrix_rate for one, s in zip(found, step_s, strict=True)
        )
        of_step = [f"{in_step:.1%}", f"{1e3 * statistics.median(step_s):.1f}"] if task == "tune" else ["", ""]
        ratios = [ratio(base, found, key) for key in ("seconds", "cpu_seconds")]
        cells = [f"{rate:.2f}", *ratios, f"{memory:.2f}", f"{share:.1%}", *of_step]
        lines.append(f"| {task} | {contender} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(base: list[Measured], found: list[Measured], key: str) -> str:
    """Seconds an item of the baseline over ours."""
    if not base:
        return ""
    seconds = [[sum(getattr(one, key)) / one.num_items for one in runs] for runs in (base, found)]
    by_round = [theirs / ours for theirs, ours in zip(*seconds, strict=True)]
    middle = statistics.median(seconds[0]) / statistics.median(seconds[1])
    return f"{middle:.2f} ({min(by_round):.2f} to {max(by_round):.2f})"


def agreement(runs: dict[str, list[Measured]]) -> list[str]:
    """Whether the contenders found the same."""
    lines = []

    def outputs(*names: str) -> list[list[Any]] | None:
        """Of the first round."""
        return [runs[name][0].outputs for name in names] if all(runs.get(name) for name in names) else None

    if pair := outputs("tune/peft", "tune/prefix"):
        far = max(abs(a - b) for a, b in zip(*pair, strict=True)) / max(map(abs, pair[0]))
        lines.append(f"- tune: gradients of the same batch differ by at most {far:.1g} of the largest entry")
    for task in ("zero-shot", "few-shot"):
        if pair := outputs(f"{task}/lm-eval", f"{task}/ours"):
            same = sum(theirs.strip() == ours.strip() for theirs, ours in zip(*pair, strict=True))
            lines.append(f"- {task}: {same} of {len(pair[0])} outputs are the same text")
    if pair := outputs("options/lm-eval", "options/ours"):
        far = max(abs(a - b) for theirs, ours in zip(*pair, strict=True) for a, b in zip(theirs, ours, strict=True))
        lines.append(f"- options: log-likelihoods differ by at most {far:.1g} nats")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help=f"a checkpoint's folder, or random weights: {', '.join(SHAPES)}")
    parser.add_argument("--benchmark", default="arc_easy", help="one with a twin in words, or 'synthetic'")
    parser.add_argument("--mirror", help="folder laid out like the hub")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, help="of a CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=9, help="of tuning")
    parser.add_argument("--peers-steps", type=int, help="of PEFT's tuning, if not as many")
    parser.add_argument("--items", type=int, default=96, help="to answer")
    parser.add_argument("--peers-batch", type=int, default=Workload.peers_batch, help="of lm-evaluation-harness")
    parser.add_argument(
        "--only", nargs="*", default=list(PEERS), help=f"what begins so, out of {', '.join(CONTENDERS)}"
    )
    parser.add_argument("--out", type=Path, help="append the last table to this page")
    given = parser.parse_args()
    work = Workload(
        model=given.model,
        benchmark=given.benchmark,
        mirror=given.mirror,
        device=given.device,
        dtype=given.dtype,
        num_threads=given.threads,
        num_steps=given.steps,
        peers_steps=given.peers_steps,
        num_items=given.items,
        peers_batch=given.peers_batch,
    )
    names = [name for name in CONTENDERS if name.startswith(tuple(given.only))]
    laboratory = Laboratory(given.threads)
    device = torch.cuda.get_device_name() if given.device == "cuda" else f"{given.threads or 'all'} CPU threads"
    runs: dict[str, list[Measured]] = {name: [] for name in names}
    for number in range(1, given.rounds + 1):
        for name in names:
            runs[name].append(laboratory.run(name, work))
            print(f"round {number}: {name}: {sum(runs[name][-1].seconds):.2f} s", file=sys.stderr)
        title = f"{Path(given.model).name} on {device}, {given.dtype}, {number} rounds"
        page = "\n".join([f"## {title}", "", table(runs), "", *agreement(runs), ""])
        print(page)
    if given.out:
        with given.out.open("a") as out:
            out.write(page)


if __name__ == "__main__":
    main()
