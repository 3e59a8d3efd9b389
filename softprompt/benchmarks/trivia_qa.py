"""TriviaQA, closed book: quiz questions, answered in a few words; every alias of the answer is right.

Dataset: https://huggingface.co/datasets/mandarjoshi/trivia_qa (rc.nocontext), licence not stated by its authors.
Paper: Joshi et al., "TriviaQA", arXiv:1705.03551.
Quirks: the test split has no public answers; the validation split is the test split here. Some questions stand in it
twice, with different documents that are not shown. Some answers are in capitals, as the quiz wrote them.
"""

from softprompt.answers import ShortText
from softprompt.benchmarks import Benchmark, Example, Row

LONGEST = 10


def to_example(row: Row) -> Example | None:
    answer = row["answer"]["value"].strip()
    if len(answer.split()) > LONGEST:  # lists and whole sentences, which are no short answers
        return None
    golds = tuple(dict.fromkeys([answer, *(alias for alias in row["answer"]["aliases"] if alias.strip())]))
    return Example(question=f"Question: {row['question'].strip()}", answer=answer, golds=golds)


BENCHMARK = Benchmark(
    name="trivia_qa",
    path="mandarjoshi/trivia_qa",
    config="rc.nocontext",
    test_split="validation",
    to_example=to_example,
    grammar=ShortText(LONGEST),
    max_new_tokens=32,
)
