"""A benchmark's rows, read from the hub or a folder laid out like it, and checked: none stands in both splits."""

import os
import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from softprompt.benchmarks import Benchmark, Example
from softprompt.errors import BadBenchmark, RowsUnavailable
from softprompt.files import expand_user
from softprompt.protocol import Protocol

MIRROR_VARIABLE = "SOFTPROMPT_MIRROR"


@dataclass(frozen=True)
class Rows:
    """A benchmark's examples, ready to use."""

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    num_contaminated: int = 0
    """Train items that were dropped because they also stand in the test split."""

    def __post_init__(self) -> None:
        """Raise `BadBenchmark` if two items of a split share an id, by which outcomes are kept apart."""
        for split, examples in (("train", self.train), ("test", self.test)):
            num_of = Counter(example.id for example in examples)
            if twin := next((example for example in examples if num_of[example.id] > 1), None):
                raise BadBenchmark(
                    f"{num_of[twin.id]} items of the {split} split have the id {twin.id!r} ({twin.question[:60]!r} is "
                    "one); give each an id of its own."
                )

    def sample(self, protocol: Protocol) -> tuple[list[Example], list[Example], list[Example]]:
        """(shots, training samples, test items) of a protocol: the same for every checkpoint and variant.

        The shots are the first of the training samples, so that few-shot and soft prompt draw on the same rows.
        """
        if len(self.train) < protocol.num_train:
            raise BadBenchmark(
                f"The train split has {len(self.train)} usable items, the protocol asks for "
                f"num_train = {protocol.num_train}; set num_train to {len(self.train)} or less."
            )
        train = list(self.train)
        random.Random(0).shuffle(train)
        train = train[: protocol.num_train]
        return train[: protocol.num_shots], train, list(self.test[: protocol.num_test])


def load_rows(benchmark: Benchmark, mirror: str | PathLike[str] | None = None) -> Rows:
    """Read a benchmark's rows from the hub, or from a folder laid out like it.

    Args:
        mirror: see `mirror_folder`. It holds `<path>/<config>/<split>-*.parquet` as the hub does; a dataset without
            configurations may keep its files in any folder of its own, such as `data`.

    Raises:
        BadBenchmark: the dataset cannot be had, or a row does not fit the declaration.
    """
    folder = mirror_folder(mirror)
    test = _in_turns(_examples(benchmark, benchmark.test_split, folder))
    train = _examples(benchmark, benchmark.train_split, folder)
    seen = set(map(_identity, test))
    clean = tuple(example for example in train if _identity(example) not in seen)
    return Rows(train=clean, test=tuple(test), num_contaminated=len(train) - len(clean))


def mirror_folder(mirror: str | PathLike[str] | None) -> Path | None:
    """Where rows are read from: `mirror`, or else what `$SOFTPROMPT_MIRROR` names; None for the hub.

    Raises:
        RowsUnavailable: there is no such folder.
    """
    named = mirror or os.environ.get(MIRROR_VARIABLE)
    folder = expand_user(named).absolute() if named else None  # a relative path could be taken for a name on the hub
    if folder and not folder.is_dir():
        raise RowsUnavailable(
            f"There is no folder {named}, from which rows should be read; create it, or correct "
            f"{'`mirror`' if mirror else MIRROR_VARIABLE}."
        )
    return folder


def _examples(benchmark: Benchmark, split: str, mirror: Path | None) -> list[Example]:
    import datasets

    datasets.disable_progress_bars()
    where = f"{benchmark.dataset}, split {split!r}"
    try:
        if mirror:
            # The files are named because left to itself `datasets` counts those of a dev split to validation.
            files = f"{benchmark.config or '**'}/{split}-*.parquet"
            data = datasets.load_dataset(str(mirror / benchmark.path), data_files={split: files}, split=split)
        else:
            data = datasets.load_dataset(benchmark.path, benchmark.config, split=split, revision=benchmark.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        place, remedy = "the hub", "check the name, the connection and HF_TOKEN, or name a mirror that holds it"
        if mirror:
            place = f"the mirror {mirror}"
            remedy = f"expected {split}-*.parquet in {mirror / benchmark.path / (benchmark.config or '*')}"
        reason = str(error).strip().splitlines()[0]
        raise RowsUnavailable(
            f"Benchmark {benchmark.name!r}: {where} cannot be read from {place} ({reason}); {remedy}."
        ) from error
    examples = []
    for index, row in enumerate(data):
        try:
            example = benchmark.to_example(row)
        except Exception as error:  # of whatever kind a team's own code may raise
            raise BadBenchmark(
                f"Benchmark {benchmark.name!r}: row {index} of {where} does not fit the declaration "
                f"({type(error).__name__}: {error}); it has the fields {', '.join(row)}."
            ) from error
        if example is None:
            continue
        problem = _problem(example)
        if problem:
            raise BadBenchmark(f"Benchmark {benchmark.name!r}: row {index} of {where} {problem}.")
        examples.append(replace(example, id=example.id or f"{split}-{index}"))
    if not examples:
        raise BadBenchmark(f"Benchmark {benchmark.name!r}: {where} has no rows.")
    return examples


def _problem(example: Example) -> str | None:
    if not isinstance(example, Example):
        return f"becomes {example!r}; expected an Example of to_example, or None for a row that is no item"
    for name in ("question", "answer", "id", "group", "identity"):
        if not isinstance(found := getattr(example, name), str | None):
            return f"has the {name} {found!r}; expected text"
    if not (example.question or "").strip():
        return "has an empty question"
    if not (example.answer or "").strip() or not example.golds:
        return "has no gold answer"
    for name in ("golds", "options"):
        found = getattr(example, name)
        if not isinstance(found, tuple | list) or not all(isinstance(text, str) for text in found):
            return f"has the {name} {found!r}; expected a tuple of texts"
    if example.options and not set(example.golds) & set(example.options):
        return f"has gold {example.golds!r}, which is not among its options {example.options!r}"
    return None


def _identity(example: Example) -> str:
    """Without case, white space and punctuation."""
    return re.sub(r"[\W_]+", "", (example.identity or example.question).casefold())


def _in_turns(examples: list[Example]) -> list[Example]:
    """One example of every group, then another one of every group, and so on; without groups, the same order."""
    num_before: Counter[str] = Counter()
    turns = []
    for example in examples:
        turns.append((num_before[example.group], example))
        num_before[example.group] += 1
    return [example for _, example in sorted(turns, key=lambda turn: turn[0])]
