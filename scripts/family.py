"""Worlds with a family of variants and their post-trained selves: made and evaluated in pieces that are kept.

Shapes: V variants, S prompt seeds, I items.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from worlds import BENCHMARKS, ZERO_SHOT

import softprompt
from softprompt import Protocol, Result
from softprompt.checkpoints import open_checkpoint
from softprompt.loading import load_model
from softprompt.protocol import Resources
from softprompt.world.checkpoint import place
from softprompt.world.corpus import FAMILY
from softprompt.world.facts import ATTRIBUTES, World
from softprompt.world.posttrain import SUFFIX, posttrain
from softprompt.world.pretrain import Schedule, pretrain
from softprompt.world.rows import write_rows
from softprompt.world.truth import known_by_fact
from softprompt.world.verdict import read_truth

VARIANTS = tuple(recipe.name for recipe in FAMILY)
SCHEDULE = Schedule(num_steps=800, save_every=200)
LAST_STEP = SCHEDULE.num_steps
PROTOCOL = Protocol(num_train=100, placements=("prefix", "cue", "both"), curve_steps=())


@dataclass(frozen=True)
class Piece:
    """A part of the work that is done when its files are there."""

    name: str
    files: tuple[Path, ...]
    work: Callable[[], object]

    @property
    def is_done(self) -> bool:
        return all(file.exists() for file in self.files)


def do(pieces: Iterator[Piece], minutes: float) -> bool:
    """Do what is not done, beginning nothing after `minutes`. Returns whether all is done."""
    torch.set_num_threads(1)
    start = time.monotonic()
    for piece in pieces:
        if piece.is_done:
            continue
        if time.monotonic() - start > 60 * minutes:
            return False
        begun = time.monotonic()
        piece.work()
        print(f"{piece.name}: {time.monotonic() - begun:.0f} s", flush=True)
    return True


@dataclass(frozen=True)
class FamilyWorld:
    """One world in a folder: `mirror/`, `bucket/`, `results/`."""

    root: Path
    seed: int

    @property
    def world(self) -> World:
        return World(self.seed)

    def make(self) -> Iterator[Piece]:
        """Every variant pre-trained, what it knows at last by fact, and its post-trained selves."""
        bucket = self.root / "bucket"
        for recipe in FAMILY:
            checkpoints = [place(bucket, recipe.name, step) for step in SCHEDULE.saved_steps]
            yield Piece(
                f"world {self.seed}: {recipe.name} pre-trained",
                tuple(checkpoints),
                lambda recipe=recipe: (
                    write_rows(self.world, self.root / "mirror"),
                    pretrain(self.world, [recipe], SCHEDULE, bucket),
                ),
            )
            yield Piece(
                f"world {self.seed}: what {recipe.name} knows",
                (self._facts_file(recipe.name),),
                lambda recipe=recipe: self._write_facts(recipe.name),
            )
            for people, suffix in SUFFIX.items():
                yield Piece(
                    f"world {self.seed}: {recipe.name} post-trained on {people}",
                    (place(bucket, recipe.name + suffix, LAST_STEP),),
                    lambda recipe=recipe, people=people: posttrain(self.world, recipe.name, LAST_STEP, bucket, people),
                )

    def evaluate(self, step: int) -> Iterator[Piece]:
        """Every variant at a step under the protocol; at the last step its post-trained selves, too."""
        wanted = [(variant, PROTOCOL) for variant in VARIANTS]
        if step == LAST_STEP:
            wanted += [(variant + suffix, ZERO_SHOT) for suffix in SUFFIX.values() for variant in VARIANTS]
        for variant, protocol in wanted:
            for benchmark in BENCHMARKS:
                folder = self._results_folder(variant, step, benchmark, protocol)
                yield Piece(
                    f"world {self.seed}: {variant} at {step} on {benchmark}",
                    (folder / "result.json",),
                    lambda v=variant, b=benchmark, p=protocol, f=folder: softprompt.evaluate(
                        str(place(self.root / "bucket", v, step)), b, p, mirror=str(self.root / "mirror")
                    ).save(f),
                )

    def is_evaluated(self, step: int) -> bool:
        return all(piece.is_done for piece in self.evaluate(step))

    def results(self, step: int) -> list[Result]:
        """Of the base models."""
        folders = (self._results_folder(v, step, b, PROTOCOL) for v in VARIANTS for b in BENCHMARKS)
        return [Result.load(folder) for folder in folders]

    def scores(self, step: int, condition: str, field: str) -> np.ndarray:
        """(V, S, I) of the base models."""
        return np.stack([self._outcomes(v, step, PROTOCOL)[condition, field] for v in VARIANTS])

    def post_trained(self, people: str) -> np.ndarray:
        """(V, 1, I) whether the selves post-trained on these people are right."""
        selves = [self._outcomes(v + SUFFIX[people], LAST_STEP, ZERO_SHOT) for v in VARIANTS]
        return np.stack([outcomes["zero_shot", "correct"] for outcomes in selves])

    def truth(self) -> np.ndarray:
        """(V, 1, I) what the variants know at last."""
        known = [json.loads(self._facts_file(v).read_text()) for v in VARIANTS]
        return np.array([[[by[a.name][p] for a in ATTRIBUTES for p in sorted(by[a.name])]] for by in known])

    def truth_at(self, step: int) -> list[float]:
        """By variant."""
        found = read_truth(self.root / "bucket")
        return [found[variant][step] for variant in VARIANTS]

    def following(self, step: int, variant: str, condition: str) -> float:
        """Format-following."""
        return float(self._outcomes(variant, step, PROTOCOL)[condition, "follows"].mean())

    def _outcomes(self, variant: str, step: int, protocol: Protocol) -> dict[tuple[str, str], np.ndarray]:
        """(condition, field of an outcome) -> (S, I), items in one order."""
        return _outcomes(*(self._results_folder(variant, step, benchmark, protocol) for benchmark in BENCHMARKS))

    def _results_folder(self, variant: str, step: int, benchmark: str, protocol: Protocol) -> Path:
        return self.root / "results" / protocol.fingerprint / variant / f"step-{step}" / benchmark

    def _facts_file(self, variant: str) -> Path:
        return self.root / "results" / "truth" / f"{variant}.json"

    def _write_facts(self, variant: str) -> None:
        checkpoint = open_checkpoint(str(place(self.root / "bucket", variant, LAST_STEP)))
        known = known_by_fact(load_model(checkpoint, Resources()), self.world)
        file = self._facts_file(variant)
        file.parent.mkdir(parents=True, exist_ok=True)
        by_attribute = {a.name: {p: share for (p, name), share in known.items() if name == a.name} for a in ATTRIBUTES}
        file.write_text(json.dumps(by_attribute))


@cache
def _outcomes(*folders: Path) -> dict[tuple[str, str], np.ndarray]:
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for folder in folders:
        result = Result.load(folder)
        for condition in result.protocol.conditions:
            its = sorted((o for o in result.outcomes if o.condition == condition), key=lambda o: (o.seed or 0, o.item))
            num_seeds = len({o.seed for o in its})
            for field in ("correct", "lenient_correct", "choice_correct", "follows"):
                values = np.array([float(getattr(o, field)) for o in its])
                parts.setdefault((condition, field), []).append(values.reshape(num_seeds, -1))
    return {key: np.concatenate(arrays, axis=1) for key, arrays in parts.items()}
