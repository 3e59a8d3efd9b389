"""Protocol, Resources and Study: what is accepted, what is refused, and in which words."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from softprompt.errors import BadStudy, SoftPromptError
from softprompt.protocol import Protocol, Resources
from softprompt.study import Study

CHANGES: dict[str, Any] = {
    "placements": ("prefix",),
    "controls": ("shuffled",),
    "num_vectors": 5,
    "prefix_text": "Answer in one word.",
    "cue_text": "\nIn one word:",
    "prefix_gradient": "truncated",
    "unknown_share": 0.25,
    "learn_stop": False,
    "num_steps": 40,
    "batch_size": 4,
    "num_train": 320,
    "num_test": 100,
    "num_shots": 2,
    "chat": True,
    "seeds": (0, 1),
    "learning_rate": 0.5,
    "num_warmup_steps": 0,
    "curve_steps": (0, 80),
    "num_curve": None,
}


@pytest.mark.parametrize("name", Protocol.__dataclass_fields__)
def test_every_setting_of_a_protocol_is_part_of_its_identity(name: str) -> None:
    assert replace(Protocol(), **{name: CHANGES[name]}).fingerprint != Protocol().fingerprint


def test_the_order_of_seeds_is_part_of_a_protocol() -> None:
    assert Protocol(seeds=(1, 0)).fingerprint != Protocol(seeds=(0, 1)).fingerprint


def test_a_protocol_read_back_has_the_same_identity() -> None:
    changed = Protocol(**CHANGES)
    assert Protocol.from_dict(changed.to_dict()) == changed
    assert Protocol.from_dict({"seeds": [0, 1, 2]}).fingerprint == Protocol().fingerprint


def test_equal_protocols_have_one_identity_however_they_are_written() -> None:
    controls = ["shuffled", "untuned"]
    written = ({"unknown_share": 0, "controls": controls}, {"unknown_share": 0.0, "controls": controls[::-1]})
    first, second = map(Protocol.from_dict, written)
    assert first == second
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("kind", [Protocol, Resources])
def test_an_unknown_setting_is_named(kind: type[Protocol] | type[Resources]) -> None:
    with pytest.raises(BadStudy, match=f"{kind.__name__} has no setting 'num_step'; it has .*"):
        kind.from_dict({"num_step": 40})


@pytest.mark.parametrize("values", [3, [{"num_steps": 40}]])
def test_settings_that_are_no_table_are_refused(values: Any) -> None:
    with pytest.raises(BadStudy, match=r"protocol is .*; expected a table, \[protocol\]"):
        Protocol.from_dict(values)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Protocol, "num_vectors", 0),
        (Protocol, "num_steps", -1),
        (Protocol, "prefix_gradient", "half"),
        (Protocol, "num_steps", "80"),
        (Protocol, "batch_size", 0),
        (Protocol, "batch_size", 2.5),
        (Protocol, "num_train", 0),
        (Protocol, "num_test", 0),
        (Protocol, "num_curve", 0),
        (Protocol, "num_shots", -1),
        (Protocol, "num_shots", 641),
        (Protocol, "seeds", ()),
        (Protocol, "seeds", (1, 1)),
        (Protocol, "seeds", 3),
        (Protocol, "seeds", ("a",)),
        (Protocol, "seeds", (2**70,)),
        (Protocol, "chat", "yes"),
        (Protocol, "num_test", True),
        (Protocol, "num_warmup_steps", -1),
        (Protocol, "learning_rate", 0.0),
        (Protocol, "learning_rate", 1e300),
        (Protocol, "learning_rate", float("nan")),
        (Protocol, "unknown_share", -0.5),
        (Protocol, "unknown_share", 1.0),
        (Protocol, "placements", ()),
        (Protocol, "placements", ("suffix",)),
        (Protocol, "placements", ("cue", "cue")),
        (Protocol, "placements", "cue"),
        (Protocol, "controls", ("suffix",)),
        (Protocol, "controls", ("random", "random")),
        (Protocol, "curve_steps", (10, 0)),
        (Protocol, "curve_steps", (-10, 0)),
        (Resources, "micro_batch", 0),
        (Resources, "dtype", "float16"),
    ],
)
def test_an_impossible_value_is_refused_by_name(
    kind: type[Protocol] | type[Resources], name: str, value: object
) -> None:
    with pytest.raises(BadStudy, match=f"^{name} is .*; expected"):
        kind(**{name: value})


def test_a_list_is_as_good_as_a_tuple() -> None:
    written = Protocol(placements=["cue"], seeds=range(2))  # type: ignore[arg-type]
    assert {written} == {Protocol(placements=("cue",), seeds=(0, 1))}


def test_the_curve_always_ends_at_the_last_step() -> None:
    assert Protocol(num_steps=80).measured_steps == (0, 10, 20, 40, 80)
    assert Protocol(num_steps=30).measured_steps == (0, 10, 20, 30)
    assert Protocol(num_steps=5, curve_steps=()).measured_steps == (5,)


def test_the_first_placement_is_the_headline() -> None:
    protocol = Protocol(placements=("prefix", "cue"))
    assert protocol.headline == "prefix"
    assert protocol.conditions == ("zero_shot", "few_shot", "prefix", "cue")
    assert "few_shot" not in replace(protocol, num_shots=0).conditions


STUDY = """
name = "tiny"
bucket = "checkpoints"
benchmarks = ["arc_easy_words"]

[protocol]
num_steps = 20
seeds = [0, 1]

[resources]
micro_batch = 8
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "study.toml"
    file.write_text(text)
    return file


def test_a_study_is_read_from_one_small_file(tmp_path: Path) -> None:
    study = Study.read(write(tmp_path, STUDY))
    assert study.benchmarks == ("arc_easy_words",)
    assert study.protocol == Protocol(num_steps=20, seeds=(0, 1))
    assert study.resources == Resources(micro_batch=8)
    assert study.benchmark("arc_easy_words").path == "allenai/ai2_arc"


def test_a_study_is_utf_8_whatever_the_machine_is_set_to(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(STUDY.replace("tiny", "größer"), encoding="utf-8")
    code = f"from softprompt.study import Study; print(ascii(Study.read({str(file)!r}).name))"
    ascii_alone = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-X", "utf8=0", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **ascii_alone})
    assert run.stdout == ascii("größer") + "\n"


def test_paths_in_a_study_are_relative_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    study = Study.read(write(tmp_path, 'mirror = "data"\ntokenizer = "own"\n' + STUDY))
    assert study.bucket == str(tmp_path / "checkpoints")
    assert study.mirror == str(tmp_path / "data")
    assert study.tokenizer == str(tmp_path / "own")
    assert study.home == str(tmp_path / ".softprompt" / "tiny")
    assert study.mlflow_uri == f"sqlite:///{tmp_path}/.softprompt/tiny/mlflow.db"


def test_a_study_may_name_places_at_its_readers_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for name in ("own", "words"):
        (tmp_path / "me" / name).mkdir(parents=True)
    places = {"bucket": "~/runs", "mirror": "~/data", "home": "~", "tokenizer": "~/words", "benchmark_folder": "~/own"}
    lines = [f'{name} = "{place}"' for name, place in places.items()]
    study = Study.read(write(tmp_path, "\n".join([*lines, STUDY.replace('bucket = "checkpoints"', "")])))
    assert {name: getattr(study, name) for name in places} == {
        name: place.replace("~", f"{tmp_path}/me") for name, place in places.items()
    }


def test_studies_side_by_side_have_homes_of_their_own_that_lie_beside_the_file(tmp_path: Path) -> None:
    names = ("tiny", "größe", "gräße", "a b", "a/b", "../a", "..", "日本", "中国")
    homes = [Path(Study.read(write(tmp_path, STUDY.replace('"tiny"', f'"{name}"'))).home) for name in names]
    assert {home.parent for home in homes} == {tmp_path / ".softprompt"}
    assert len(set(homes)) == len(names)
    assert homes[0].name == "tiny"
    assert homes[1].name.startswith("gr-e-")


@pytest.mark.parametrize("name", ["a" * 246, "a" * 244 + "!a", "日" * 246])
def test_a_folder_may_be_called_by_the_longest_name(tmp_path: Path, name: str) -> None:
    Path(Study.read(write(tmp_path, STUDY.replace("tiny", name))).home).mkdir(parents=True)


def test_urls_hub_names_and_absolute_paths_stay_as_they_are(tmp_path: Path) -> None:
    text = STUDY.replace('"checkpoints"', '"s3://bucket/run"')
    study = Study.read(write(tmp_path, 'tokenizer = "org/name"\nmirror = "/data"\n' + text))
    assert (study.bucket, study.tokenizer, study.mirror) == ("s3://bucket/run", "org/name", "/data")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "tiny"', 'name = "tiny"\nbuckets = "b"', r"unknown settings \['buckets'\], known are .*'bucket'"),
        ('bucket = "checkpoints"', "", r"lacks the settings \['bucket'\]"),
        ('name = "tiny"', 'name = " "', "name is ' '; expected 1 to 246 characters"),
        ("tiny", "ü" * 247, "name is 'ü+'; expected 1 to 246 characters"),
        ("arc_easy_words", "arc_hard", "no benchmark 'arc_hard'; known are .*arc_easy"),
        ('["arc_easy_words"]', "[]", "names no benchmarks"),
        ('["arc_easy_words"]', '"arc_easy_words"', "benchmarks"),
        ('name = "tiny"', 'name = "tiny"\nlayout = "{variant}/latest"', "must name {variant} and {step} once each"),
        ("num_steps = 20", "num_step = 20", "Protocol has no setting 'num_step'"),
        ("num_steps = 20", "num_steps = 0", "num_steps is 0; expected a whole number of at least 1"),
        ("micro_batch = 8", "gpus = 8", "Resources has no setting 'gpus'"),
        ('name = "tiny"', 'name = "tiny', "is no valid TOML"),
        ('bucket = "checkpoints"', "bucket = 3", "bucket"),
    ],
)
def test_a_study_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(SoftPromptError, match=message) as caught:
        Study.read(write(tmp_path, STUDY.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_an_empty_path_of_a_study_is_said_with_the_variable_it_mostly_comes_from() -> None:
    with pytest.raises(BadStudy, match=r"^No study is named; .* deploy again with its path in SOFTPROMPT_STUDY\.$"):
        Study.read("")


def test_a_study_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match=f"There is no study file {tmp_path}/nowhere.toml"):
        Study.read(tmp_path / "nowhere.toml")


def test_a_benchmark_of_ones_own_is_found_in_the_study_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "capitals.py").write_text(
        "from softprompt.answers import Number\n"
        "from softprompt.benchmarks import Benchmark, Example\n"
        "BENCHMARK = Benchmark(name='capitals', path='me/capitals', grammar=Number(),\n"
        "    to_example=lambda row: Example(question=row['q'], answer=row['a'], golds=(row['a'],)))\n"
    )
    text = 'benchmark_folder = "mine"\n' + STUDY.replace("arc_easy_words", "capitals")
    assert Study.read(write(tmp_path, text)).benchmark("capitals").path == "me/capitals"
