"""What closes the gap between the paper's form (vectors in front) and the truth? Settings tried on worlds of their own.

    python scripts/close_the_gap.py --folder build/worlds --out docs/evidence/close-the-gap.md

Worlds 101 and 102: never those on which results are reported. One setting is changed at a time.
"""

import argparse
import datetime
from pathlib import Path

from worlds import VARIANTS, evaluate_world, largest_error, make_world, markdown, tau, truths, variant_cells

from softprompt import Protocol

SEEDS = (101, 102)
LONGER_CUE = "\nAnswer: The answer is the word"
SETTINGS: dict[str, tuple[str, dict[str, object]]] = {
    "prefix, rate 0.3": ("prefix", {"learning_rate": 0.3}),
    "prefix, rate 1": ("prefix", {"learning_rate": 1.0}),
    "cue, rate 0.1": ("cue", {"learning_rate": 0.1}),
    "cue, rate 0.3": ("cue", {"learning_rate": 0.3}),
    "prefix and cue": ("both", {}),
    "prefix, from a question and its cue": ("prefix", {"prefix_text": "Question: Where was born?\nAnswer:"}),
    "cue, longer": ("cue", {"cue_text": LONGER_CUE}),
    "prefix, rate 3": ("prefix", {"learning_rate": 3.0}),
    "prefix, 320 steps": ("prefix", {"num_steps": 320}),
    "cue, rate 1": ("cue", {"learning_rate": 1.0}),
    "cue, 320 steps": ("cue", {"num_steps": 320}),
    "prefix, from the cue's tokens": ("prefix", {"prefix_text": "\nAnswer:"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/worlds"), help="worlds and results are kept here")
    parser.add_argument("--out", type=Path, help="write the page here, too")
    arguments = parser.parse_args()
    roots = {seed: make_world(arguments.folder, seed) for seed in SEEDS}
    rows = [["truth", str(s), *(f"{truths(r)[v]:.2f}" for v in VARIANTS), "", ""] for s, r in roots.items()]
    for name, (placement, changes) in SETTINGS.items():
        for seed, root in roots.items():
            protocol = Protocol(num_train=100, num_shots=0, placements=(placement,), curve_steps=(), **changes)  # type: ignore[arg-type]
            truth, results = truths(root), evaluate_world(root, protocol)
            rows.append(
                [
                    name,
                    str(seed),
                    *variant_cells(results, truth, placement),
                    f"{tau(results, truth, placement):+.2f}",
                    f"{largest_error(results, truth, placement):.2f}",
                ]
            )
            print(*rows[-1], flush=True)
        if arguments.out:
            arguments.out.write_text(page(rows))


def page(rows: list[list[str]]) -> str:
    return (
        "# What closes the gap\n\n"
        f"{datetime.date.today()}, `python scripts/close_the_gap.py`, 420 test items a world, mean of three prompt "
        "seeds. Accuracy (format-following) of each variant, Kendall's tau against the truth, and the largest distance "
        f"of an accuracy from its truth.\n\n{markdown(['setting', 'world', *VARIANTS, 'tau', 'largest error'], rows)}\n"
    )


if __name__ == "__main__":
    main()
