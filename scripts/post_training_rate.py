"""At which rate, and for how long, is a variant post-trained? By its answers about the benchmark's train split.

    python scripts/post_training_rate.py --folder build/post-training

Variant A, whose format post-training changes most, of worlds 101 and 102, whose scores settle settings and are no
independent evidence; the test split has no part in it. About 3 minutes a world on one core.
"""

import argparse
from pathlib import Path
from statistics import fmean

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from worlds import markdown

from softprompt.decode import answer
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import plain_prompt
from softprompt.world.checkpoint import place
from softprompt.world.corpus import RECIPES
from softprompt.world.facts import World
from softprompt.world.posttrain import fine_tune, pairs
from softprompt.world.pretrain import Schedule, pretrain

SEEDS = (101, 102)
SETTINGS = [
    (3e-5, 240),
    (1e-4, 120),
    (1e-4, 240),
    (2e-4, 120),
    (3e-4, 60),
    (3e-4, 120),
    (3e-4, 240),
    (1e-3, 60),
    (1e-3, 120),
]
VARIANT = RECIPES[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/post-training"), help="worlds are kept here")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    schedule = Schedule()
    found: dict[tuple[float, int], list[float]] = {setting: [] for setting in SETTINGS}
    for seed in arguments.seeds:
        world, bucket = World(seed), arguments.folder / str(seed)
        pretrain(world, [VARIANT], Schedule(save_every=schedule.num_steps), bucket)
        folder = place(bucket, VARIANT.name, schedule.num_steps)
        for rate, num_steps in SETTINGS:
            model = LanguageModel(
                LlamaForCausalLM.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)
            )
            fine_tune(model, pairs(world, "asked"), seed, rate, num_steps)
            found[rate, num_steps].append(accuracy(model, pairs(world, "train")))
            print(seed, rate, num_steps, f"{found[rate, num_steps][-1]:.3f}", flush=True)
    rows = [
        [f"{rate:g}", str(num_steps), *(f"{value:.2f}" for value in values), f"{fmean(values):.3f}"]
        for (rate, num_steps), values in found.items()
    ]
    print(markdown(["rate", "steps", *(f"world {seed}" for seed in arguments.seeds), "mean"], rows))


def accuracy(model: LanguageModel, pairs: list[tuple[str, str]]) -> float:
    """Share of the questions answered with the bare value and an end."""
    model.network.train(False)
    prompts = [plain_prompt(model, prompt) for prompt, _ in pairs]
    generations, _ = answer(Prefill(model), prompts, max_new_tokens=8, stop=("\n",))
    return fmean(
        found.stopped and found.text.strip() == value for found, (_, value) in zip(generations, pairs, strict=True)
    )


if __name__ == "__main__":
    main()
