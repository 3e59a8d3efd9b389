"""Ours against PEFT's PromptTuning under the HF Trainer, and against lm-evaluation-harness.

    python benchmarks/against_peers.py --model PATH --mirror PATH --out docs/evidence/peers.md

Same model, rows and prompts; each contender in a process of its own, one after the other, in rounds, so that whatever
else the machine does meets all of them. The peers come with `pip install -e '.[peers]'`. On a GPU:

    python benchmarks/against_peers.py --model 7b --benchmark synthetic --device cuda --dtype bfloat16

wants nothing but torch, transformers, accelerate and peft; `--only tune` leaves lm-evaluation-harness out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS
from workload import SHAPES, Workload

PEERS = {"tune": "peft", "zero-shot": "lm-eval", "few-shot": "lm-eval", "options": "lm-eval"}
"""What each task is held against."""
HERE = Path(__file__).parent


def run(name: str, work: Workload) -> dict[str, Any]:
    """What a contender measured, in a process of its own.

    Raises:
        RuntimeError: it failed; the message ends as its standard error does.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    if work.num_threads:
        environment |= {"OMP_NUM_THREADS": str(work.num_threads), "OMP_WAIT_POLICY": "PASSIVE"}
    child = subprocess.run(
        [sys.executable, HERE / "contenders.py", name],
        input=json.dumps(work.to_dict()),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"{name} failed: {child.stderr[-2000:]}")
    return json.loads(child.stdout.splitlines()[-1])


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Ratios are of medians over rounds; in brackets the least and the greatest ratio of one round."""
    lines = [
        "| task | contender | items/s | against its peer | - in CPU seconds | peak memory, GB | share of matrix rate |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in runs.items():
        task, _, contender = name.partition("/")
        base = runs.get(f"{task}/{PEERS[task]}", [])
        rate = statistics.median(one["num_items"] / sum(one["seconds"]) for one in found)
        memory = statistics.median(one["peak_bytes"] for one in found) / 1e9
        share = statistics.median(one["flops"] / sum(one["seconds"]) / one["matrix_rate"] for one in found)
        ratios = [ratio(base, found, key) for key in ("seconds", "cpu_seconds")]
        lines.append(f"| {task} | {contender} | {rate:.2f} | {ratios[0]} | {ratios[1]} | {memory:.2f} | {share:.0%} |")
    return "\n".join(lines)


def ratio(base: list[dict[str, Any]], found: list[dict[str, Any]], key: str) -> str:
    """Seconds an item of the baseline over ours."""
    if not base:
        return ""
    seconds = [[sum(one[key]) / one["num_items"] for one in runs] for runs in (base, found)]
    by_round = [theirs / ours for theirs, ours in zip(*seconds, strict=True)]
    middle = statistics.median(seconds[0]) / statistics.median(seconds[1])
    return f"{middle:.2f} ({min(by_round):.2f} to {max(by_round):.2f})"


def agreement(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Whether the contenders found the same."""
    lines = []
    theirs, ours = (runs.get(f"tune/{who}", [{}])[0].get("outputs") for who in ("peft", "prefix"))
    if theirs and ours:
        far = max(abs(a - b) for a, b in zip(theirs, ours, strict=True)) / max(map(abs, theirs))
        lines.append(f"- tune: gradients of the same batch differ by at most {far:.1g} of the largest entry")
    for task in ("zero-shot", "few-shot"):
        pair = [runs.get(f"{task}/{who}", [{}])[0].get("outputs") for who in ("lm-eval", "ours")]
        if all(pair):
            same = sum(theirs.strip() == ours.strip() for theirs, ours in zip(*pair, strict=True))
            lines.append(f"- {task}: {same} of {len(pair[0])} outputs are the same text")
    theirs, ours = (runs.get(f"options/{who}", [{}])[0].get("outputs") for who in ("lm-eval", "ours"))
    if theirs and ours:
        far = max(abs(a - b) for x, y in zip(theirs, ours, strict=True) for a, b in zip(x, y, strict=True))
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
    parser.add_argument("--items", type=int, default=96, help="to answer")
    parser.add_argument("--peers-batch", type=int, default=Workload.peers_batch, help="of lm-evaluation-harness")
    parser.add_argument("--only", nargs="*", default=list(PEERS), help=f"out of {', '.join(PEERS)}")
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
        num_items=given.items,
        peers_batch=given.peers_batch,
    )
    names = [name for name in CONTENDERS if name.partition("/")[0] in given.only]
    device = torch.cuda.get_device_name() if given.device == "cuda" else f"{given.threads or 'all'} CPU threads"
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(1, given.rounds + 1):
        for name in names:
            runs[name].append(run(name, work))
            print(f"round {number}: {name}: {sum(runs[name][-1]['seconds']):.2f} s", file=sys.stderr)
        title = f"{Path(given.model).name} on {device}, {given.dtype}, {number} rounds"
        page = "\n".join([f"## {title}", "", table(runs), "", *agreement(runs), ""])
        print(page)
    if given.out:
        with given.out.open("a") as out:
            out.write(page)


if __name__ == "__main__":
    main()
