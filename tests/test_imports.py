import subprocess
import sys
from pathlib import Path
from subprocess import run

import pytest

IN_A_BARE_ENVIRONMENT = """
import importlib.metadata, re, sys

class Absent:
    needed = {"torch", "transformers", "accelerate", "safetensors"}

    def __init__(self):
        self.absent = {"prefect", "mlflow", "datasets", "pyarrow", "pandas", "scipy", "rich", "typer", "s3fs"}
        self.absent |= {"jsonschema", "matplotlib", "sqlalchemy", "fastapi", "pydantic", "boto3", "botocore"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from softprompt import Benchmark, Example, Protocol, evaluate
from softprompt.answers import Word
from softprompt.benchmarks import Rows

items = [Example(question=f"Question: {i}?", answer=str(i), golds=(str(i),), id=str(i)) for i in range(8)]
benchmark = Benchmark(name="echo", path="", chance=0.0, to_example=None, grammar=Word(), max_new_tokens=2)
protocol = Protocol(num_steps=2, batch_size=2, num_train=4, seeds=(0,), curve_steps=(0,), num_shots=1)
result = evaluate(sys.argv[1], benchmark, protocol, rows=Rows(train=tuple(items[:4]), test=tuple(items[4:])))
assert result.metrics["cue"]["accuracy"].n == 4, result
"""
HEAVY = {"torch", "transformers", "accelerate", "datasets", "prefect", "mlflow"}


def loaded_by(statement: str) -> set[str]:
    """Which of the heavy packages a fresh process has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{HEAVY!r} & sys.modules.keys())"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "modules",
    [
        "softprompt",
        "softprompt.ranking, softprompt.study, softprompt.metrics, softprompt.result, softprompt.answers",
        "softprompt.report",
        "softprompt.bucket, softprompt.cache, softprompt.checkpoints, softprompt.completeness, softprompt.layout",
        "softprompt.cli",
        "softprompt.world.facts, softprompt.world.corpus, softprompt.world.rows",
    ],
)
def test_the_light_half_loads_nothing_heavy(modules: str) -> None:
    assert loaded_by(f"import {modules}") == set()


def test_all_shipped_benchmarks_can_be_listed_and_read_without_anything_heavy() -> None:
    assert loaded_by("from softprompt import benchmarks\nfor n in benchmarks.names(): benchmarks.get(n)") == set()


def test_rows_at_hand_are_evaluated_with_nothing_but_torch_transformers_accelerate_and_safetensors(
    tiny_checkpoint: Path,
) -> None:
    """What a cluster's training image has: whatever else is asked for is not there."""
    run([sys.executable, "-c", IN_A_BARE_ENVIRONMENT, str(tiny_checkpoint)], capture_output=True, text=True, check=True)


def test_evaluate_loads_torch_when_it_is_asked_for_and_never_prefect() -> None:
    loaded = loaded_by("import softprompt\nsoftprompt.evaluate")
    assert "torch" in loaded
    assert not {"prefect", "mlflow"} & loaded
