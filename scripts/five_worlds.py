"""Do the rankings hold in other worlds? Five world seeds, three prompt seeds each, against the truth.

    python scripts/five_worlds.py --folder build/worlds --out docs/evidence/five-worlds.md

The world seeds are 1 to 5, fixed before any of them was made. Defaults of the protocol were chosen on the worlds of
`scripts/settings.py`, which are others. On one core about 3 minutes a world to pre-train and 2 to evaluate.
"""

import argparse
import datetime
from pathlib import Path

from worlds import HEAD, condition_cells, evaluate_world, make_world, markdown, tau, truth_cells, truths

from softprompt import Protocol

SEEDS = (1, 2, 3, 4, 5)
PROTOCOL = Protocol(num_train=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/worlds"), help="worlds and results are kept here")
    parser.add_argument("--out", type=Path, help="write the page here, too")
    arguments = parser.parse_args()
    detail, summary = [], []
    for seed in SEEDS:
        root = make_world(arguments.folder, seed)
        truth, results = truths(root), evaluate_world(root, PROTOCOL)
        detail.append([str(seed), "truth", *truth_cells(truth)])
        for condition in PROTOCOL.conditions:
            seeds = PROTOCOL.seeds if condition in PROTOCOL.placements else ()
            detail.append(["", condition, *condition_cells(results, truth, condition, seeds)])
        summary.append([str(seed), *(f"{tau(results, truth, c):+.2f}" for c in PROTOCOL.conditions)])
        print(markdown(["world", "condition", *HEAD], detail[-5:]))
    page = (
        f"# Five worlds\n\n{datetime.date.today()}, `python scripts/five_worlds.py`, "
        f"protocol `{PROTOCOL.fingerprint}`, 420 test items a world, mean of three prompt seeds.\n\n"
        "Kendall's tau of each condition's ranking of the variants against their true knowledge:\n\n"
        f"{markdown(['world', *PROTOCOL.conditions], summary)}\n\n"
        "Accuracy (format-following) of each variant; the largest error is the largest distance of an accuracy from "
        "its truth:\n\n"
        f"{markdown(['world', 'condition', *HEAD], detail)}\n"
    )
    print(page)
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
