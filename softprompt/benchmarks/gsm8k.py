"""GSM8K: grade-school word problems, answered by reasoning that ends in '#### n'.

Dataset: https://huggingface.co/datasets/openai/gsm8k (main), MIT.
Paper: Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168.
Quirks: gold solutions carry calculator marks like '<<3*4=12>>' and a few blank lines, which are taken out
of the training targets.
"""

import re

from softprompt.answers import ReasonedNumber
from softprompt.benchmarks import Benchmark, Example, Row


def to_example(row: Row) -> Example:
    reasoning, number = re.sub(r"<<.*?>>", "", row["answer"]).split("####")
    reasoning = re.sub(r"\n\s*\n", "\n", reasoning)  # a blank line is where an answer ends
    return Example(
        question=f"Question: {row['question']}",
        answer=f"{reasoning.strip()}\n#### {number.strip()}",
        golds=(number.strip(),),
    )


BENCHMARK = Benchmark(
    name="gsm8k",
    path="openai/gsm8k",
    config="main",
    to_example=to_example,
    grammar=ReasonedNumber(),
    stop=("\n\n", "\nQuestion:"),
    max_new_tokens=256,
)
