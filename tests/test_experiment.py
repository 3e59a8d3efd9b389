"""Protocols held against one another, without Prefect and MLflow."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from studies import make_study
from test_report import BENCHMARKS, PROTOCOL, Page, study
from typer.testing import CliRunner

import softprompt
from softprompt import evaluation
from softprompt.arm import Arm, own_settings, side_by_side
from softprompt.cli import app
from softprompt.errors import BadStudy, HomeUnavailable
from softprompt.experiment import Experiment, checkpoints_of
from softprompt.report import write_report
from softprompt.result import Result
from softprompt.study import Study

ARMS = """
[arms.cue]
placements = ["cue"]

[arms.front]
placements = ["prefix"]
controls = ["shuffled"]
"""


@pytest.fixture
def file(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A study of two variants with two arms."""
    written = make_study(tmp_path, tiny_checkpoint, ("A", "B"), tracked=False)
    written.write_text(written.read_text() + ARMS)
    return written


def test_every_arm_is_run_on_every_checkpoint_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    def counted(*arguments: object, **settings: object) -> Result:
        found = evaluate(*arguments, **settings)  # type: ignore[arg-type]
        computed.append(found.job_key)
        return found

    evaluate = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", counted)
    done = CliRunner().invoke(app, ["study", str(file), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found["arms"]) == ["cue", "front"]
    assert len(set(computed)) == len(computed) == 2 * 2 * 2
    for name, arm in found["arms"].items():
        assert len(arm["results"]) == 4
        assert [standing["variant"] for standing in arm["ranking"]["standings"]] == ["A", "B"]  # the same weights
        assert arm["protocol"]["placements"] == ["prefix" if name == "front" else "cue"]
    assert set(found["arms"]["front"]["results"][0]["learned_task"]) == {"prefix"}

    page = Page(file.parent / ".softprompt" / "study.html")
    assert "The arms side by side" in page.text
    assert max(page.ids.values()) == 1
    assert page.references <= {f"#{name}" for name in page.ids}

    again = CliRunner().invoke(app, ["study", str(file)])
    assert again.exit_code == 0
    assert "Chance-centred accuracy by arm" in again.stdout
    assert len(computed) == 8


def test_the_example_for_a_notebook_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "method.md").read_text()
    (example,) = re.findall("In a notebook:\n\n```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(file.parent)
    names: dict[str, Any] = {"softprompt": softprompt}
    exec(example, names)
    assert [(arm.name, len(arm.results)) for arm in names["arms"]] == [("cue", 4), ("front", 4)]


def test_a_checkpoint_that_cannot_be_evaluated_does_not_stop_the_others(file: Path) -> None:
    (file.parent / "bucket" / "B" / "step-100" / "tokenizer.json").write_text("{}")
    done = CliRunner().invoke(app, ["study", str(file), "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert len(found["failures"]) == 4
    assert found["failures"][0].startswith("B at step 100 on capitals: ")
    assert done.stderr.splitlines()[3:5] == [  # a line for each job, since no bar is shown here
        "4 of 8: front, A at step 100, sums: done",
        "5 of 8: cue, B at step 100, capitals: failed",
    ]
    assert [s["variant"] for s in found["arms"]["cue"]["ranking"]["standings"]] == ["A"]


def test_a_home_that_cannot_be_made_stops_a_study_before_anything_is_computed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("It was computed."))
    file.write_text(file.read_text().replace('home = ".softprompt"', 'home = "/proc/softprompt"'))
    error = CliRunner().invoke(app, ["study", str(file)]).exception
    assert isinstance(error, HomeUnavailable)
    assert str(error).startswith("/proc/softprompt/results cannot be used (No such file")


def test_checkpoints_are_named_or_all_of_the_bucket(file: Path) -> None:
    declared = Study.read(file)
    assert [c.name for c in checkpoints_of(declared)] == ["A at step 100", "B at step 100"]
    assert [c.name for c in checkpoints_of(declared, [f"{declared.bucket}/B/step-100"])] == ["B at step 100"]
    assert len(checkpoints_of(declared, steps=[100, 200])) == 2
    nothing = CliRunner().invoke(app, ["study", str(file), "--step", "200"])
    assert isinstance(nothing.exception, BadStudy)
    assert str(nothing.exception) == "There are no checkpoints at step 200; there are at 100."
    (file.parent / "empty").mkdir()
    file.write_text(file.read_text().replace('bucket = "bucket"', 'bucket = "empty"'))
    assert str(CliRunner().invoke(app, ["study", str(file)]).exception).endswith("/empty holds no checkpoints yet.")
    with pytest.raises(BadStudy, match=r"No checkpoint in .* can be evaluated\. .*/A/step-100 has no STABLE \(yet\)"):
        checkpoints_of(replace(declared, marker="STABLE"))
    nowhere = CliRunner().invoke(app, ["study", str(file), "--report", str(file.parent / "none" / "r.html")])
    assert re.match(r"There is no folder .*/none for the report; make it", str(nowhere.exception))


def test_without_arms_the_protocol_is_the_only_one(tmp_path: Path) -> None:
    declared = Study.read(make_study(tmp_path, tracked=False))
    assert dict(Experiment.of(declared).arms) == {"toy": declared.protocol}


def test_another_tokenizer_makes_another_job(tmp_path: Path, tiny_checkpoint: Path) -> None:
    places = [tmp_path / name for name in ("first", "copy", "other")]
    for place in places:
        shutil.copytree(tiny_checkpoint, place, ignore=shutil.ignore_patterns("*.safetensors"))
    (places[2] / "chat_template.jinja").write_text("{{ messages }}")
    study = Study.read(make_study(tmp_path, tiny_checkpoint, ("A",), tracked=False))
    keys = []
    for tokenizer in (None, *map(str, places)):
        ((_, job), *_) = Experiment.of(replace(study, tokenizer=tokenizer)).jobs(checkpoints_of(study))
        keys.append(job.key)
        if tokenizer == str(places[1]):
            assert Experiment.of(replace(study, tokenizer=tokenizer)).result(job, lambda *_: None).job_key == job.key
    assert keys[1] == keys[2]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ("[arms.slow]\nrate = 3", "Arm 'slow': Protocol has no setting 'rate'"),
        ("[arms.slow]\nlearning_rate = 0", "Arm 'slow': learning_rate is 0; expected"),
        ("[arms]\nslow = 3", "expected a table for each arm"),
        ("[arms.a]\n[arms.b]", "The arms 'a' and 'b' have the same settings"),
    ],
)
def test_impossible_arms_are_refused(tmp_path: Path, arms: str, sentence: str) -> None:
    file = make_study(tmp_path, tracked=False)
    file.write_text(f"{file.read_text()}\n{arms}\n")
    with pytest.raises(BadStudy, match=sentence):
        Study.read(file)


def test_arms_stand_beside_one_another_and_share_no_curve(tmp_path: Path) -> None:
    results = study({"dense": 0.9, "moe": 0.5}, steps=[100])
    other = [replace(r, protocol=replace(PROTOCOL, learning_rate=1.0, num_steps=40)) for r in results]
    arms = [Arm.of("slow", results, BENCHMARKS), Arm.of("fast", other, BENCHMARKS)]
    assert [own_settings(arm, arms) for arm in arms] == [
        {"num_steps": 20, "learning_rate": 0.3},
        {"num_steps": 40, "learning_rate": 1.0},
    ]
    assert [(row.arm, row.condition.name) for row in side_by_side(arms)] == [
        ("", "zero_shot"),
        ("", "few_shot"),
        *((arm, condition) for arm in ("slow", "fast") for condition in ("cue", "prefix")),
    ]
    chat = Arm.of("chat", [replace(r, protocol=replace(PROTOCOL, chat=True)) for r in results], BENCHMARKS)
    assert [(row.arm, row.condition.name) for row in side_by_side([arms[0], chat])] == [
        (arm, condition) for arm in ("slow", "chat") for condition in ("zero_shot", "few_shot", "cue", "prefix")
    ]
    truth = {"dense": {100: 0.9}, "moe": {100: 0.6}}
    page = Page(write_report(arms, tmp_path / "study.html", title="Rates", truth=truth))
    counts = Counter(page.ids)
    assert max(counts.values()) == 1
    assert {"arm-0-ranking", "arm-1-ranking"} <= counts.keys()
    assert "num_steps = 40, learning_rate = 1.0" in page.text


def test_a_study_loads_neither_prefect_nor_mlflow() -> None:
    code = "import sys, softprompt.experiment, softprompt.cli; print({'prefect', 'mlflow', 'torch'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == "set()\n"
