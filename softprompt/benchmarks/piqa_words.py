"""PIQA, answered in the words of the right option, which are listed below the question.

Dataset, paper and quirks: as `piqa`.
Copying a solution to the letter is much of the work: read `choice_accuracy` first.
"""

from softprompt.benchmarks.piqa import CHOICES

BENCHMARK = CHOICES.in_words("piqa_words")
