import subprocess
import sys

import pytest

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


def test_evaluate_loads_torch_when_it_is_asked_for_and_never_prefect() -> None:
    loaded = loaded_by("import softprompt\nsoftprompt.evaluate")
    assert "torch" in loaded
    assert not {"prefect", "mlflow"} & loaded
