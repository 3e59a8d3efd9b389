"""SVAMP: one-step arithmetic word problems, answered with the bare number.

Dataset: https://huggingface.co/datasets/ChilleD/SVAMP, MIT.
Paper: Patel et al., "Are NLP Models really able to Solve Simple Math Word Problems?", arXiv:2103.07191.
Quirks: the hub's answers are decimals ('145.0'); whole ones are written without the fraction. A bare number forbids
writing the sum out, which small models need: compare with `gsm8k`, which asks for the reasoning.
"""

from softprompt.answers import Number
from softprompt.benchmarks import Benchmark, Example, Row


def to_example(row: Row) -> Example:
    value = float(row["Answer"])
    answer = str(int(value)) if value == int(value) else str(value)
    return Example(id=row["ID"], question=f"Question: {row['question_concat']}", answer=answer, golds=(answer,))


BENCHMARK = Benchmark(name="svamp", path="ChilleD/SVAMP", to_example=to_example, grammar=Number())
