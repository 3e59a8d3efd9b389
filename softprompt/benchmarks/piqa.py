"""PIQA, answered by letter: which of 2 ways reaches an everyday physical goal.

Dataset: https://huggingface.co/datasets/lighteval/piqa (plain_text), AFL 3.0.
Paper: Bisk et al., "PIQA: Reasoning about Physical Commonsense in Natural Language", arXiv:1911.11641.
Quirks: the authors' repository, ybisk/piqa, is a loading script, which `datasets` no longer runs; this one holds the
same rows. The test split has no public labels; the validation split is the test split here.
"""

from softprompt.benchmarks import Row
from softprompt.options import Choice, Choices


def to_choice(row: Row) -> Choice:
    return Choice(question=f"Goal: {row['goal']}", options=(row["sol1"], row["sol2"]), gold=row["label"])


CHOICES = Choices(
    path="lighteval/piqa",
    config="plain_text",
    test_split="validation",
    chance=1 / 2,
    to_choice=to_choice,
    max_new_tokens=128,
)
BENCHMARK = CHOICES.by_letter("piqa")
