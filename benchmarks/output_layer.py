"""Cross-entropies and their gradients from logits and from one reading of the output layer's weights.

    python benchmarks/output_layer.py --width 576 --vocabularies 1300 49152 262144

Milliseconds forward and back, the median of `--rounds` in turns, for one core; see `softprompt/output_layer.py`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from softprompt.output_layer import CrossEntropies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[1300, 49_152, 262_144])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8, 24, 128, 400], help="of answers, in a pass")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| vocabulary | answer tokens | logits, ms | read once, ms | logits / read once |")
    print("| --- | --- | --- | --- | --- |")
    for vocabulary in arguments.vocabularies:
        weight_VD = torch.randn(vocabulary, arguments.width) * arguments.width**-0.5
        for num_tokens in arguments.tokens:
            hidden_LD = torch.randn(num_tokens, arguments.width, requires_grad=True)
            targets_L = torch.randint(vocabulary, (num_tokens,))
            ways: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = [from_logits, CrossEntropies.apply]
            found: list[list[float]] = [[], []]
            for _ in range(arguments.rounds):
                for milliseconds, way in zip(found, ways, strict=True):
                    start = time.perf_counter()
                    torch.autograd.grad(way(hidden_LD, weight_VD, targets_L).sum(), hidden_LD)
                    milliseconds.append(1e3 * (time.perf_counter() - start))
            plain, once = map(statistics.median, found)
            cells = f"{plain:.2f} | {once:.2f} | {plain / once:.2f}x"
            print(f"| {vocabulary} | {num_tokens} | {cells} |", flush=True)


def from_logits(hidden_LD: Tensor, weight_VD: Tensor, targets_L: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden_LD, weight_VD), targets_L, reduction="none")


if __name__ == "__main__":
    main()
