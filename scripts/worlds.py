"""What the scripts about Knowledge Worlds share: making worlds, evaluating all variants, a row of a table."""

import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import softprompt
from softprompt import Protocol, Result
from softprompt.metrics import Estimate, summarise
from softprompt.result import is_saved
from softprompt.statistics import kendall_tau
from softprompt.world.corpus import RECIPES
from softprompt.world.pretrain import Schedule
from softprompt.world.verdict import all_outcomes, read_truth

BENCHMARKS = ("world_birthplace", "world_profession", "world_pet")
VARIANTS = tuple(recipe.name for recipe in RECIPES)
LAST_STEP = Schedule().num_steps
ZERO_SHOT = Protocol(
    num_train=100, num_shots=0, placements=("cue",), num_steps=1, seeds=(0,), curve_steps=(), num_curve=1
)
"""For post-trained selves, which are asked without more ado; the one step that a protocol tunes is not looked at."""


def make_world(folder: Path, seed: int, step: int = LAST_STEP) -> Path:
    """Pre-train a world's variants; all checkpoints if one before the last is asked for. A world that is there is left
    as it is."""
    root = folder / str(seed)
    save_every = LAST_STEP if step == LAST_STEP else Schedule().save_every
    command = [sys.executable, "-m", "softprompt.world", str(root), "--seed", str(seed)]
    subprocess.run([*command, "--save-every", str(save_every)], check=True, stdout=subprocess.DEVNULL)
    return root


def truths(root: Path, step: int = LAST_STEP) -> dict[str, float]:
    found = read_truth(root / "bucket")
    return {variant: found[variant][step] for variant in VARIANTS}


def evaluate_world(root: Path, protocol: Protocol, step: int = LAST_STEP) -> list[Result]:
    """All variants at a step on all benchmarks; results are kept beside the world and read again."""
    results = []
    for variant in VARIANTS:
        for benchmark in BENCHMARKS:
            at = "" if step == LAST_STEP else f"step-{step}"
            folder = root / "results" / protocol.fingerprint / variant / benchmark / at
            checkpoint, mirror = root / "bucket" / variant / f"step-{step}", root / "mirror"
            results.append(kept(folder, partial(softprompt.evaluate, checkpoint, benchmark, protocol, mirror=mirror)))
    return results


def kept(folder: Path, evaluate: Callable[[], Result]) -> Result:
    """The result that lies in a folder; if there is none, it is made and saved there."""
    if not is_saved(folder):
        evaluate().save(folder)
    return Result.load(folder)


def pooled(results: Iterable[Result], variant: str, condition: str, seed: int | None = None) -> dict[str, Estimate]:
    """Metrics of a variant over the items of all benchmarks, of one prompt seed or of all."""
    its = [result for result in results if result.variant == variant]
    return summarise([o for o in all_outcomes(its, condition) if seed is None or o.seed == seed])


def tau(results: list[Result], truth: dict[str, float], condition: str, seed: int | None = None) -> float:
    return kendall_tau({v: pooled(results, v, condition, seed)["accuracy"].value for v in VARIANTS}, truth)


HEAD = [*VARIANTS, "tau", "tau by prompt seed", "largest error"]


def truth_cells(truth: dict[str, float]) -> list[str]:
    return [*(f"{truth[variant]:.2f}" for variant in VARIANTS), "", "", ""]


def condition_cells(
    results: list[Result], truth: dict[str, float], condition: str, seeds: Iterable[int] = ()
) -> list[str]:
    """Of each variant 'accuracy (format-following)', then Kendall's tau of all prompt seeds together and of each, and
    the largest distance of an accuracy from its truth."""
    found = {variant: pooled(results, variant, condition) for variant in truth}
    return [
        *(f"{its['accuracy'].value:.2f} ({its['format_following'].value:.2f})" for its in found.values()),
        f"{tau(results, truth, condition):+.2f}",
        " ".join(f"{tau(results, truth, condition, seed):+.2f}" for seed in seeds),
        f"{max(abs(its['accuracy'].value - truth[variant]) for variant, its in found.items()):.2f}",
    ]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])
