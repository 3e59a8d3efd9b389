"""SIQA, answered in the words of the right option, which are listed below the question.

Dataset, paper and quirks: as `siqa`.
"""

from softprompt.benchmarks.siqa import CHOICES

BENCHMARK = CHOICES.in_words("siqa_words")
