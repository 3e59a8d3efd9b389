"""Suites: every benchmark is in or out of each, and a study may name them."""

from pathlib import Path

import pytest

from softprompt import benchmarks
from softprompt.errors import BadBenchmark
from softprompt.study import Study
from softprompt.suites import SUITES, expand

SHIPPED = [name for name in benchmarks.names() if not name.startswith("world_")]


@pytest.mark.parametrize("suite", SUITES)
def test_every_shipped_benchmark_is_in_or_out_once_and_for_a_reason(suite: str) -> None:
    sides = (SUITES[suite].chosen, SUITES[suite].rejected)
    assert sorted(name for side in sides for names in side.values() for name in names) == SHIPPED
    assert all(reason for side in sides for reason in side)


def test_a_suite_stands_for_its_benchmarks_each_once() -> None:
    names = expand(["svamp", "suite:early", "arc_easy_words", "mine"])
    assert names == ("svamp", *SUITES["early"].names, "mine")
    assert sorted(expand(["suite:all"])) == SHIPPED


def test_an_unknown_suite_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadBenchmark, match="no suite 'hard'; there are all, core, early"):
        expand(["suite:hard"])


def test_a_study_names_a_suite(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('name = "s"\nbucket = "b"\nbenchmarks = ["suite:core", "world_pet"]\n')
    assert Study.read(file).benchmarks == (*SUITES["core"].names, "world_pet")


@pytest.mark.parametrize("suite", SUITES)
def test_the_docs_give_every_reason(suite: str) -> None:
    words = " ".join((Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text().split())
    for side, reasons in (("in", SUITES[suite].chosen), ("out", SUITES[suite].rejected)):
        for reason, names in reasons.items():
            assert f"- {side}: {', '.join(f'`{name}`' for name in names)} ({reason})" in words
