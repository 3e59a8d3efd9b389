"""Benchmarks: the shipped ones on real rows, and what happens to rows and files that do not fit."""

import functools
import importlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import WORDINGS, capital_rows

from softprompt.benchmarks import Benchmark, Example, Rows, get, load, names
from softprompt.errors import BadBenchmark
from softprompt.protocol import Protocol
from softprompt.world.facts import World
from softprompt.world.rows import write_rows

MIRROR = Path(os.environ.get("SOFTPROMPT_TEST_MIRROR", Path(__file__).parents[2] / "shared" / "data"))
WORLDS_OWN = [name for name in names() if name.startswith("world_")]
FROM_THE_HUB = [name for name in names() if name not in WORLDS_OWN]


@functools.cache
def shipped_rows(name: str) -> Rows:
    """The rows of a benchmark whose dataset lies on the hub, from the mirror of it."""
    benchmark = get(name)
    if not (MIRROR / benchmark.path / (benchmark.config or "")).is_dir():
        pytest.skip(f"no rows of {benchmark.path} in {MIRROR}; name a mirror of the hub in SOFTPROMPT_TEST_MIRROR")
    return load(benchmark, str(MIRROR))


def write_split(mirror: Path, benchmark: Benchmark, split: str, rows: list[dict[str, Any]]) -> None:
    folder = mirror / benchmark.path / (benchmark.config or "")
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")


def assert_a_perfect_output_is_right(benchmark: Benchmark, example: Example) -> None:
    """The target of the tuning, cut where its generation would be, follows the format and is right."""
    output = f" {example.answer}"
    for mark in benchmark.stop:
        output = output.split(mark)[0]
    answer = benchmark.grammar.strict(output, example)
    assert answer is not None, example
    assert benchmark.grammar.is_right(answer, example), example
    assert benchmark.grammar.is_right(benchmark.grammar.lenient(output, example), example), example


@pytest.mark.parametrize("name", names())
def test_a_shipped_benchmark_names_its_sources(name: str) -> None:
    module = importlib.import_module(f"softprompt.benchmarks.{name}")
    assert module.BENCHMARK is get(name)
    assert module.__doc__
    assert "Dataset" in module.__doc__


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_a_perfect_output_is_right_on_every_shipped_row(name: str) -> None:
    rows, benchmark = shipped_rows(name), get(name)
    for example in (*rows.train, *rows.test):
        assert_a_perfect_output_is_right(benchmark, example)


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_every_shipped_item_has_an_id_of_its_own(name: str) -> None:
    rows = shipped_rows(name)
    for split in (rows.train, rows.test):
        assert len({example.id for example in split}) == len(split)


@pytest.mark.parametrize("name", ["arc_easy", "arc_easy_words"])
def test_items_that_stand_in_both_splits_are_dropped_from_train_and_counted(name: str) -> None:
    rows = shipped_rows(name)
    assert rows.num_contaminated == 2
    assert (len(rows.train), len(rows.test)) == (2251 - 2, 2376)


@pytest.mark.parametrize("name", WORLDS_OWN)
def test_the_worlds_rows_fit_their_benchmark(tmp_path: Path, name: str) -> None:
    world = World(3, num_asked=5, num_train=20, num_test=30)
    write_rows(world, tmp_path)
    benchmark = get(name)
    rows = load(benchmark, str(tmp_path))
    assert [example.id for example in rows.train] == list(world.train)
    assert [example.id for example in rows.test] == list(world.test)
    for example in (*rows.train, *rows.test):
        assert example.answer == world.facts[example.id, benchmark.config or ""]
        assert benchmark.chance == 1 / len(example.options)
        assert_a_perfect_output_is_right(benchmark, example)


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
    rows = load(toy_benchmark, str(tmp_path))
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
    rows = load(toy_benchmark, str(tmp_path))
    assert (len(rows.train), len(rows.test), rows.num_contaminated) == (9, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": None}, r"does not fit the declaration \(TypeError: .*it has the fields question, capital"),
        ({"capital": " "}, "has no gold answer"),
        ({"capital": None}, "has no gold answer"),
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
        load(toy_benchmark, str(tmp_path))


def test_rows_with_other_fields_are_refused_with_the_fields_they_have(tmp_path: Path, toy_benchmark: Benchmark) -> None:
    write_split(tmp_path, toy_benchmark, "test", [{"query": "?", "label": 1}])
    with pytest.raises(BadBenchmark, match=r"row 0 .*KeyError: 'question'.* has the fields query, label"):
        load(toy_benchmark, str(tmp_path))


def test_a_mirror_without_the_dataset_is_named(tmp_path: Path, toy_benchmark: Benchmark) -> None:
    with pytest.raises(BadBenchmark, match=f"toy/capitals, split 'test' cannot be read from the mirror {tmp_path}"):
        load(toy_benchmark, str(tmp_path))


def test_a_mirror_without_the_split_is_named(tmp_path: Path, toy_benchmark: Benchmark) -> None:
    write_split(tmp_path, toy_benchmark, "test", capital_rows(WORDINGS[0]))
    with pytest.raises(BadBenchmark, match="split 'train' cannot be read from the mirror"):
        load(toy_benchmark, str(tmp_path))


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
    with pytest.raises(BadBenchmark, match=r"no benchmark 'arc_hard'; known are arc_easy, .*svamp"):
        get("arc_hard")


def test_a_change_of_anything_that_decides_a_score_is_another_benchmark(toy_benchmark: Benchmark) -> None:
    changes: list[dict[str, Any]] = [{"cue": "\nA:"}, {"stop": ()}, {"version": 2}, {"revision": "abc"}]
    fingerprints = {replace(toy_benchmark, **change).fingerprint for change in [{}, *changes]}
    assert len(fingerprints) == 1 + len(changes)


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


def test_a_file_of_ones_own_may_not_replace_a_shipped_benchmark(tmp_path: Path) -> None:
    (tmp_path / "svamp.py").write_text(OWN.format(name="svamp"))
    with pytest.raises(BadBenchmark, match="Two benchmarks are called 'svamp'; rename the one declared by"):
        names(str(tmp_path))
