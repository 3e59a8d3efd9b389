"""WinoGrande, answered by letter: which of 2 names fills the blank of a sentence.

Dataset: https://huggingface.co/datasets/allenai/winogrande (winogrande_xl), CC BY.
Paper: Sakaguchi et al., "WinoGrande: An Adversarial Winograd Schema Challenge at Scale", arXiv:1907.10641.
Quirks: labels count from 1. The test split has no public labels; the validation split is the test split here.
"""

from softprompt.benchmarks import Row
from softprompt.options import Choice, Choices


def to_choice(row: Row) -> Choice:
    return Choice(
        question=f"Sentence: {row['sentence']}\nQuestion: What fills the blank?",
        options=(row["option1"], row["option2"]),
        gold=int(row["answer"]) - 1,
    )


CHOICES = Choices(
    path="allenai/winogrande", config="winogrande_xl", test_split="validation", chance=1 / 2, to_choice=to_choice
)
BENCHMARK = CHOICES.by_letter("winogrande")
