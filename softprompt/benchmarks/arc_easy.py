"""ARC-Easy, answered by letter: grade-school science questions with 3 to 5 options.

Dataset: https://huggingface.co/datasets/allenai/ai2_arc (ARC-Easy), CC BY-SA 4.0.
Paper: Clark et al., "Think you have Solved Question Answering? Try ARC", arXiv:1803.05457.
Quirks: a few rows label their options 1-4 instead of A-D; they are relabelled. Below about 1B parameters a letter
measures position bias rather than knowledge: read it beside `arc_easy_words`.
"""

from softprompt.benchmarks import Row
from softprompt.options import Choice, Choices


def to_choice(row: Row) -> Choice:
    return Choice(
        id=row["id"],
        question=f"Question: {row['question']}",
        options=tuple(row["choices"]["text"]),
        gold=row["choices"]["label"].index(row["answerKey"]),
    )


CHOICES = Choices(path="allenai/ai2_arc", config="ARC-Easy", chance=0.25, to_choice=to_choice, version=3)
BENCHMARK = CHOICES.by_letter("arc_easy")
