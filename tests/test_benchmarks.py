"""Benchmarks: the shipped ones on real rows, and what happens to rows and files that do not fit."""

import functools
import importlib
import os
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import WORDINGS, capital_rows
from hub_rows import PROMPTS, SPLITS

from softprompt.answers import Number
from softprompt.benchmarks import Benchmark, Example, get, names
from softprompt.checks import check, require_sound
from softprompt.errors import BadBenchmark, RowsUnavailable
from softprompt.protocol import Protocol
from softprompt.rows import Rows, load_rows
from softprompt.world.facts import World
from softprompt.world.rows import write_rows

MIRROR = Path(os.environ.get("SOFTPROMPT_TEST_MIRROR", Path(__file__).parents[2] / "shared" / "data"))
DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
WORLDS_OWN = [name for name in names() if name.startswith("world_")]
FROM_THE_HUB = [name for name in names() if name not in WORLDS_OWN]


@functools.cache
def shipped_rows(name: str) -> Rows:
    """The rows of a benchmark whose dataset lies on the hub, from the mirror of it."""
    benchmark = get(name)
    if not (MIRROR / benchmark.path / (benchmark.config or "")).is_dir():
        pytest.skip(f"no rows of {benchmark.path} in {MIRROR}; name a mirror of the hub in SOFTPROMPT_TEST_MIRROR")
    return load_rows(benchmark, str(MIRROR))


def write_split(mirror: Path, benchmark: Benchmark, split: str, rows: list[dict[str, Any]]) -> None:
    folder = mirror / benchmark.path / (benchmark.config or "")
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize("name", names())
def test_a_shipped_benchmark_names_its_sources(name: str) -> None:
    module = importlib.import_module(f"softprompt.benchmarks.{name}")
    assert module.BENCHMARK is get(name)
    assert module.__doc__
    assert "Dataset" in module.__doc__


@pytest.mark.parametrize("name", [name for name in FROM_THE_HUB if name.removesuffix("_words") not in SPLITS])
def test_every_real_row_is_sound(name: str) -> None:
    require_sound(get(name), shipped_rows(name))


@pytest.mark.parametrize("name", [name for name in FROM_THE_HUB if name.removesuffix("_words") in SPLITS])
def test_rows_in_the_hubs_schema_are_sound(tmp_path: Path, name: str) -> None:
    benchmark = get(name)
    for split, rows in SPLITS[name.removesuffix("_words")].items():
        write_split(tmp_path, benchmark, split, rows)
    assert check(name, str(tmp_path)).problem == ""
    first = load_rows(benchmark, str(tmp_path)).test[0]
    if name in PROMPTS:
        assert (benchmark.prompt(first), first.answer) == PROMPTS[name]


def test_a_row_that_is_no_item_is_left_out(tmp_path: Path) -> None:
    """An answer of eleven words is no short one. Items are numbered by their rows all the same."""
    for split, (row,) in SPLITS["trivia_qa"].items():
        sentence = {**row, "answer": {**row["answer"], "value": "Oslo" + " which lies on a fjord" * 2}}
        write_split(tmp_path, get("trivia_qa"), split, [sentence, row])
    assert [example.id for example in load_rows(get("trivia_qa"), str(tmp_path)).test] == ["validation-1"]


def test_groups_take_turns_in_the_test_split(tmp_path: Path) -> None:
    for split, rows in SPLITS["hellaswag"].items():
        write_split(tmp_path, get("hellaswag"), split, rows)
    rows = load_rows(get("hellaswag"), str(tmp_path))
    assert [example.id.removeprefix("validation-") for example in rows.test] == ["0", "3", "1", "2"]
    assert [example.group for example in rows.test] == ["activitynet", "wikihow", "activitynet", "activitynet"]


def test_the_first_items_of_mmlu_hold_all_57_subjects() -> None:
    assert len({example.group for example in shipped_rows("mmlu").test[:57]}) == 57


@pytest.mark.parametrize(
    ("name", "num_contaminated"),
    [("arc_easy", 4), ("arc_easy_words", 4), ("mmlu", 18), ("mmlu_words", 18), ("snips", 21), ("web_questions", 1)],
)
def test_real_items_that_stand_in_both_splits_are_dropped_from_train_and_counted(
    name: str, num_contaminated: int
) -> None:
    """ARC-Easy repeats two items to the letter, one with options in another order, one with another wrong option."""
    assert shipped_rows(name).num_contaminated == num_contaminated


@pytest.mark.parametrize("name", ["arc_challenge", "arc_challenge_words"])
def test_an_item_with_its_options_in_another_order_is_the_same_item(tmp_path: Path, name: str) -> None:
    (item, other), benchmark = SPLITS["arc_challenge"]["test"], get(name)
    texts = ["Carbon dioxide", "argon", "oxygen"]
    moved = {**item, "id": "moved", "choices": {"text": texts, "label": ["A", "B", "C"]}, "answerKey": "A"}
    another_answer = {**moved, "id": "another answer", "answerKey": "C"}
    write_split(tmp_path, benchmark, "train", [moved, another_answer])
    write_split(tmp_path, benchmark, "test", [item, other])
    rows = load_rows(benchmark, str(tmp_path))
    assert [example.id for example in rows.train] == ["another answer"]
    assert rows.num_contaminated == 1


def test_a_mirror_may_keep_files_in_a_folder_as_the_hub_does(tmp_path: Path, toy_benchmark: Benchmark) -> None:
    for split, wording in zip(("train", "test"), WORDINGS, strict=False):
        write_split(tmp_path, replace(toy_benchmark, config="data"), split, capital_rows(wording))
    assert len(load_rows(toy_benchmark, str(tmp_path)).test) == 12


def test_rows_of_another_split_are_never_read_along(tmp_path: Path, toy_benchmark: Benchmark) -> None:
    """`datasets` would count the files of a dev split to validation."""
    benchmark = replace(toy_benchmark, train_split="validation")
    for split, wording in zip(("validation", "dev", "test"), WORDINGS, strict=True):
        write_split(tmp_path, benchmark, split, capital_rows(wording))
    assert len(load_rows(benchmark, str(tmp_path)).train) == 12


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"answer": "Oslo, of course"}, "wants the answer 'Oslo, of course', which its own grammar, .* refuses"),
        ({"answer": "Lima"}, r"wants the answer 'Lima', which does not count as right beside \('Oslo',\)"),
    ],
)
def test_an_item_that_no_output_could_get_right_is_found(
    toy_benchmark: Benchmark, rows: Rows, change: dict[str, Any], problem: str
) -> None:
    broken = replace(rows, test=(*rows.test[1:], replace(rows.test[0], **change)))
    with pytest.raises(BadBenchmark, match=f"'toy_capitals': test item .* {problem}"):
        require_sound(toy_benchmark, broken)


def test_two_items_of_one_id_are_refused_since_their_outcomes_could_not_be_told_apart(rows: Rows) -> None:
    with pytest.raises(
        BadBenchmark, match=r"^2 items of the test split have the id '2-1' \('Question: Name the capital"
    ):
        replace(rows, test=(replace(rows.test[0], id="2-1"), *rows.test[1:]))


@pytest.mark.parametrize("name", WORLDS_OWN)
def test_the_worlds_rows_fit_their_benchmark(tmp_path: Path, name: str) -> None:
    world = World(3, num_asked=5, num_train=20, num_test=30)
    write_rows(world, tmp_path)
    benchmark = get(name)
    rows = load_rows(benchmark, str(tmp_path))
    assert [example.id for example in rows.train] == list(world.train)
    assert [example.id for example in rows.test] == list(world.test)
    for example in (*rows.train, *rows.test):
        assert example.answer == world.facts[example.id, benchmark.config or ""]
        assert benchmark.chance == 1 / len(example.options)
    require_sound(benchmark, rows)


def test_a_prompt_is_the_question_and_the_cue_with_solved_examples_before_it(
    toy_benchmark: Benchmark, rows: Rows
) -> None:
    told = replace(toy_benchmark, instruction="Name the city.")
    assert told.prompt(rows.test[0], rows.train[:1]) == (
        "Name the city.\n\n"
        "Question: What is the capital of Norway?\nAnswer: Oslo\n\n"
        "Question: Name the capital of Norway.\nAnswer:"
    )
    assert toy_benchmark.question(rows.test[0]) == "Question: Name the capital of Norway."


def test_rows_are_read_from_a_mirror(tmp_path: Path, toy_benchmark: Benchmark) -> None:
    write_split(tmp_path, toy_benchmark, "train", capital_rows(WORDINGS[0]))
    write_split(tmp_path, toy_benchmark, "test", capital_rows(WORDINGS[2])[:5])
    rows = load_rows(toy_benchmark, str(tmp_path))
    assert (len(rows.train), len(rows.test), rows.num_contaminated) == (12, 5, 0)
    assert rows.test[0] == Example(
        id="test-0",
        question="Question: Name the capital of Norway.",
        answer="Oslo",
        golds=("Oslo",),
        options=("Oslo", "Lima", "Cairo", "Quito"),
    )


def test_a_train_item_that_differs_from_a_test_item_in_case_and_spaces_only_is_dropped(
    tmp_path: Path, toy_benchmark: Benchmark
) -> None:
    train = capital_rows(WORDINGS[0])
    test = [{**row, "question": row["question"].upper().replace("?", " ?")} for row in train[:3]]
    write_split(tmp_path, toy_benchmark, "train", train)
    write_split(tmp_path, toy_benchmark, "test", test)
    rows = load_rows(toy_benchmark, str(tmp_path))
    assert (len(rows.train), len(rows.test), rows.num_contaminated) == (9, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": None}, r"does not fit the declaration \(TypeError: .*it has the fields question, capital"),
        ({"capital": " "}, "has no gold answer"),
        ({"capital": None}, "has no gold answer"),
        ({"options": ["Cairo", None]}, r"has the options \('Cairo', None\); expected a tuple of texts"),
        ({"options": ["Rome", "Bonn"]}, r"has gold \('Cairo',\), which is not among its options \('Rome', 'Bonn'\)"),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    tmp_path: Path, toy_benchmark: Benchmark, change: dict[str, Any], message: str
) -> None:
    rows = capital_rows(WORDINGS[0])
    rows[2].update(change)
    write_split(tmp_path, toy_benchmark, "test", rows)
    write_split(tmp_path, toy_benchmark, "train", rows)
    with pytest.raises(BadBenchmark, match=rf"'toy_capitals': row 2 of toy/capitals, split 'test' {message}"):
        load_rows(toy_benchmark, str(tmp_path))


def test_rows_with_other_fields_are_refused_with_the_fields_they_have(tmp_path: Path, toy_benchmark: Benchmark) -> None:
    write_split(tmp_path, toy_benchmark, "test", [{"query": "?", "label": 1}])
    with pytest.raises(BadBenchmark, match=r"row 0 .*KeyError: 'question'.* has the fields query, label"):
        load_rows(toy_benchmark, str(tmp_path))


def test_a_mirror_without_the_dataset_is_named(tmp_path: Path, toy_benchmark: Benchmark) -> None:
    with pytest.raises(
        RowsUnavailable,
        match=rf"toy/capitals, split 'test' cannot be read from the mirror {tmp_path} .*; "
        rf"expected test-\*.parquet in {tmp_path}/toy/capitals/\*\.$",
    ):
        load_rows(toy_benchmark, str(tmp_path))


def test_the_environment_names_a_mirror_unless_another_is_given(
    tmp_path: Path, toy_benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, num_rows in (("one", 5), ("other", 6)):
        for split, wording in zip(("train", "test"), WORDINGS, strict=False):
            write_split(tmp_path / name, toy_benchmark, split, capital_rows(wording)[:num_rows])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOFTPROMPT_MIRROR", "one")
    assert [len(load_rows(toy_benchmark, mirror).test) for mirror in (None, "other")] == [5, 6]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOFTPROMPT_MIRROR", "~/one")
    assert [len(load_rows(toy_benchmark, mirror).test) for mirror in (None, "~/other")] == [5, 6]
    monkeypatch.setenv("SOFTPROMPT_MIRROR", "nowhere")
    with pytest.raises(RowsUnavailable, match=r"There is no folder nowhere, .*correct SOFTPROMPT_MIRROR\.$"):
        load_rows(toy_benchmark)


def test_a_mirror_without_the_split_is_named(tmp_path: Path, toy_benchmark: Benchmark) -> None:
    write_split(tmp_path, toy_benchmark, "test", capital_rows(WORDINGS[0]))
    with pytest.raises(BadBenchmark, match="split 'train' cannot be read from the mirror"):
        load_rows(toy_benchmark, str(tmp_path))


def test_a_sample_is_the_same_for_everyone_and_shots_come_out_of_it(rows: Rows, quick_protocol: Protocol) -> None:
    shots, train, test = rows.sample(quick_protocol)
    assert rows.sample(replace(quick_protocol, seeds=(7,)))[1] == train
    assert (len(shots), len(train), len(test)) == (2, 16, 12)
    assert shots == train[:2]
    assert set(train) < set(rows.train)
    assert rows.sample(replace(quick_protocol, num_test=5))[2] == list(rows.test[:5])


def test_a_train_split_that_is_too_small_is_refused_with_what_it_holds(rows: Rows, quick_protocol: Protocol) -> None:
    with pytest.raises(
        BadBenchmark, match="has 24 usable items, the protocol asks for num_train = 25; set num_train to 24"
    ):
        rows.sample(replace(quick_protocol, num_train=25))


def test_an_unknown_benchmark_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(BadBenchmark, match=r"no benchmark 'arc_hard'; known are .*arc_easy, .*svamp"):
        get("arc_hard")


def test_a_change_of_anything_that_decides_a_score_is_another_benchmark(toy_benchmark: Benchmark) -> None:
    changes: list[dict[str, Any]] = [
        {"cue": "\nA:"},
        {"stop": ()},
        {"version": 2},
        {"revision": "abc"},
        {"macro_average": True},
    ]
    fingerprints = {replace(toy_benchmark, **change).fingerprint for change in [{}, *changes]}
    assert len(fingerprints) == 1 + len(changes)


class Unstable(Number):
    """What it decides by is in no fingerprint."""

    __repr__ = object.__repr__


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chance": 1.0}, "chance is 1.0; expected a share from 0 to below 1"),
        ({"chance": -0.1}, "chance is -0.1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected 1 or more"),
        ({"stop": "\n"}, r"stop is '\\n'; expected a tuple of texts, such as \('\\n',\)"),
        ({"grammar": Number}, "grammar is <class .*Number'>; expected an instance of a grammar, such as"),
        ({"grammar": "Number"}, "grammar is 'Number'"),
        ({"grammar": Unstable()}, "grammar is <.*Unstable object at .*>; expected one whose repr is the same in every"),
    ],
)
def test_an_impossible_declaration_is_refused_by_name(
    toy_benchmark: Benchmark, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadBenchmark, match=f"^Benchmark 'toy_capitals': {says}"):
        replace(toy_benchmark, **change)


OWN = """
from softprompt.answers import Number
from softprompt.benchmarks import Benchmark, Example

BENCHMARK = Benchmark(
    name={name!r}, path="me/mine", grammar=Number(),
    to_example=lambda row: Example(question=row["q"], answer=row["a"], golds=(row["a"],)),
)
"""


def test_a_file_in_ones_own_folder_is_a_benchmark(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN.format(name="mine"))
    assert "mine" in names(str(tmp_path))
    assert "mine" not in names()
    assert get("mine", str(tmp_path)).path == "me/mine"
    assert get("svamp", str(tmp_path)) is get("svamp")


def test_a_file_of_ones_own_may_hold_dataclasses_with_late_annotations(tmp_path: Path) -> None:
    late = "from __future__ import annotations\nimport dataclasses\n"
    own = "@dataclasses.dataclass(frozen=True)\nclass Mine(Number):\n    most: int = 9\n\n"
    text = OWN.format(name="mine").replace("BENCHMARK =", f"{own}BENCHMARK =").replace("=Number()", "=Mine()")
    (tmp_path / "mine.py").write_text(late + text)
    assert repr(get("mine", str(tmp_path)).grammar).endswith("Mine(most=9)")


def test_a_file_of_ones_own_that_is_edited_is_another_version_of_its_benchmark(tmp_path: Path) -> None:
    def version(text: str) -> str:
        (tmp_path / "mine.py").write_text(text)
        return get("mine", str(tmp_path)).fingerprint

    own = OWN.format(name="mine")
    assert version(own) == version(f"# What we ask.\n{own}\n")
    assert version(own) != version(own.replace('answer=row["a"]', 'answer=row["a"] + "."'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("BENCHMARK = ", "mine.py cannot be used as a benchmark .*SyntaxError"),
        ("import nothing_of_this_name", "mine.py cannot be used as a benchmark .*ModuleNotFoundError"),
        ("benchmark = 3", "mine.py cannot be used as a benchmark .*no attribute 'BENCHMARK'"),
        ("BENCHMARK = 3", r"must set BENCHMARK = Benchmark\(name='mine'"),
        (OWN.format(name="other"), r"must set BENCHMARK = Benchmark\(name='mine'"),
    ],
)
def test_a_broken_file_of_ones_own_is_refused_at_once(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(BadBenchmark, match=message):
        get("mine", str(tmp_path))


def test_an_entry_point_that_leads_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = metadata.EntryPoint(name="mine", value="nothing_of_this_name:BENCHMARK", group="softprompt.benchmarks")
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [lost])
    with pytest.raises(BadBenchmark, match=r"^entry point nothing_of_this_name:BENCHMARK cannot be used .*ModuleNotF"):
        get("mine")


def test_a_file_of_ones_own_may_not_replace_a_shipped_benchmark(tmp_path: Path) -> None:
    (tmp_path / "svamp.py").write_text(OWN.format(name="svamp"))
    with pytest.raises(BadBenchmark, match="Two benchmarks are called 'svamp'; rename the one declared by"):
        names(str(tmp_path))


@pytest.mark.parametrize("name", names())
def test_the_docs_list_every_benchmark_as_it_is(name: str) -> None:
    b = get(name)
    row = f"| `{name}` | {b.dataset} | {b.train_split} / {b.test_split} | {type(b.grammar).__name__} | {b.chance:.2f} |"
    assert row in DOCS.read_text().splitlines()
