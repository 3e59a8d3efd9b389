"""ARC-Easy, answered in the words of the right option, which are listed before the question.

Dataset: https://huggingface.co/datasets/allenai/ai2_arc (ARC-Easy), CC BY-SA 4.0.
Paper: Clark et al., "Think you have Solved Question Answering? Try ARC", arXiv:1803.05457.
Quirks: options may be whole sentences; a row whose options coincide after folding case is still scored by its text.
"""

from softprompt.answers import OptionInWords
from softprompt.benchmarks import Benchmark, Example, Row


def to_example(row: Row) -> Example:
    texts = [text.strip() for text in row["choices"]["text"]]
    gold = texts[row["choices"]["label"].index(row["answerKey"])]
    return Example(
        id=row["id"],
        question="Options:\n" + "\n".join(f"- {text}" for text in texts) + f"\nQuestion: {row['question']}",
        answer=gold,
        golds=(gold,),
        options=tuple(texts),
    )


BENCHMARK = Benchmark(
    name="arc_easy_words",
    path="allenai/ai2_arc",
    config="ARC-Easy",
    chance=0.25,
    to_example=to_example,
    grammar=OptionInWords(),
    max_new_tokens=48,
)
