"""RTE: does a sentence follow from a short text, yes or no.

Dataset: https://huggingface.co/datasets/aps/super_glue (rte); for the licence see its authors.
Paper: Wang et al., "SuperGLUE", arXiv:1905.00537; the texts are those of the PASCAL challenges RTE 1, 2, 3 and 5.
Quirks: label 0 is entailment. The test split has no public labels; the validation split is the test split here, and it
is small (277 items). Some pairs share their text, so the pair is what counts as the same item.
"""

from softprompt.answers import OptionInWords
from softprompt.benchmarks import Benchmark, Example, Row


def to_example(row: Row) -> Example:
    answer = {0: "yes", 1: "no"}[row["label"]]
    question = f'Text: {row["premise"]}\nQuestion: Does it follow that "{row["hypothesis"]}"?'
    return Example(question=question, answer=answer, golds=(answer,), options=("yes", "no"))


BENCHMARK = Benchmark(
    name="rte",
    path="aps/super_glue",
    config="rte",
    test_split="validation",
    chance=1 / 2,
    to_example=to_example,
    grammar=OptionInWords(),
    max_new_tokens=8,
)
