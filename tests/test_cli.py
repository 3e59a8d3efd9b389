"""The command line: every command explains itself, prints what a program can read, and fails in one sentence."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import flows.cli
from softprompt.cli import app, run_app

QUICK = (
    "num_train=12",
    "num_test=6",
    "num_steps=2",
    "batch_size=4",
    "num_vectors=2",
    "seeds=[0]",
    "num_shots=1",
    "curve_steps=[0]",
)


@pytest.mark.parametrize("command", [*app.registered_commands], ids=lambda c: c.callback.__name__)
def test_every_command_says_what_it_does(command: object) -> None:
    assert command.callback.__doc__  # type: ignore[attr-defined]
    name = command.callback.__name__  # type: ignore[attr-defined]
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_the_readme_names_every_command() -> None:
    readme = (Path(flows.cli.__file__).parent.parent / "README.md").read_text()
    for command in app.registered_commands:
        assert re.search(rf"softprompt {command.callback.__name__}|make {command.callback.__name__}", readme)


def test_benchmarks_are_listed_for_programs() -> None:
    listed = json.loads(CliRunner().invoke(app, ["benchmarks", "--json"]).stdout)
    assert {"name": "svamp", "path": "ChilleD/SVAMP", "config": None, "chance": 0.0} in listed


def test_a_checkpoint_is_evaluated_without_a_study(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from studies import make_study

    study = make_study(tmp_path, tiny_checkpoint).parent
    settings = [argument for setting in QUICK for argument in ("--set", setting)]
    places = ["--mirror", str(study / "mirror"), "--benchmark-folder", str(study / "own")]
    arguments = ["evaluate", str(tiny_checkpoint), "--benchmark", "capitals", *places, *settings, "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)
    assert set(result["metrics"]) == {"zero_shot", "few_shot", "cue", "prefix"}
    assert result["metrics"]["cue"]["accuracy"]["n"] == 6


def test_a_plan_says_what_would_be_evaluated_and_what_it_would_cost(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from studies import log_recorded, make_study

    file = make_study(tmp_path, tiny_checkpoint, ("A", "B", "C"))
    log_recorded(file, variant="A", benchmark="sums")  # took 3 s
    planned = json.loads(CliRunner().invoke(app, ["plan", str(file), "--json"]).stdout)
    assert [Path(uri).parent.name for uri in planned["checkpoints"]] == ["A", "B", "C"]
    assert planned["costs"] == [
        {"benchmark": "capitals", "num_jobs": 3, "seconds_per_job": None, "num_measured": 0, "seconds": None},
        {"benchmark": "sums", "num_jobs": 2, "seconds_per_job": 3.0, "num_measured": 1, "seconds": 6.0},
    ]
    assert (planned["num_jobs"], planned["seconds"], planned["num_unmeasured"]) == (5, 6.0, 3)
    shown = CliRunner().invoke(app, ["plan", str(file)]).stdout
    assert "no measurement yet" in shown
    assert "5 jobs on 3 checkpoints: about 6 s for 2, one after another, no measurement yet for 3." in shown


def test_an_announcement_that_nobody_takes_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr("sys.argv", ["softprompt", "announce", "runs/A/step-100"])
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), pytest.raises(SystemExit):
        run_app()
    assert capsys.readouterr().err.startswith("NotAnnounced: Prefect at http://127.0.0.1:9/api did not take the event")


def test_an_error_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["softprompt", "evaluate", "/nowhere", "--benchmark", "svamp"])
    with pytest.raises(SystemExit) as caught:
        run_app()
    assert caught.value.code == 1
    assert capsys.readouterr().err.strip() == "BadCheckpoint: There is no checkpoint at /nowhere; check the path."
