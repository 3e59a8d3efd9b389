"""ARC-Easy, answered in the words of the right option, which are listed below the question.

Dataset and paper: as `arc_easy`.
Quirks: options may be whole sentences; a row whose options coincide after folding case is still scored by its text.
"""

from softprompt.benchmarks.arc_easy import CHOICES

BENCHMARK = CHOICES.in_words("arc_easy_words")
