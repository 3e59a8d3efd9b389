"""A variant's checkpoint in the bucket, with what the variant truly knows."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from softprompt.completeness import METADATA_FILE
from softprompt.models import LanguageModel
from softprompt.world.facts import World
from softprompt.world.truth import known_share


def place(bucket: Path, variant: str, step: int) -> Path:
    return bucket / variant / f"step-{step}"


def write_checkpoint(model: LanguageModel, world: World, folder: Path, metadata: dict[str, Any]) -> Path:
    """Write a Hugging Face checkpoint that appears whole or not at all. Its metadata get the world's seed and what the
    model truly knows."""
    model.network.train(False)
    truth = known_share(model, world)
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    model.network.save_pretrained(half)
    model.tokenizer.save_pretrained(half)
    (half / METADATA_FILE).write_text(
        json.dumps({**metadata, "world_seed": world.seed, "known_share": truth}, indent=1)
    )
    if folder.exists():
        shutil.rmtree(folder)
    half.chmod(0o755)
    return half.rename(folder)
