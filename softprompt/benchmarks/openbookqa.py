"""OpenBookQA, answered by letter: elementary science questions with 4 options, asked without the book.

Dataset: https://huggingface.co/datasets/allenai/openbookqa (main), licence not stated by its authors.
Paper: Mihaylov et al., "Can a Suit of Armor Conduct Electricity?", arXiv:1809.02789.
Quirks: many questions are the start of a sentence that the right option ends.
"""

from softprompt.benchmarks import Row
from softprompt.options import Choice, Choices


def to_choice(row: Row) -> Choice:
    return Choice(
        id=row["id"],
        question=f"Question: {row['question_stem']}",
        options=tuple(row["choices"]["text"]),
        gold=row["choices"]["label"].index(row["answerKey"]),
    )


CHOICES = Choices(path="allenai/openbookqa", config="main", chance=0.25, to_choice=to_choice)
BENCHMARK = CHOICES.by_letter("openbookqa")
