"""MMLU, answered in the words of the right option, which are listed below the question.

Dataset, paper and quirks: as `mmlu`.
Options may point at one another ('A and B only'); listed without letters, such items cannot be solved.
"""

from softprompt.benchmarks.mmlu import CHOICES

BENCHMARK = CHOICES.in_words("mmlu_words")
