"""MMLU, answered by letter: exam questions of 57 subjects with 4 options, averaged over the subjects.

Dataset: https://huggingface.co/datasets/cais/mmlu (all), MIT.
Paper: Hendrycks et al., "Measuring Massive Multitask Language Understanding", arXiv:2009.03300.
Quirks: there is no train split of the same kind (auxiliary_train is other datasets), so the validation split, about
1,500 items of the same subjects, tunes and gives the shots; published 5-shot scores take theirs from dev. Subjects hold
100 to 1,534 test items and follow one another: they take turns here, and each counts alike.
"""

from softprompt.benchmarks import Row
from softprompt.options import Choice, Choices


def to_choice(row: Row) -> Choice:
    subject = row["subject"].replace("_", " ")
    return Choice(
        question=f"Subject: {subject}\nQuestion: {row['question']}",
        options=tuple(row["choices"]),
        gold=row["answer"],
        group=row["subject"],
    )


CHOICES = Choices(
    path="cais/mmlu", config="all", train_split="validation", chance=0.25, to_choice=to_choice, macro_average=True
)
BENCHMARK = CHOICES.by_letter("mmlu")
