"""The command line: every command explains itself, prints what a program can read, and fails in one sentence."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer import BadParameter
from typer.main import get_command
from typer.testing import CliRunner

import flows.cli
from softprompt.cli import app, note, parse_setting, run_app, try_to_write
from softprompt.errors import BadBenchmark, BadCheckpoint, BadStudy, RowsUnavailable
from softprompt.result import Result
from softprompt.tables import conditions_tables

OWN = """
from softprompt.answers import Number
from softprompt.benchmarks import Benchmark, Example

BENCHMARK = Benchmark(name="{name}", path="me/{name}", grammar=Number(),
                      to_example=lambda row: Example(question=row["q"], answer={answer}, golds=(row["a"],)))
"""
DEAF = """
class Deaf(Number):
    def lenient(self, output, item):
        raise KeyError(output)
"""
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
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    for parameter in get_command(app).commands[name].params:  # type: ignore[attr-defined]
        assert set((parameter.help or "").replace("\\[", "[").split()) <= set(shown.stdout.split()), parameter.name


def test_a_setting_that_is_no_toml_is_said_with_how_it_is_written() -> None:
    assert parse_setting('placements=["cue"]') == ("placements", ["cue"])
    for text in ("placements=cue", "num_train"):
        with pytest.raises(BadParameter, match=rf"^'{text}' is not .*strings stand in quotes, .*--set 'placements=\["):
            parse_setting(text)
    for text in ("chat=True", "num_test=None"):
        with pytest.raises(BadParameter, match=rf"^'{text}' is not .*true and false in lower case, .*--set chat=true;"):
            parse_setting(text)


def test_the_readme_names_every_command() -> None:
    readme = (Path(flows.cli.__file__).parent.parent / "README.md").read_text()
    for command in app.registered_commands:
        assert re.search(rf"softprompt {command.callback.__name__}|make {command.callback.__name__}", readme)


def test_benchmarks_are_listed_for_programs() -> None:
    listed = json.loads(CliRunner().invoke(app, ["benchmarks", "--json"]).stdout)
    assert {"name": "svamp", "path": "ChilleD/SVAMP", "config": None, "chance": 0.0} in listed


def test_benchmarks_are_checked_and_those_without_rows_do_not_stop_the_others(tmp_path: Path) -> None:
    from studies import write_rows

    (tmp_path / "own").mkdir()
    for name, answer in (("good", 'row["a"]'), ("bad", '"four"')):
        (tmp_path / "own" / f"{name}.py").write_text(OWN.format(name=name, answer=answer))
        for split in ("train", "test"):
            rows = [{"q": f"2 + {i}?", "a": str(2 + i)} for i in range(3 if split == "train" else 2)]
            write_rows(tmp_path / "mirror" / "me" / name, split, rows)
    places = ["--mirror", str(tmp_path / "mirror"), "--benchmark-folder", str(tmp_path / "own")]
    done = CliRunner().invoke(app, ["benchmarks", "--check", *places, "--json"])
    assert done.exit_code == 1
    found = {check["name"]: check for check in json.loads(done.stdout)}
    good = {"num_train": 1, "num_test": 2, "num_contaminated": 2, "answer": "Number", "status": "ok", "problem": ""}
    assert found["good"].items() >= good.items()
    assert found["bad"]["status"] == "broken"
    assert "train item train-2 wants the answer 'four', which its own grammar" in found["bad"]["problem"]
    assert found["svamp"]["status"] == "unread"
    assert "ChilleD/SVAMP, split 'test' cannot be read from the mirror" in found["svamp"]["problem"]

    (tmp_path / "own" / "bad.py").unlink()
    done = CliRunner().invoke(app, ["benchmarks", "--check", *places])
    assert done.exit_code == 0  # what could be read is sound
    assert re.search(r"good +│ 1 +│ 2 +│ 2 +│ Number", done.stdout)
    shown = CliRunner().invoke(app, ["benchmarks", "--show", "good", *places])
    assert shown.stdout == "2 + 0?\nAnswer: «2»\n"


def test_mistakes_in_ones_own_benchmarks_are_sentences_of_a_check_and_stop_no_other(tmp_path: Path) -> None:
    from studies import write_rows

    mistakes = {
        "good": ("row", "row", ""),
        "int_answer": (
            'answer=row["a"]',
            "answer=4",
            "row 0 of me/int_answer, split 'test' has the answer 4; expected",
        ),
        "class_grammar": ("Number()", "Number", "grammar is <class 'softprompt.answers.Number'>; expected an instance"),
        "raises": ('answer=row["a"]', "answer=1 / 0", "does not fit the declaration (ZeroDivisionError: division by"),
        "no_example": ('Example(question=row["q"], ', "dict(", "becomes {'answer': '2', 'golds': ('2',)}; expected an"),
        "deaf": ("Number()", "Deaf()", "train item train-0 cannot be read by its own grammar"),
    }
    (tmp_path / "own").mkdir()
    for name, (right, wrong, _) in mistakes.items():
        text = OWN.format(name=name, answer='row["a"]').replace(right, wrong)
        (tmp_path / "own" / f"{name}.py").write_text(text.replace("\nBENCHMARK", f"{DEAF}\nBENCHMARK"))
        for split in ("train", "test"):
            write_rows(tmp_path / "mirror" / "me" / name, split, [{"q": f"{split} 2?", "a": "2"}])
    places = ["--mirror", str(tmp_path / "mirror"), "--benchmark-folder", str(tmp_path / "own")]
    done = CliRunner().invoke(app, ["benchmarks", "--check", *places, "--json"])
    assert done.exit_code == 1, done.exception
    found = {check["name"]: check for check in json.loads(done.stdout) if check["name"] in mistakes}
    assert {name: check["status"] for name, check in found.items()} == {
        name: "broken" if name != "good" else "ok" for name in mistakes
    }
    for name, (_, _, says) in mistakes.items():
        assert says in found[name]["problem"]


def test_a_check_of_a_mirror_that_is_not_there_is_none() -> None:
    done = CliRunner().invoke(app, ["benchmarks", "--check", "--mirror", "/nowhere"])
    assert isinstance(done.exception, RowsUnavailable)
    assert str(done.exception).startswith("There is no folder /nowhere, from which rows should be read;")


def test_a_checkpoint_is_evaluated_without_a_study(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from studies import make_study

    study = make_study(tmp_path, tiny_checkpoint).parent
    settings = [argument for setting in QUICK for argument in ("--set", setting)]
    places = ["--mirror", str(study / "mirror"), "--benchmark-folder", str(study / "own")]
    arguments = ["evaluate", str(tiny_checkpoint), "--benchmark", "capitals", *places, *settings, "--json"]
    arguments += ["--save", str(tmp_path / "saved")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    assert set(result["metrics"]) == {"zero_shot", "few_shot", "cue", "prefix"}
    assert result["metrics"]["cue"]["accuracy"]["n"] == 6
    tables = conditions_tables(Result.load(tmp_path / "saved" / "capitals"))
    assert "0 train items also stood in the test split and were left out" in str(tables[-1].caption)

    arguments = ["evaluate", str(tiny_checkpoint), "--benchmark", "capitals", "--benchmark", "capitols", *places]
    done = CliRunner().invoke(app, [*arguments, "--save", str(tmp_path / "none")])
    assert isinstance(done.exception, BadBenchmark)
    assert not (tmp_path / "none").exists()  # all names are looked up before anything is computed


def evaluated(folder: Path, checkpoint: Path, *arguments: str) -> Any:
    """What the command `evaluate` makes of a quick protocol and the toy study's rows."""
    settings = [argument for setting in QUICK for argument in ("--set", setting)]
    places = ["--mirror", str(folder / "mirror"), "--benchmark-folder", str(folder / "own")]
    return CliRunner().invoke(app, ["evaluate", str(checkpoint), *places, *settings, *arguments])


def test_benchmarks_that_fail_stop_no_other_and_are_said_once_for_each_reason(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from studies import make_study

    study = make_study(tmp_path, tracked=False).parent
    for name in ("bad", "worse"):
        (study / "own" / f"{name}.py").write_text(OWN.format(name=name, answer='row["a"]').replace("me/", "toy/sums#"))
    names = [argument for name in ("bad", "sums", "worse", "capitals") for argument in ("--benchmark", name)]
    done = evaluated(study, tiny_checkpoint, *names, "--json")
    assert done.exit_code == 1
    assert [result["benchmark"] for result in json.loads(done.stdout)] == ["sums", "capitals"]
    lines = done.stderr.splitlines()
    assert lines[:4] == ["1 of 4: bad: failed", "2 of 4: sums: done", "3 of 4: worse: failed", "4 of 4: capitals: done"]
    assert [line.partition(" cannot be read")[0] for line in lines[4:]] == [
        f"Failed: {name}: Benchmark {name!r}: toy/sums#{name}, split 'test'" for name in ("bad", "worse")
    ]

    both = evaluated(study, tiny_checkpoint, *names[2:4], *names[6:], "--tokenizer", "/nowhere")
    assert both.stderr.splitlines()[2:] == [
        "Failed: sums, capitals: There is no folder /nowhere to read the tokenizer from; correct `tokenizer`, or leave "
        "it out if the checkpoints have one."
    ]


@pytest.mark.parametrize("taken", ["saved", "saved/sums"])
def test_a_place_where_no_result_can_be_saved_is_found_before_anything_is_computed(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    from studies import make_study

    study = make_study(tmp_path, tracked=False).parent
    (study / taken).parent.mkdir(exist_ok=True)
    (study / taken).write_text("a file")
    monkeypatch.setattr("softprompt.evaluation.evaluate", pytest.fail)
    done = evaluated(study, tiny_checkpoint, "--benchmark", "sums", "--save", str(study / "saved"))
    assert isinstance(done.exception, BadStudy)
    assert re.match(rf"No result can be saved in {study}/saved/sums \(.*\); name another", str(done.exception))


def test_a_folder_that_nobody_can_write_to_is_no_place_for_a_result() -> None:
    with pytest.raises(BadStudy, match=r"^No result can be saved in /proc \("):
        try_to_write(Path("/proc"))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_lines_about_jobs_are_for_logs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    note("1 of 2: svamp: done")
    assert capsys.readouterr() == ("", "" if is_terminal else "1 of 2: svamp: done\n")


def test_a_plan_says_what_would_be_evaluated_and_what_it_would_cost(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from studies import log_recorded, make_study

    file = make_study(tmp_path, tiny_checkpoint, ("A", "B", "C"))
    log_recorded(file, variant="A", benchmark="sums")  # took 3 s
    (tmp_path / "bucket" / "C" / "step-200").mkdir()
    planned = json.loads(CliRunner().invoke(app, ["plan", str(file), "--json"]).stdout)
    assert (planned["num_folders"], planned["failed"]) == (4, [])
    assert planned["passed_over"] == [
        f"{tmp_path}/bucket/C/step-200 has no config.json (yet); expected a checkpoint in the Hugging Face layout."
    ]
    assert [Path(uri).parent.name for uri in planned["checkpoints"]] == ["A", "B", "C"]
    capitals, sums = planned["costs"]
    assert capitals == {
        "benchmark": "capitals",
        "num_jobs": 3,
        "seconds_per_job": None,
        "num_measured": 0,
        "seconds": None,
    }
    each_s = sums["seconds_per_job"]
    assert each_s > 3.0  # the evaluation's, and those of logging it
    assert sums == {
        "benchmark": "sums",
        "num_jobs": 2,
        "seconds_per_job": each_s,
        "num_measured": 1,
        "seconds": 2 * each_s,
    }
    assert (planned["num_jobs"], planned["seconds"], planned["num_unmeasured"]) == (5, 2 * each_s, 3)
    shown = CliRunner().invoke(app, ["plan", str(file)]).stdout
    assert f"4 checkpoints in {tmp_path}/bucket, 4 of them looked into: 3 to evaluate" in shown
    assert f"Passed over: {tmp_path}/bucket/C/step-200 has no config.json" in shown
    assert f"To evaluate: A at step 100, {tmp_path}/bucket/A/step-100" in shown
    assert "no measurement yet" in shown
    assert re.search(
        r"5 jobs on 3 checkpoints: about \d+ s for 2, one after another, no measurement yet for 3\.", shown
    )


def test_a_plan_without_work_says_why(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from studies import log_failure, make_study

    file = make_study(tmp_path, tiny_checkpoint)
    log_failure(file, variant="A", benchmark="sums", error="An item is longer than the context.")
    log_failure(file, variant="A", benchmark="capitals", error="An item is longer than the context.")
    shown = CliRunner().invoke(app, ["plan", str(file)]).stdout
    assert "failed before on capitals, sums: An item is longer than the context. It is tried again once" in shown
    assert shown.endswith("Nothing to do.\n")
    (failed,) = json.loads(CliRunner().invoke(app, ["plan", str(file), "--json"]).stdout)["failed"]
    assert failed["checkpoint"] == f"{tmp_path}/bucket/A/step-100"
    assert failed["errors"].keys() == {"capitals", "sums"}

    def plan_with(setting: str) -> str:
        others = [line for line in file.read_text().splitlines() if line.split(" =")[0] != setting.split(" =")[0]]
        other = file.with_name("other.toml")
        other.write_text("\n".join([setting, *others]))
        return CliRunner().invoke(app, ["plan", str(other)]).stdout

    assert "fits the layout '{step}-{variant}' (yet); it holds 'A'." in plan_with('layout = "{step}-{variant}"')
    (tmp_path / "empty").mkdir()
    assert f"Nothing lies in {tmp_path}/empty (yet); correct `bucket`" in plan_with('bucket = "empty"')


def test_an_unset_variable_in_a_shell_does_not_start_a_whole_bucket() -> None:
    found = CliRunner().invoke(app, ["watch", "study.toml", "--checkpoint", ""])
    assert found.exit_code == 2
    assert "--checkpoint is empty" in " ".join(found.output.replace("│", " ").split())


def test_a_plan_promises_nothing_for_a_mirror_that_is_not_there(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from studies import make_study

    file = make_study(tmp_path, tiny_checkpoint)
    (tmp_path / "mirror").rename(tmp_path / "elsewhere")
    planned = CliRunner().invoke(app, ["plan", str(file), "--json"])
    assert isinstance(planned.exception, RowsUnavailable)
    assert f"There is no folder {tmp_path / 'mirror'}, " in str(planned.exception)


def test_a_checkpoint_is_announced_by_its_full_path_and_only_if_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import PREFECT_API_URL, temporary_settings

    posted = []
    monkeypatch.setattr(SyncPrefectClient, "request", lambda *_, json, **__: posted.extend(json))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/A/step-100").mkdir(parents=True)
    place, url = f"{tmp_path}/runs/A/step-100", "s3://team/A/step-100"
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        done = [CliRunner().invoke(app, ["announce", name]) for name in ("runs/A/step-100", url, "runs/A/step-10")]
    assert [event["payload"]["uri"] for event in posted] == [place, url]
    assert [found.stdout for found in done] == [f"Announced: {place}\n", f"Announced: {url}\n", ""]
    assert isinstance(done[2].exception, BadCheckpoint)
    assert str(done[2].exception) == f"There is no checkpoint at {tmp_path}/runs/A/step-10; check the path."


def test_an_announcement_that_nobody_takes_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def announce(checkpoint: str) -> str:
        monkeypatch.setattr("sys.argv", ["softprompt", "announce", checkpoint])
        with temporary_settings({PREFECT_API_URL: "http://me:secret@127.0.0.1:9/api"}), pytest.raises(SystemExit):
            run_app()
        return capsys.readouterr().err

    said = announce(str(tmp_path))
    assert said.startswith("PrefectUnavailable: Prefect at http://***@127.0.0.1:9/api did not take the event")
    assert announce("ftp://me:secret@nas/A/step-100").startswith("BadBucket: ftp://***@nas/A/step-100 holds a password")


def test_an_error_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["softprompt", "evaluate", "/nowhere", "--benchmark", "svamp"])
    with pytest.raises(SystemExit) as caught:
        run_app()
    assert caught.value.code == 1
    assert capsys.readouterr().err.strip() == "BadCheckpoint: There is no checkpoint at /nowhere; check the path."


@pytest.mark.parametrize("study", ["[/x]", "[red]"])
def test_a_folder_is_no_study_and_its_name_is_said_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, study: str
) -> None:
    (tmp_path / study).mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["softprompt", "plan", str(tmp_path / study)])
    with pytest.raises(SystemExit):
        run_app()
    assert capsys.readouterr().err.startswith(f"BadStudy: {tmp_path / study} cannot be read (Is a directory); name")


def test_a_demo_without_its_study_says_how_to_get_it_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "study.toml"
    monkeypatch.setattr("flows.demo.STUDY", gone)
    monkeypatch.setattr("sys.argv", ["softprompt", "demo", str(tmp_path / "demo")])
    with pytest.raises(SystemExit):
        run_app()
    assert capsys.readouterr().err.startswith(f"BadStudy: {gone} is missing, which comes with the repository: `git che")
