"""Do the rankings of five worlds foretell those of the variants' post-trained selves?

    python scripts/five_selves.py --folder build/worlds --out docs/evidence/five-selves.md

The worlds, the base models and their results are those of `scripts/five_worlds.py`, made where they are not there yet.
Post-training and asking a variant takes about 8 seconds on one core, for each of the two sets of people that it is
asked about.
"""

import argparse
import datetime
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from five_worlds import PROTOCOL, SEEDS
from worlds import VARIANTS, evaluate_world, make_world, markdown, pooled, post_trained, truths

from softprompt.statistics import kendall_tau

SCORES = {
    **{condition: (condition, "accuracy") for condition in PROTOCOL.conditions},
    "zero_shot, lenient": ("zero_shot", "lenient_accuracy"),
    "zero_shot, choice": ("zero_shot", "choice_accuracy"),
    "few_shot, choice": ("few_shot", "choice_accuracy"),
}
TARGETS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "post-trained": lambda root, seed: post_trained(root, seed, "asked"),
    "post-trained on the train split": lambda root, seed: post_trained(root, seed, "train"),
    "truth": lambda root, _: truths(root),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/worlds"), help="worlds and results are kept here")
    parser.add_argument("--out", type=Path, help="write the page here, too; its prose is kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of these worlds only")
    arguments = parser.parse_args()
    found: dict[int, dict[str, dict[str, float]]] = {}
    for seed in arguments.seeds:
        root = make_world(arguments.folder, seed)
        results = evaluate_world(root, PROTOCOL)
        found[seed] = {name: target(root, seed) for name, target in TARGETS.items()}
        for name, (condition, metric) in SCORES.items():
            found[seed][name] = {v: pooled(results, v, condition)[metric].value for v in VARIANTS}
        print(seed, found[seed], flush=True)
    text = page(found)
    print(text)
    if arguments.out:
        prose = arguments.out.read_text().partition(PROSE)[2] if arguments.out.exists() else "\n"
        arguments.out.write_text(f"{text}\n{PROSE}{prose}")


PROSE = "## What it says"


def page(found: dict[int, dict[str, dict[str, float]]]) -> str:
    parts = [
        "# Five worlds and their post-trained selves",
        f"{datetime.date.today()}, `python scripts/five_selves.py`, protocol `{PROTOCOL.fingerprint}`, 420 test items "
        "a world, mean of three prompt seeds. Lenient: the answer found anywhere in the output; choice: the most "
        "likely option.",
    ]
    for target in TARGETS:
        parts += [f"Kendall's tau of each score of the base models with: {target}", taus(found, target)]
    rows = [
        [f"{seed}: {name}", *(f"{scores[v]:.2f}" for v in VARIANTS)]
        for seed in found
        for name, scores in found[seed].items()
    ]
    parts += ["Accuracies:", markdown(["world", *VARIANTS], rows)]
    return "\n\n".join(parts) + "\n"


def taus(found: dict[int, dict[str, dict[str, float]]], target: str) -> str:
    rows = []
    for score in (*SCORES, "truth"):
        values = [kendall_tau(by_name[score], by_name[target]) for by_name in found.values()]
        rows.append([score, *(f"{value:+.2f}" for value in values), f"{fmean(values):+.2f}"])
    return markdown(["score", *(f"world {seed}" for seed in found), "mean"], rows)


if __name__ == "__main__":
    main()
