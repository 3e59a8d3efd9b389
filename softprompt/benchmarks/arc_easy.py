"""ARC-Easy, answered by letter: grade-school science questions with 3 to 5 options.

Dataset: https://huggingface.co/datasets/allenai/ai2_arc (ARC-Easy), CC BY-SA 4.0.
Paper: Clark et al., "Think you have Solved Question Answering? Try ARC", arXiv:1803.05457.
Quirks: a few rows label their options 1-4 instead of A-D; they are relabelled. Below about 1B parameters a letter
measures position bias rather than knowledge: read it beside `arc_easy_words`.
"""

from softprompt.answers import Letter
from softprompt.benchmarks import Benchmark, Example, Row

LETTERS = "ABCDE"


def to_example(row: Row) -> Example:
    texts = row["choices"]["text"]
    gold = LETTERS[row["choices"]["label"].index(row["answerKey"])]
    options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    return Example(
        id=row["id"],
        question=f"Question: {row['question']}\n{options}",
        answer=gold,
        golds=(gold,),
        options=tuple(LETTERS[: len(texts)]),
    )


BENCHMARK = Benchmark(
    name="arc_easy",
    path="allenai/ai2_arc",
    config="ARC-Easy",
    chance=0.25,
    to_example=to_example,
    grammar=Letter(),
    max_new_tokens=8,
)
