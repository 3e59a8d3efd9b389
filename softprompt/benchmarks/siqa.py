"""SIQA (Social IQa), answered by letter: what people feel, want or do next, with 3 options.

Dataset: https://huggingface.co/datasets/lighteval/siqa, licence not stated there.
Paper: Sap et al., "SocialIQA: Commonsense Reasoning about Social Interactions", arXiv:1904.09728.
Quirks: the authors' repository, allenai/social_i_qa, is a loading script, which `datasets` no longer runs; this one
holds the same rows. Labels count from 1. The test split is not public; the validation split is the test split here.
"""

from softprompt.benchmarks import Row
from softprompt.options import Choice, Choices


def to_choice(row: Row) -> Choice:
    return Choice(
        question=f"Context: {row['context']}\nQuestion: {row['question']}",
        options=(row["answerA"], row["answerB"], row["answerC"]),
        gold=int(row["label"]) - 1,
    )


CHOICES = Choices(path="lighteval/siqa", test_split="validation", chance=1 / 3, to_choice=to_choice)
BENCHMARK = CHOICES.by_letter("siqa")
