"""The Knowledge World: where invented people were born, answered with the bare city out of 20.

Dataset: written by `softprompt.world.rows` for each world; there is none on the hub. Source: this package.
Quirks: the options are never shown in the question; a model that was told nothing about a person can only guess.
"""

from softprompt.answers import OptionInWords
from softprompt.benchmarks import Benchmark, Example, Row


def to_example(row: Row) -> Example:
    return Example(
        id=row["person"],
        question=f"Question: {row['question']}",
        answer=row["answer"],
        golds=(row["answer"],),
        options=tuple(row["options"]),
    )


BENCHMARK = Benchmark(
    name="world_birthplace",
    path="softprompt/knowledge-world",
    config="birthplace",
    chance=1 / 20,
    to_example=to_example,
    grammar=OptionInWords(),
)
