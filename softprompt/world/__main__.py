"""Pre-train a world's variants into a bucket: `python -m softprompt.world FOLDER --seed 0`."""

import argparse
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from softprompt.world.corpus import RECIPES
from softprompt.world.facts import World
from softprompt.world.pretrain import Schedule, pretrain
from softprompt.world.rows import write_rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m softprompt.world", description=__doc__)
    parser.add_argument("folder", type=Path, help="gets mirror/ (the benchmarks' rows) and bucket/ (the checkpoints)")
    parser.add_argument("--seed", type=int, default=0, help="of the world: people, facts, corpora, weights")
    parser.add_argument("--steps", type=int, default=Schedule().num_steps)
    parser.add_argument("--save-every", type=int, default=Schedule().save_every)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    world, schedule = World(arguments.seed), Schedule(arguments.steps, arguments.save_every)
    write_rows(world, arguments.folder / "mirror")
    columns = (TextColumn("pre-training {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bars:
        bar = {recipe.name: bars.add_task(recipe.name, total=schedule.num_steps) for recipe in RECIPES}
        pretrain(
            world,
            RECIPES,
            schedule,
            arguments.folder / "bucket",
            lambda name, step, loss: bars.update(bar[name], completed=step, description=f"{name} (loss {loss:.2f})"),
        )


if __name__ == "__main__":
    main()
