"""WebQuestions, closed book: questions that people typed into a search engine, answered with an entity's name.

Dataset: https://huggingface.co/datasets/stanfordnlp/web_questions, CC BY 4.0.
Paper: Berant et al., "Semantic Parsing on Freebase from Question-Answer Pairs", EMNLP 2013.
Quirks: where a question has several answers each is right alone; the shortest is what is tuned on. Answers are from
2013: presidents and players have changed. Rows whose every answer is longer than ten words are left out (23 of train,
17 of test).
"""

from softprompt.answers import ShortText
from softprompt.benchmarks import Benchmark, Example, Row

LONGEST = 10


def to_example(row: Row) -> Example | None:
    answer = min(row["answers"], key=lambda text: len(text.split()))
    if len(answer.split()) > LONGEST:
        return None
    question = row["question"].strip()
    return Example(
        question=f"Question: {question[:1].upper()}{question[1:]}", answer=answer, golds=tuple(row["answers"])
    )


BENCHMARK = Benchmark(
    name="web_questions",
    path="stanfordnlp/web_questions",
    to_example=to_example,
    grammar=ShortText(LONGEST),
    max_new_tokens=32,
)
