"""A job in processes of its own. The number of processes is where it ran, never what it found."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from softprompt.checkpoints import open_checkpoint
from softprompt.result import Result

BENCHMARK = """
from softprompt.answers import OptionInWords
from softprompt.benchmarks import Benchmark, Example

BENCHMARK = Benchmark(
    name="capitals",
    path="toy/capitals",
    chance=0.25,
    to_example=lambda row: Example(
        question=row["question"], answer=row["capital"], golds=(row["capital"],), options=tuple(row["options"])
    ),
    grammar=OptionInWords(),
    max_new_tokens=8,
)
"""


@pytest.fixture
def request_file(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from conftest import WORDINGS, capital_rows

    rows = tmp_path / "mirror" / "toy" / "capitals"
    rows.mkdir(parents=True)
    train = [row for wording in WORDINGS[:2] for row in capital_rows(wording)]
    pq.write_table(pa.Table.from_pylist(train), rows / "train-0.parquet")
    pq.write_table(pa.Table.from_pylist(capital_rows(WORDINGS[2])), rows / "test-0.parquet")
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "capitals.py").write_text(BENCHMARK)
    file = tmp_path / "request.json"
    request = {
        "checkpoint": vars(open_checkpoint(str(tiny_checkpoint))),
        "benchmark": "capitals",
        "benchmark_folder": str(folder),
        "protocol": {"num_steps": 6, "batch_size": 3, "num_train": 16, "num_shots": 2, "seeds": [0], "num_curve": 5},
        "resources": {"device": "cpu"},
        "mirror": str(tmp_path / "mirror"),
        "tokenizer": None,
    }
    file.write_text(json.dumps(request))
    return file


def work(request_file: Path, folder: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "-m", "softprompt.worker", str(request_file), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(request_file: Path, tmp_path: Path) -> None:
    """Batches of three samples and test splits of twelve items: shares of unequal and of equal size."""
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    found: list[Any] = []
    for folder, launcher in ((tmp_path / "one", ()), (tmp_path / "two", two)):
        finished = work(request_file, folder, *launcher)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.splitlines()[-1].startswith("100 % ")
        found.append(Result.load(folder))
    one, other = found
    assert (one.provenance["world_size"], other.provenance["world_size"]) == (1, 2)
    assert [(o.item, o.output, o.correct) for o in other.outcomes] == [
        (o.item, o.output, o.correct) for o in one.outcomes
    ]
    for name, vectors in load_file(tmp_path / "one" / "vectors.safetensors").items():
        np.testing.assert_allclose(load_file(tmp_path / "two" / "vectors.safetensors")[name], vectors, atol=1e-4)


def test_an_error_that_a_user_can_act_on_is_the_last_line(request_file: Path, tmp_path: Path) -> None:
    request = json.loads(request_file.read_text())
    request_file.write_text(json.dumps({**request, "benchmark": "capital_cities"}))
    finished = work(request_file, tmp_path / "out")
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith("BadBenchmark: There is no benchmark 'capital_cities'; known")
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "out").exists()
