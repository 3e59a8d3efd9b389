"""WinoGrande, answered in the words of the right option, which are listed below the question.

Dataset, paper and quirks: as `winogrande`.
"""

from softprompt.benchmarks.winogrande import CHOICES

BENCHMARK = CHOICES.in_words("winogrande_words")
