import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import softprompt

IN_A_BARE_ENVIRONMENT = """
import sys

class Hiding:
    names = set(sys.argv[2].split())

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.names else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Hiding, sys.meta_path)
from softprompt import Benchmark, Example, Protocol, evaluate
from softprompt.answers import Word
from softprompt.rows import Rows

items = [Example(question=f"Question: {i}?", answer=str(i), golds=(str(i),), id=str(i)) for i in range(8)]
benchmark = Benchmark(name="echo", path="", chance=0.0, to_example=None, grammar=Word(), max_new_tokens=2)
protocol = Protocol(num_steps=2, batch_size=2, num_train=4, seeds=(0,), curve_steps=(0,), num_shots=1)
result = evaluate(sys.argv[1], benchmark, protocol, rows=Rows(train=tuple(items[:4]), test=tuple(items[4:])))
print(result.metrics["cue"]["accuracy"].n)
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


def needed_by(*names: str) -> set[str]:
    """Distributions with all that they need."""
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in needed:
            needed.add(name)
            wanted = map(Requirement, metadata.distribution(name).requires or ())
            waiting += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return needed


def test_rows_at_hand_are_evaluated_with_nothing_but_torch_transformers_accelerate_and_safetensors(
    tiny_checkpoint: Path,
) -> None:
    """As in a training image that has these and what they need: of all else that is installed, nothing is found."""
    present = needed_by("torch", "transformers", "accelerate", "safetensors")
    owners = metadata.packages_distributions()
    absent = {package for package, its in owners.items() if not present & set(map(canonicalize_name, its))}
    absent -= {"softprompt"}
    assert {"prefect", "mlflow", "datasets", "pyarrow", "scipy", "s3fs", "jsonschema", "matplotlib"} <= absent
    command = [sys.executable, "-c", IN_A_BARE_ENVIRONMENT, str(tiny_checkpoint), " ".join(absent)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1] == "4"


def test_every_name_of_the_package_is_there_without_prefect_and_studies_need_no_torch() -> None:
    loaded = loaded_by("import softprompt\nfor n in softprompt.__all__: getattr(softprompt, n)")
    assert "torch" in loaded
    assert not {"prefect", "mlflow"} & loaded
    assert loaded_by("import softprompt\nsoftprompt.Experiment.of, softprompt.Study.read") == set()


def test_names_that_are_imported_later_are_offered_for_completion() -> None:
    assert set(softprompt.__all__) <= set(dir(softprompt))
