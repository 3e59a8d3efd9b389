"""ARC-Challenge, answered in the words of the right option, which are listed below the question.

Dataset, paper and quirks: as `arc_challenge`.
"""

from softprompt.benchmarks.arc_challenge import CHOICES

BENCHMARK = CHOICES.in_words("arc_challenge_words")
