"""Suites: benchmarks under one name, each in or out for a reason.

A study names one as `benchmarks = ["suite:core"]`. A rejected benchmark stays here with what was held against it. The
reasons are ours and qualitative: measure, and move a line.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from softprompt import benchmarks
from softprompt.errors import BadBenchmark

PREFIX = "suite:"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Reasons and the benchmarks that are in, and out, for them."""

    purpose: str
    chosen: dict[str, tuple[str, ...]]
    rejected: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for names in self.chosen.values() for name in names)


EARLY = Suite(
    purpose="models below about 1B parameters, and first checkpoints: what leaves chance early",
    chosen={
        "school and everyday facts, options of a few words": (
            "arc_easy_words",
            "openbookqa_words",
            "commonsense_qa_words",
            "siqa_words",
        ),
        "one word, no options: chance is no floor": ("lambada",),
        "facts recalled without options: chance is no floor": ("trivia_qa", "web_questions"),
    },
    rejected={
        "a letter measures position bias below about 1B parameters; the same items can be asked in words": (
            "arc_easy",
            "arc_challenge",
            "openbookqa",
            "commonsense_qa",
            "hellaswag",
            "piqa",
            "siqa",
            "winogrande",
            "mmlu",
        ),
        "small models stay near chance": ("arc_challenge_words", "winogrande_words", "mmlu_words"),
        "whole sentences must be copied to the letter": ("hellaswag_words", "piqa_words"),
        "two options: half is chance, which leaves little room for differences": ("boolq", "rte"),
        "several steps of arithmetic": ("gsm8k",),
        "a bare number forbids the steps that small models need": ("svamp",),
        "form more than knowledge": ("snips",),
    },
)

CORE = Suite(
    purpose="models that answer: one benchmark for each kind of knowledge and each kind of answer",
    chosen={
        "school science, easy and hard": ("arc_easy_words", "arc_challenge_words"),
        "everyday sense": ("commonsense_qa_words", "hellaswag_words", "piqa_words", "winogrande_words"),
        "57 subjects; its options point at one another, so letters": ("mmlu",),
        "reading": ("boolq", "lambada"),
        "facts recalled without options": ("trivia_qa",),
        "reasoning in steps": ("gsm8k",),
    },
    rejected={
        "the same items are in, asked in words": (
            "arc_easy",
            "arc_challenge",
            "commonsense_qa",
            "hellaswag",
            "piqa",
            "winogrande",
        ),
        "the same items are in, asked by letter": ("mmlu_words",),
        "too few test items to tell variants apart (500, and 277)": ("openbookqa", "openbookqa_words", "rte"),
        "as commonsense_qa_words, which is in": ("siqa", "siqa_words"),
        "a bare number hides what gsm8k, which is in, lets a model write out": ("svamp",),
        "as trivia_qa, which is in; some of its answers are out of date": ("web_questions",),
        "form more than knowledge; its rows are not on the hub": ("snips",),
    },
)

SUITES = {"early": EARLY, "core": CORE}


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Names of benchmarks and of suites (`suite:early`, `suite:core`, `suite:all`) as names of benchmarks, each once.

    Raises:
        BadBenchmark: there is no such suite.
    """
    return tuple(dict.fromkeys(found for name in names for found in _members(name)))


def _members(name: str) -> Iterator[str]:
    suite = name.removeprefix(PREFIX)
    if suite == name:
        yield name
    elif suite == "all":  # a Knowledge World's benchmarks need a world that was written first
        yield from (found for found in benchmarks.names() if not found.startswith("world_"))
    elif suite in SUITES:
        yield from SUITES[suite].names
    else:
        raise BadBenchmark(f"There is no suite {suite!r}; there are all, {', '.join(sorted(SUITES))}.")
