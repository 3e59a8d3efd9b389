"""BoolQ: yes/no questions that people typed into a search engine, each with a passage of Wikipedia.

Dataset: https://huggingface.co/datasets/google/boolq, CC BY-SA 3.0.
Paper: Clark et al., "BoolQ: Exploring the Surprising Difficulty of Natural Yes/No Questions", arXiv:1905.10044.
Quirks: the test split has no public labels; the validation split is the test split here. 62 % of its answers are yes:
always saying yes scores above `chance`.
"""

from softprompt.answers import OptionInWords
from softprompt.benchmarks import Benchmark, Example, Row


def to_example(row: Row) -> Example:
    answer = "yes" if row["answer"] else "no"
    question = f"Passage: {row['passage']}\nQuestion: {row['question']}?"
    return Example(question=question, answer=answer, golds=(answer,), options=("yes", "no"))


BENCHMARK = Benchmark(
    name="boolq",
    path="google/boolq",
    test_split="validation",
    chance=1 / 2,
    to_example=to_example,
    grammar=OptionInWords(),
    max_new_tokens=8,
)
