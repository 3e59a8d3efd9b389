"""OpenBookQA, answered in the words of the right option, which are listed below the question.

Dataset, paper and quirks: as `openbookqa`.
"""

from softprompt.benchmarks.openbookqa import CHOICES

BENCHMARK = CHOICES.in_words("openbookqa_words")
