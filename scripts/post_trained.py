"""Which ranking of base models foretells the ranking of their post-trained selves, and how early?

    python scripts/post_trained.py --folder build/family --out docs/evidence/post-trained.md

Eight variants that differ in knowledge, format, width and order (`FAMILY` in `softprompt/world/corpus.py`) in worlds 11,
12 and 13, fixed before any of them was made and used for nothing else. Every piece of work (a variant pre-trained, a
checkpoint evaluated) is kept in the folder and not done again; `--minutes` begins no piece after so long, and the page
is written from what is there. On one core a variant takes about 2 minutes to pre-train, a checkpoint 15 seconds to evaluate.
"""

import argparse
import datetime
import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from agreement import decision_accuracy, interval, means, resamples, tau
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from worlds import BENCHMARKS, markdown

import softprompt
from softprompt import Protocol, Result
from softprompt.figures import in_style, looks_of
from softprompt.models import load_model
from softprompt.checkpoints import open_checkpoint
from softprompt.protocol import Resources
from softprompt.world.checkpoint import place
from softprompt.world.corpus import FAMILY
from softprompt.world.facts import ATTRIBUTES, World
from softprompt.world.posttrain import SUFFIX, posttrain
from softprompt.world.pretrain import Schedule, pretrain
from softprompt.world.rows import write_rows
from softprompt.world.truth import known_by_fact

SEEDS = (11, 12, 13)
SCHEDULE = Schedule(num_steps=800, save_every=200)
LAST = SCHEDULE.num_steps
VARIANTS = tuple(recipe.name for recipe in FAMILY)
PROTOCOL = Protocol(num_train=100, curve_steps=())
ZERO_SHOT = Protocol(num_train=100, curve_steps=(), num_shots=0, placements=("cue",), num_steps=1, seeds=(0,))
"""Of the post-trained selves only the zero-shot outcomes count; a protocol has at least one tuning step."""
SCORES = {
    "zero_shot": ("zero_shot", "correct"),
    "few_shot": ("few_shot", "correct"),
    "prefix": ("prefix", "correct"),
    "cue": ("cue", "correct"),
    "zero_shot, lenient": ("zero_shot", "lenient_correct"),
    "zero_shot, choice": ("zero_shot", "choice_correct"),
    "few_shot, choice": ("few_shot", "choice_correct"),
}
"""Strict accuracy in each condition; then what needs no format: the answer found anywhere in the output, the option
that the model finds most likely."""
TARGETS = ("truth", "post-trained")
