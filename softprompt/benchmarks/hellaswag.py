"""HellaSwag, answered by letter: which of 4 endings continues a description of an everyday activity.

Dataset: https://huggingface.co/datasets/Rowan/hellaswag, MIT.
Paper: Zellers et al., "HellaSwag: Can a Machine Really Finish Your Sentence?", arXiv:1905.07830.
Quirks: the test split has no public labels; the validation split is the test split here. It starts with all captions
from ActivityNet; the two sources take turns, so that its first items hold both. WikiHow's marks ('[title]') are taken
out, as harnesses do.
"""

import re

from softprompt.benchmarks import Row
from softprompt.options import Choice, Choices


def clean(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\s+", " ", re.sub(r"\[.*?\]", "", text))


def to_choice(row: Row) -> Choice:
    return Choice(
        question=f"Context: {clean(row['activity_label'] + ': ' + row['ctx'])}\nQuestion: How does it go on?",
        options=tuple(clean(ending) for ending in row["endings"]),
        gold=int(row["label"]),
        group=row["source_id"].split("~")[0],
    )


CHOICES = Choices(path="Rowan/hellaswag", test_split="validation", chance=0.25, to_choice=to_choice, max_new_tokens=96)
BENCHMARK = CHOICES.by_letter("hellaswag")
