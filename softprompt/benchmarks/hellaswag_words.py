"""HellaSwag, answered in the words of the right option, which are listed below the question.

Dataset, paper and quirks: as `hellaswag`.
Copying an ending to the letter is much of the work: read `choice_accuracy` first.
"""

from softprompt.benchmarks.hellaswag import CHOICES

BENCHMARK = CHOICES.in_words("hellaswag_words")
