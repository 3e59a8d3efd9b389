"""Pre-train a world's variants into a bucket: `python -m softprompt.world FOLDER --seed 0`."""

import argparse
import sys
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from softprompt.errors import SoftPromptError
from softprompt.world.corpus import FAMILY, RECIPES
from softprompt.world.facts import World
from softprompt.world.posttrain import posttrain
from softprompt.world.pretrain import Schedule, pretrain
from softprompt.world.rows import write_rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m softprompt.world", description=__doc__)
    parser.add_argument("folder", type=Path, help="gets mirror/ (the benchmarks' rows) and bucket/ (the checkpoints)")
    parser.add_argument("--seed", type=int, default=0, help="of the world: people, facts, corpora, weights")
    parser.add_argument("--steps", type=int, default=Schedule().num_steps)
    parser.add_argument("--save-every", type=int, default=Schedule().save_every)
    parser.add_argument("--family", action="store_true", help="all eight variants instead of A, B and C")
    parser.add_argument(
        "--post", action="store_true", help="fine-tune each variant's last checkpoint, as <variant>-post"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    world, schedule = World(arguments.seed), Schedule(arguments.steps, arguments.save_every)
    recipes, bucket = FAMILY if arguments.family else RECIPES, arguments.folder / "bucket"
    write_rows(world, arguments.folder / "mirror")
    columns = (TextColumn("pre-training {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bars:
        bar = {recipe.name: bars.add_task(recipe.name, total=schedule.num_steps) for recipe in recipes}
        pretrain(
            world,
            recipes,
            schedule,
            bucket,
            lambda name, step, loss: bars.update(bar[name], completed=step, description=f"{name} (loss {loss:.2f})"),
        )
        for recipe in recipes if arguments.post else ():
            bars.update(bar[recipe.name], description=f"{recipe.name}, then post-training")
            posttrain(world, recipe.name, schedule.num_steps, bucket)


if __name__ == "__main__":
    try:
        main()
    except SoftPromptError as error:
        sys.exit(str(error))
