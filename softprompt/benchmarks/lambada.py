"""LAMBADA: the last word of a passage, which people guess only when they have read all of it.

Dataset: https://huggingface.co/datasets/cimec/lambada (plain_text), CC BY 4.0.
Paper: Paperno et al., "The LAMBADA dataset: Word prediction requiring a broad discourse context", arXiv:1606.06031.
Quirks: the train split is whole novels; the validation split, 4,869 passages made like those of the test split out of
other novels, tunes instead. Texts are lower-cased and tokenised ("do n't", "`` yes . ''"). The last word is asked for
under a cue, not as a bare continuation, so scores are not those of other harnesses.
"""

from softprompt.answers import Word
from softprompt.benchmarks import Benchmark, Example, Row


def to_example(row: Row) -> Example:
    passage, _, word = row["text"].strip().rpartition(" ")
    return Example(question=f"Passage: {passage} ...", answer=word, golds=(word,))


BENCHMARK = Benchmark(
    name="lambada",
    path="cimec/lambada",
    config="plain_text",
    train_split="validation",
    to_example=to_example,
    grammar=Word(),
    instruction="Which word comes next?",
    cue="\nNext word:",
    max_new_tokens=8,
)
